"""Probabilities per image -> one per breast -> metrics, predictions.csv and submission.csv."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from efficientnet.mammography.table import Breast, Table
from efficientnet.mammography.targets import Target, output_slices
from efficientnet.metrics.bootstrap import Draws, summarise


@dataclass(frozen=True)
class BreastScores:
    """Labels and probabilities (B, T) of the T binary targets of the B breasts with at least one scored image.

    images: (B,), the number of scored images; for joint views of all.  unscored: breasts without a readable image.
    """

    breasts: tuple[Breast, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    images: np.ndarray
    unscored: tuple[Breast, ...]

    @property
    def labelled(self) -> BreastScores:
        """The breasts with a label for the first target."""
        return self.chosen(~np.isnan(self.labels[:, 0]))

    def chosen(self, use: np.ndarray) -> BreastScores:
        """The breasts where `use` (B,) is true."""
        breasts = tuple(itertools.compress(self.breasts, use))
        return BreastScores(breasts, self.labels[use], self.probabilities[use], self.images[use], self.unscored)

    @property
    def patients(self) -> list[str]:
        """The patient of each breast."""
        return [breast.patient_id for breast in self.breasts]

    @property
    def draws(self) -> Draws:
        """Bootstrap draws of the patients, the same in whatever order the breasts are."""
        return Draws.of(sorted(set(self.patients)))

    def metrics(self, threshold: float | None = None, intervals: bool = False) -> dict[str, Any]:
        """`metrics.bootstrap.summarise` of the first target of the labelled breasts; `intervals` resamples patients."""
        known = self.labelled
        groups, draws = (known.patients, known.draws) if intervals else (None, None)
        return summarise(known.labels[:, 0], known.probabilities[:, 0], groups, threshold, draws=draws)


def score_breasts(
    table: Table, indices: Sequence[int], probabilities: np.ndarray, method: str = "mean"
) -> BreastScores:
    """Combine the outputs of each breast's images to one probability per binary target: their mean or maximum.

    indices (n,): rows of `table`, each at most once; its breasts if the method is "joint".  probabilities (n, O): of
    these, see `targets.output_probabilities`.
    """
    if method not in ("mean", "max", "joint"):
        raise ValueError(f'method is "mean", "max" or "joint", not {method!r}')
    binary = [column for column, target in enumerate(table.targets) if target.kind == "binary"]
    outputs = [output_slices(table.targets)[column].start for column in binary]
    probabilities = np.asarray(probabilities, dtype=np.float64)[:, outputs]
    place = np.full(len(table.breasts if method == "joint" else table.rows), -1)
    place[np.asarray(indices, dtype=int)] = np.arange(len(indices))
    scored, unscored, values, counts = [], [], [], []
    for number, breast in enumerate(table.breasts):
        members = (number,) if method == "joint" else breast.rows
        found = [place[member] for member in members if place[member] >= 0]
        if not found:
            unscored.append(breast)
            continue
        scored.append(number)
        values.append(probabilities[found].max(0) if method == "max" else probabilities[found].mean(0))
        counts.append(len(breast.rows) if method == "joint" else len(found))
    return BreastScores(
        tuple(table.breasts[number] for number in scored),
        table.breast_labels[scored][:, binary].astype(np.float64),
        np.array(values, dtype=np.float64).reshape(-1, len(binary)),
        np.array(counts, dtype=int),
        tuple(unscored),
    )


def bytes_of(write: Callable[..., None], *arguments: Any) -> bytes:
    """Return as bytes what `write(file, *arguments)` writes to a text file."""
    file = io.StringIO()
    write(file, *arguments)
    return file.getvalue().encode(errors="surrogateescape")


def write_predictions(
    file: IO[str], scores: BreastScores, targets: Sequence[Target], fold_of: Mapping[str, int] | None = None
) -> None:
    """Write a line per breast: patient_id, laterality, prediction_id, fold, label and probability of binary targets."""
    writer = csv.writer(file, lineterminator="\n")
    names = [target.name for target in targets if target.kind == "binary"]
    columns = [column for name in names for column in (name, f"{name}_probability")]
    writer.writerow(["patient_id", "laterality", "prediction_id", "fold", *columns])
    for breast, labels, values in zip(scores.breasts, scores.labels, scores.probabilities, strict=True):
        cells = []
        for label, value in zip(labels, values, strict=True):
            cells += ["" if np.isnan(label) else int(label), f"{value:.7g}"]
        fold = "" if fold_of is None else fold_of.get(breast.patient_id, "")
        writer.writerow([breast.patient_id, breast.laterality, breast.prediction_id, fold, *cells])


def write_images(file: IO[str], table: Table, probabilities: np.ndarray) -> None:
    """Write a line per readable image: patient_id, image_id, laterality, and what it says about each target.

    That is the probability of a binary target, the most probable category and its probability, or the number.
    probabilities (N, O): of the table's rows; nan for unreadable images.
    """
    slices, columns = output_slices(table.targets), []
    for target in table.targets:
        columns += [] if target.kind == "binary" else [target.name]
        columns += [] if target.kind == "number" else [f"{target.name}_probability"]
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["patient_id", "image_id", "laterality", *columns])
    for row, values in zip(table.rows, probabilities, strict=True):
        if np.isnan(values[0]):
            continue
        cells = []
        for target, outputs in zip(table.targets, slices, strict=True):
            own = values[outputs]
            if target.kind == "category":
                cells += [target.values[int(own.argmax())], f"{own.max():.7g}"]
            else:
                cells.append(f"{target.mean + target.std * own[0] if target.kind == 'number' else own[0]:.7g}")
        writer.writerow([row.patient_id, row.image_id, row.laterality, *cells])


def write_submission(
    file: IO[str], table: Table, scores: BreastScores, prior: float, threshold: float | None = None
) -> None:
    """Write Kaggle's format: prediction_id and cancer (the first target), one row per breast in the table's order.

    With a threshold, cancer is 1 where the probability is at least the threshold, and otherwise 0. A breast without a
    readable image gets 0, or without a threshold `prior`: a missing row would make the whole submission invalid.
    """
    known = {
        breast.prediction_id: value for breast, value in zip(scores.breasts, scores.probabilities[:, 0], strict=True)
    }
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["prediction_id", "cancer"])
    for breast in table.breasts:
        value = known.get(breast.prediction_id, prior if threshold is None else -np.inf)
        writer.writerow([breast.prediction_id, f"{value:.7g}" if threshold is None else int(value >= threshold)])
