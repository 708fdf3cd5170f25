"""Probabilities of classes -> top-1, top-5, confusions, and predictions.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from efficientnet.common.errors import UserError
from efficientnet.metrics.bootstrap import interval

TOP = 5  # classes in a line of predictions.csv
SAMPLES = 2000


class Prediction(NamedTuple):
    """One line of predictions.csv: the classes with the highest probabilities, best first.

    label: the true class, "" if unknown.
    """

    file: str
    label: str
    classes: Sequence[str]
    probabilities: Sequence[float]


@dataclass(frozen=True)
class Scores:
    """The scores of N images with labels, among C classes.

    labels, predicted: int (N,).  ranks: int (N,), how many classes are more probable than the true one.
    """

    classes: Sequence[str]
    labels: np.ndarray
    predicted: np.ndarray
    ranks: np.ndarray

    @classmethod
    def of(cls, classes: Sequence[str], labels: np.ndarray, scores: np.ndarray) -> Scores:
        """Scores from logits or probabilities (N, C). Of equal ones, the class that comes first counts as higher."""
        own = np.take_along_axis(scores, labels[:, None], axis=1)
        before = np.arange(scores.shape[1]) < labels[:, None]
        ranks = ((scores > own) | ((scores == own) & before)).sum(axis=1)
        return cls(classes, labels, scores.argmax(axis=1), ranks)

    def top(self, count: int) -> float | None:
        """The share of images whose true class is among the `count` most probable ones; None without images."""
        return float((self.ranks < count).mean()) if len(self.ranks) else None

    @cached_property
    def confusions(self) -> list[tuple[str, str, int, int]]:
        """(true class, predicted class, images, images of the true class) of every confusion, most images first."""
        wrong = self.predicted != self.labels
        pairs = np.stack([self.labels[wrong], self.predicted[wrong]], axis=1)
        found, counts = np.unique(pairs, axis=0, return_counts=True)
        sizes = np.bincount(self.labels, minlength=len(self.classes))
        return [
            (
                self.classes[found[place, 0]],
                self.classes[found[place, 1]],
                int(counts[place]),
                int(sizes[found[place, 0]]),
            )
            for place in np.argsort(-counts, kind="stable")
        ]

    @cached_property
    def by_class(self) -> dict[str, dict[str, Any]]:
        """Images and top-1 of every class that has images, by name."""
        sizes = np.bincount(self.labels, minlength=len(self.classes))
        right = np.bincount(self.labels[self.predicted == self.labels], minlength=len(self.classes))
        return {
            name: {"images": int(size), "top1": float(hits / size)}
            for name, size, hits in zip(self.classes, sizes, right, strict=True)
            if size
        }

    def figures(self) -> dict[str, Any]:
        """Everything for metrics.json: top-1 and top-5 with their intervals, the classes and the worst confusions."""
        return {
            "images": len(self.labels),
            "num_classes": len(self.classes),
            "top1": self.top(1),
            "top1_interval": share_interval(self.top(1), len(self.labels)),
            "top5": self.top(5),
            "top5_interval": share_interval(self.top(5), len(self.labels)),
            "mean_class_top1": float(np.mean([each["top1"] for each in self.by_class.values()])),
            "confusions": [
                {"class": true, "predicted": predicted, "images": count, "of": size}
                for true, predicted, count, size in self.confusions[:20]
            ],
            "classes": self.by_class,
        }


def share_interval(share: float | None, count: int) -> list[float] | None:
    """The 95 % bootstrap interval of a share of `count` images; None without images.

    Images drawn with replacement hit a share p of them a binomial number of times, so no image need be drawn.
    Source: Efron and Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13.
    """
    if not count:
        return None
    drawn = np.random.default_rng(0).binomial(count, share, SAMPLES) / count
    return list(interval(drawn))


def percent(share: float) -> str:
    return f"{100 * share:.2f}"


def score_line(figures: dict[str, Any]) -> str:
    """Top-1 and, of more than five classes, top-5, with their intervals in one line."""
    parts = []
    for name, title in (("top1", "top-1"), ("top5", "top-5"))[: 2 if figures["num_classes"] > TOP else 1]:
        low, high = figures[f"{name}_interval"]
        parts.append(f"{title} {percent(figures[name])} % ({percent(low)} to {percent(high)})")
    return f"{', '.join(parts)}, {figures['images']:,} images"


def as_text(figures: dict[str, Any], count: int = 5) -> str:
    """The classes with the lowest top-1 and the most frequent confusions, for a terminal."""
    classes = sorted(figures["classes"].items(), key=lambda item: item[1]["top1"])[:count]
    width = max([len("lowest top-1"), *(len(name) for name, _ in classes)])
    lines = [f"{'lowest top-1':<{width}}   top-1 %    images"]
    lines += [f"{name:<{width}}{percent(each['top1']):>10}{each['images']:>10,}" for name, each in classes]
    if figures["confusions"]:
        lines += ["", "most frequent confusions"]
        lines += [
            f"  {each['class']} taken for {each['predicted']}: {each['images']:,} of {each['of']:,}"
            for each in figures["confusions"][:count]
        ]
    lines += ["", "The interval is a 95 % bootstrap interval over images."]
    return "\n".join(lines)


def predictions_csv(predictions: Sequence[Prediction]) -> bytes:
    """predictions.csv. The column label is there if any image has one."""
    labelled = any(each.label for each in predictions)
    most = max((len(each.classes) for each in predictions), default=0)
    header = ["file", *(["label"] if labelled else []), "class", "probability"]
    header += [f"{name}_{place}" for place in range(2, 1 + most) for name in ("class", "probability")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    for each in predictions:
        pairs = [
            cell
            for name, value in zip(each.classes, each.probabilities, strict=True)
            for cell in (name, f"{value:.6g}")
        ]
        writer.writerow([each.file, *([each.label] if labelled else []), *pairs])
    return text.getvalue().encode("utf-8", errors="surrogateescape")


def predictions_of(
    files: Sequence[str], labels: Sequence[str], classes: Sequence[str], probabilities: np.ndarray
) -> list[Prediction]:
    """A `Prediction` for each of N files from probabilities (N, C); files whose probabilities are nan are left out."""
    found = []
    for file, label, row in zip(files, labels, probabilities, strict=True):
        if not np.isnan(row[0]):
            best = np.argsort(-row, kind="stable")[:TOP]
            found.append(Prediction(file, label, [classes[place] for place in best], row[best].tolist()))
    return found


def read_predictions(name: str, content: bytes) -> dict[str, Prediction]:
    """The lines of predictions.csv by file.  name: for messages. Raises UserError for another table."""
    try:
        rows = {}
        for row in csv.DictReader(io.StringIO(content.decode("utf-8", errors="surrogateescape"))):
            places = ["", *(f"_{place}" for place in range(2, 1 + TOP) if row.get(f"class_{place}"))]
            probabilities = [float(row[f"probability{place}"]) for place in places]
            if not all(0 <= value <= 1 for value in probabilities):
                raise ValueError
            classes = [row[f"class{place}"] for place in places]
            rows[row["file"]] = Prediction(row["file"], row.get("label", ""), classes, probabilities)
    except (KeyError, TypeError, ValueError, csv.Error):
        rows = {}
    if not rows:
        raise UserError(f"{name}: not a predictions.csv of train.py or evaluate.py (file, label, class, probability)")
    return rows
