"""The content of a report page, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from efficientnet.mammography.figures import Section, percent, share
from efficientnet.training.curves import History

# Breasts at one threshold; a missed cancer is a positive below it.
TRUE_POSITIVES, FALSE_POSITIVES, MISSED = "strongest true positives", "strongest false positives", "missed cancers"
KINDS = (TRUE_POSITIVES, FALSE_POSITIVES, MISSED)

Share = NDArray[np.float32]  # (H, W), in [0, 1]


@dataclass(frozen=True)
class View:
    """One image of a breast.

    picture  as the network reads it, before normalisation; None if the file cannot be read
    heat     class activation of the scored target, on the same pixels
    whole    the whole image, reduced; None if the file holds no more than the picture
    box      the crop in `whole`: top, bottom, left, right as shares of its height and width
    note     what was wrong with the file
    """

    image_name: str
    picture: Share | None = None
    heat: Share | None = None
    whole: NDArray[np.uint8] | None = None
    box: tuple[float, float, float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Case:
    """One breast, by its identifier in the table."""

    title: str
    label: int
    probability: float
    views: Sequence[View]


class Measure(NamedTuple):
    """One headline figure, as text."""

    name: str
    value: str
    interval: str
    note: str


@dataclass(frozen=True)
class ReportData:
    """All that a page shows. Every text may hold any characters.

    labels, probabilities (B,): of the labelled breasts.  calibrated (B,): the probabilities after calibration.
    threshold: of calls `probability >= threshold`, before calibration; None without one.
    histories: the lines of metrics.jsonl of each run.  cases: by kind, of KINDS.
    remarks: what a reader must know first, such as "phantoms, not mammograms".  limits: paragraphs at the end.
    """

    title: str
    labels: NDArray[Any]
    probabilities: NDArray[Any]
    threshold: float | None = None
    calibrated: NDArray[Any] | None = None
    target: str = "cancer"
    headline: Sequence[Measure] = ()
    tables: Sequence[Section] = ()
    histories: Sequence[History] = ()
    cases: Mapping[str, Sequence[Case]] = field(default_factory=dict)
    remarks: Sequence[str] = ()
    limits: Sequence[str] = ()


def headline(values: Mapping[str, Any]) -> list[Measure]:
    """The headline figures of `figures.figures`; undefined ones are left out."""
    shown = [
        ("pF1", "pf1", share, "the competition's metric"),
        ("AUC", "auc", share, "a positive scores above a negative"),
        ("average precision", "average_precision", share, "area under precision and recall"),
    ]
    given = values.get("given_threshold") is not None
    threshold = values.get("given_threshold" if given else "threshold")
    if threshold is not None:
        end = "_at_given_threshold" if given else ""
        found = "given, or found on other breasts" if given else "the best on these breasts"
        where = f"calls from {threshold:.4g}, {found}"
        shown.append(("F1", "pf1_at_given_threshold" if given else "pf1_best", share, where))
        shown += [(name, f"{name}{end}", percent, where) for name in ("sensitivity", "specificity")]
    measures = []
    for name, key, form, note in shown:
        if values.get(key) is None:
            continue
        low, high = values.get(f"{key}_interval") or (None, None)
        interval = "" if low is None else f"{form(low).removesuffix(' %')} to {form(high)}"
        measures.append(Measure(name, form(values[key]), interval, note))
    return measures
