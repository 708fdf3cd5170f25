"""Probabilities per image -> one per breast -> metrics, predictions.csv and submission.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np

from efficientnet.mammography.table import Breast, Table
from efficientnet.metrics import summarise


@dataclass(frozen=True)
class BreastScores:
    """Labels and probabilities (B, T) of the B breasts with at least one scored image.

    images: (B,), the number of scored images.  unscored: breasts without a readable image.
    """

    breasts: tuple[Breast, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    images: np.ndarray
    unscored: tuple[Breast, ...]

    def metrics(self, threshold: float | None = None, intervals: bool = False) -> dict[str, Any]:
        """`metrics.summarise` for the first target over the labelled breasts; `intervals` resamples patients."""
        known = ~np.isnan(self.labels[:, 0])
        patients = [breast.patient_id for breast, use in zip(self.breasts, known, strict=True) if use]
        return summarise(
            self.labels[known, 0],
            self.probabilities[known, 0],
            groups=patients if intervals else None,
            threshold=threshold,
        )


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))


def score_breasts(
    table: Table, indices: Sequence[int], probabilities: np.ndarray, method: str = "mean"
) -> BreastScores:
    """Combine the probabilities of each breast's images to one per target: their mean or maximum.

    indices (n,): rows of `table`, each at most once.  probabilities (n, T): of these rows.
    """
    if method not in ("mean", "max"):
        raise ValueError(f'method is "mean" or "max", not {method!r}')
    place = np.full(len(table.rows), -1)
    place[np.asarray(indices, dtype=int)] = np.arange(len(indices))
    scored, unscored, labels, values, counts = [], [], [], [], []
    for breast in table.breasts:
        found = [place[row] for row in breast.rows if place[row] >= 0]
        if not found:
            unscored.append(breast)
            continue
        scored.append(breast)
        known = table.labels[list(breast.rows)]
        # A breast is positive if any of its images is, and nan only if none of its images has a label.
        labels.append(np.where(np.isnan(known).all(0), np.nan, np.nan_to_num(known).max(0)))
        values.append(probabilities[found].mean(0) if method == "mean" else probabilities[found].max(0))
        counts.append(len(found))
    shape = (-1, len(table.target_names))
    return BreastScores(
        tuple(scored),
        np.array(labels, dtype=np.float64).reshape(shape),
        np.array(values, dtype=np.float64).reshape(shape),
        np.array(counts, dtype=int),
        tuple(unscored),
    )


def bytes_of(write: Callable[..., None], *arguments: Any) -> bytes:
    """Return as bytes what `write(file, *arguments)` writes to a text file."""
    file = io.StringIO()
    write(file, *arguments)
    return file.getvalue().encode(errors="surrogateescape")


def write_predictions(
    file: IO[str], scores: BreastScores, targets: Sequence[str], fold_of: Mapping[str, int] | None = None
) -> None:
    """Write a line per breast: patient_id, laterality, prediction_id, fold, and each target's label and probability."""
    writer = csv.writer(file, lineterminator="\n")
    columns = [column for name in targets for column in (name, f"{name}_probability")]
    writer.writerow(["patient_id", "laterality", "prediction_id", "fold", *columns])
    for breast, labels, values in zip(scores.breasts, scores.labels, scores.probabilities, strict=True):
        cells = []
        for label, value in zip(labels, values, strict=True):
            cells += ["" if np.isnan(label) else int(label), f"{value:.7g}"]
        fold = "" if fold_of is None else fold_of.get(breast.patient_id, "")
        writer.writerow([breast.patient_id, breast.laterality, breast.prediction_id, fold, *cells])


def write_submission(file: IO[str], table: Table, scores: BreastScores, fallback: float) -> None:
    """Write Kaggle's format: prediction_id and cancer (the first target), one row per breast in the table's order.

    A breast without a readable image gets `fallback`: a missing row would make the whole submission invalid.
    """
    known = {
        breast.prediction_id: value for breast, value in zip(scores.breasts, scores.probabilities[:, 0], strict=True)
    }
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["prediction_id", "cancer"])
    for breast in table.breasts:
        writer.writerow([breast.prediction_id, f"{known.get(breast.prediction_id, fallback):.7g}"])
