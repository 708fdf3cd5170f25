"""The out-of-fold result of `--fold all`: every patient scored by the run that held her out."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from efficientnet.common.errors import UserError
from efficientnet.mammography.calibration import fit_calibration
from efficientnet.mammography.figures import figures, score_line
from efficientnet.mammography.scoring import BreastScores
from efficientnet.mammography.table import Breast
from efficientnet.metrics import best_threshold, probabilistic_f1

PREDICTIONS, SUMMARY = "predictions.csv", "summary.json"


def summarise_folds(runs: Sequence[Path]) -> tuple[str, dict[str, bytes]]:
    """A text for the terminal, and the files of the folder: predictions.csv, and summary.json with the threshold.

    The threshold has the highest F1 on all out-of-fold predictions, which is therefore optimistic. Its honest
    counterpart, f1_of_other_folds, calls each breast by the threshold of the other folds.
    """
    lines, scores, folds = read_predictions(runs)
    folds, scores = folds[~np.isnan(scores.labels[:, 0])], scores.labelled
    labels, probabilities = scores.labels[:, 0], scores.probabilities[:, 0]
    metrics = figures(scores)
    threshold = metrics["threshold"]
    summary: dict[str, Any] = {"folds": len(runs), **metrics, "f1_of_other_folds": None, "calibration": None}
    text = score_line(metrics, "breasts, each out of fold")
    if threshold is not None:
        summary["calibration"] = asdict(fit_calibration(labels, probabilities))
        honest = probabilistic_f1(labels, called_by_other_folds(labels, probabilities, folds))
        summary["f1_of_other_folds"] = honest
        text += (
            f"\nThreshold {threshold:.4g}, found on these breasts: F1 {metrics['pf1_best']:.3f}; called by the "
            f"threshold of the other folds: F1 {honest:.3f}. "
            f"Calibrated on other patients: pF1 {metrics['pf1_calibrated']:.3f}."
        )
    files = {PREDICTIONS: "".join(lines).encode(errors="surrogateescape")}
    return text, files | {SUMMARY: (json.dumps(summary, indent=2) + "\n").encode()}


def called_by_other_folds(labels: np.ndarray, probabilities: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Calls (N,), 0 or 1: each breast by the best threshold of the folds that it is not in.

    Nothing is called where the other folds have no positive.
    """
    calls = np.zeros(len(labels))
    for fold in np.unique(folds):
        threshold, _ = best_threshold(labels[folds != fold], probabilities[folds != fold])
        calls[folds == fold] = probabilities[folds == fold] >= (math.inf if math.isnan(threshold) else threshold)
    return calls


def read_predictions(runs: Sequence[Path]) -> tuple[list[str], BreastScores, np.ndarray]:
    """The lines of all runs' predictions.csv under one header, their scores, and the fold of each breast.

    Raises UserError if a run has none, or if two runs have scored the same breast, since the table has then changed.
    """
    header, lines, rows, folds = "", [], {}, []
    for fold, run in enumerate(runs):
        try:
            first, *rest = (run / PREDICTIONS).read_text(encoding="utf-8", errors="surrogateescape").splitlines(True)
        except (OSError, ValueError) as error:
            raise UserError(f"{run / PREDICTIONS}: cannot be read ({error}); resume the run that writes it") from None
        if header and first != header:
            raise UserError(f"{run / PREDICTIONS}: has other columns than {runs[0].name}'s; start the folds anew")
        header = first
        lines += rest
        for row in csv.DictReader([first, *rest]):
            if row["prediction_id"] in rows:
                raise UserError(
                    f"{run / PREDICTIONS}: {row['prediction_id']} was held out by another fold too, so the table has "
                    "changed between the folds; start them anew"
                )
            rows[row["prediction_id"]] = row
            folds.append(fold)
    target = header.split(",")[4].strip()
    labels = np.array([float(row[target] or "nan") for row in rows.values()]).reshape(-1, 1)
    probabilities = np.array([float(row[f"{target}_probability"]) for row in rows.values()]).reshape(-1, 1)
    breasts = tuple(
        Breast(name, row["patient_id"], row["laterality"], (), label)
        for (name, row), label in zip(rows.items(), labels[:, 0], strict=True)
    )
    return [header, *lines], BreastScores(breasts, labels, probabilities, np.ones(len(rows)), ()), np.array(folds)
