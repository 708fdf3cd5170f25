"""Two models compared on the same breasts: a paired bootstrap over patients of the difference of each metric."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from efficientnet.common.errors import UserError
from efficientnet.mammography.figures import decimals, percent, share
from efficientnet.metrics.bootstrap import Draws, for_json, interval, summarise, values_in_draws, weighted_metrics
from efficientnet.training.task import Report

HEADLINE = {
    "pf1": ("pF1", share),
    "pf1_best": ("F1 at the best threshold", share),
    "auc": ("AUC", share),
    "average_precision": ("average precision", share),
    "sensitivity_at_90_specificity": ("sensitivity at 90 % specificity", percent),
    "specificity_at_90_sensitivity": ("specificity at 90 % sensitivity", percent),
    "brier": ("Brier score (lower is better)", decimals),
}
LOWER_IS_BETTER = ("brier",)


class Prediction(NamedTuple):
    """A line of predictions.csv: the first target's label, nan if unknown, and its probability."""

    patient: str
    label: float
    probability: float


def compare_predictions(names: Sequence[str], files: Sequence[bytes]) -> Report:
    """Compare models A and B on the labelled breasts that both have scored.

    names: of A and B.  files: their predictions.csv. Raises UserError for a file that is no such table, for different
    labels of a breast, and if the two have no labelled breast in common.
    """
    first, second = (read_predictions(name, file) for name, file in zip(names, files, strict=True))
    common = [breast for breast, each in first.items() if breast in second and not math.isnan(each.label)]
    for breast in common:
        if first[breast][:2] != second[breast][:2]:
            raise UserError(
                f"{names[0]} and {names[1]}: patient or label of breast {breast} differs; use the same data"
            )
    if not common:
        raise UserError(f"{names[0]} and {names[1]}: no labelled breast was held out by both")
    patients = [first[breast].patient for breast in common]
    labels = [first[breast].label for breast in common]
    scores = [[each[breast].probability for breast in common] for each in (first, second)]
    values = {
        "compared": list(names),
        "patients": len(set(patients)),
        "count": len(common),
        "positives": int(sum(labels)),
        "metrics": differences(labels, *scores, patients),
    }
    return Report(values, as_text(values))


def read_predictions(name: str, file: bytes) -> dict[str, Prediction]:
    """The lines of predictions.csv by prediction_id. Raises UserError for another table."""
    try:
        reader = csv.DictReader(io.StringIO(file.decode("utf-8", errors="surrogateescape")))
        target = next(column for column in reader.fieldnames or () if f"{column}_probability" in reader.fieldnames)
        rows = {
            row["prediction_id"]: Prediction(
                row["patient_id"], float(row[target] or "nan"), float(row[f"{target}_probability"])
            )
            for row in reader
        }
        for row in rows.values():
            if not (0 <= row.probability <= 1 and (row.label in (0, 1) or math.isnan(row.label))):
                raise ValueError
    except (StopIteration, KeyError, TypeError, ValueError, csv.Error):
        raise UserError(
            f"{name}: not a predictions.csv of train.py or evaluate.py (patient_id, prediction_id, cancer, "
            "cancer_probability)"
        ) from None
    return rows


def differences(
    labels: Sequence[float], first: Sequence[float], second: Sequence[float], patients: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """By metric: first, second, difference (second - first) with its interval, and second_is_better.

    second_is_better: the share of draws in which the second model is better; a tie counts as one half. Both models have
    the same draws, each its own best threshold, held fixed.
    """
    draws, positive, values, drawn = Draws.of(sorted(set(patients))), np.asarray(labels) == 1, [], []
    for scores in (first, second):
        summary = summarise(labels, scores)
        threshold = summary["threshold"] if summary["threshold"] is not None else math.inf
        metrics = partial(weighted_metrics, positive, np.asarray(scores), thresholds={"": threshold})
        values.append(summary)
        drawn.append(values_in_draws(metrics, draws, patients))
    found = {}
    for name in HEADLINE:
        change = drawn[1][name] - drawn[0][name]
        change = change[~np.isnan(change)]
        better = -change if name in LOWER_IS_BETTER else change
        a, b = values[0][name], values[1][name]
        found[name] = for_json(
            {
                "first": a,
                "second": b,
                "difference": None if a is None or b is None else b - a,
                "difference_interval": list(interval(change)),
                "second_is_better": float(((better > 0) + 0.5 * (better == 0)).mean()) if len(better) else None,
            }
        )
    return found


def as_text(values: Mapping[str, Any]) -> str:
    """The comparison as an aligned table."""
    rows = [("", "A", "B", "B - A", "95 % interval", "B is better in")]
    for name, (title, form) in HEADLINE.items():
        each = values["metrics"][name]
        low, high = each["difference_interval"]
        ends = "-" if low is None else f"{signed(low, form)} to {signed(high, form)}"
        better = each["second_is_better"]
        shown = "-" if better is None else f"{100 * better:.1f} %"
        rows.append((title, form(each["first"]), form(each["second"]), signed(each["difference"], form), ends, shown))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    a, b = values["compared"]
    head = (
        f"A  {a}\nB  {b}\n\n{values['count']} breasts of {values['patients']} patients, {values['positives']} with "
        "cancer, scored by both"
    )
    legend = "Paired bootstrap over patients. Differences of percentages are in points; a tie is one half."
    return "\n".join([head, "", *table, "", legend])


def signed(value: float | None, form: Any) -> str:
    """A difference with its sign, without the percent sign."""
    if value is None:
        return "-"
    return f"{'-' if value < 0 else '+'}{form(abs(value)).removesuffix(' %')}"
