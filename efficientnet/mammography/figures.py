"""The figures of a set of scored breasts: metrics with intervals, calibration, subgroups; as a table for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from efficientnet.mammography.calibration import Calibration, cross_fitted, fit_calibration
from efficientnet.mammography.scoring import BreastScores, score_breasts
from efficientnet.mammography.table import Breast, Row, Table
from efficientnet.mammography.targets import in_order
from efficientnet.metrics import reliability
from efficientnet.metrics.bootstrap import BINS, GIVEN, RANKING, Draws, for_json, summarise

FEWEST = 10  # positives, and negatives, that a subgroup needs for figures of its own
WITH_NOTE = 4  # columns of a section of metrics, the last of which is a note
Form = Callable[[float | None], str]
UNKNOWN = "unknown"
AGES = ("under 50", "50 to 59", "60 to 69", "70 and over")
CALIBRATED = ("pf1", "brier", "expected_calibration_error")
AT_THRESHOLD = ("sensitivity", "specificity", "precision", "recall_rate")


def figures(
    scores: BreastScores,
    table: Table | None = None,
    threshold: float | None = None,
    calibration: Calibration | None = None,
    by_view: Mapping[str, BreastScores] = MappingProxyType({}),
) -> dict[str, Any]:
    """All figures of the labelled breasts, ready for JSON: those of `metrics.bootstrap.summarise`, with intervals, and

    pf1_calibrated, brier_calibrated, expected_calibration_error_calibrated, with intervals
                  after calibration: by the one given, or of each breast by one that is fitted to other patients
    temperature   of the calibration that fits these breasts best; above 1 if the probabilities are too extreme
    reliability   the rows of `metrics.reliability`
    subgroups     {attribute: {value: figures}}, where the table has the attribute; count and positives alone where
                  there are fewer than FEWEST positives or negatives

    threshold, calibration: found on other patients.  table: of the scored breasts; None for no subgroups.
    by_view: `scores_by_view`.
    """
    known = scores.labelled
    labels, probabilities, patients = known.labels[:, 0], known.probabilities[:, 0], known.patients
    draws = known.draws
    values = summarise(labels, probabilities, patients, threshold, draws=draws)
    calibrated = calibration(probabilities) if calibration else cross_fitted(labels, probabilities, patients)
    after = summarise(labels, calibrated, patients, draws=draws)
    for name in CALIBRATED:
        values[f"{name}_calibrated"] = after[name]
        if f"{name}_interval" in after:
            values[f"{name}_calibrated_interval"] = after[f"{name}_interval"]
    both = 0 < values["positives"] < values["count"]
    values["temperature"] = fit_calibration(labels, probabilities).temperature if both else None
    values["reliability"] = [each._asdict() for each in reliability(labels, probabilities, BINS)]
    used = values["threshold"] if threshold is None else threshold
    groups = {} if table is None else {**breasts_by_attribute(known, table), "view": by_view}
    values["subgroups"] = {
        attribute: {value: group_figures(part.labelled, used, draws) for value, part in parts.items()}
        for attribute, parts in groups.items()
        if len(parts) > 1
    }
    return for_json(values)


def group_figures(scores: BreastScores, threshold: float | None, draws: Draws) -> dict[str, Any]:
    """The figures of a subgroup; its draws are those of all patients."""
    labels, positives = scores.labels[:, 0], int((scores.labels[:, 0] == 1).sum())
    counts = {"count": len(labels), "positives": positives}
    if threshold is None or min(positives, len(labels) - positives) < FEWEST:
        return counts
    values = summarise(labels, scores.probabilities[:, 0], scores.patients, threshold, draws=draws)
    names = {name: name for name in ("pf1", "auc", "average_precision")}
    names |= {"f1": f"pf1{GIVEN}"} | {name: f"{name}{GIVEN}" for name in AT_THRESHOLD}
    shown = {f"{ours}{end}": values[f"{theirs}{end}"] for ours, theirs in names.items() for end in ("", "_interval")}
    return counts | shown


def breasts_by_attribute(scores: BreastScores, table: Table) -> dict[str, dict[str, BreastScores]]:
    """The breasts by the first known value of each attribute among their images, in order; unknown ones last."""
    return {
        name: parts_of(scores, [first_known(breast, table.rows, name) for breast in scores.breasts], order)
        for name, order in (("site_id", ()), ("machine_id", ()), ("density", ()), ("age", AGES), ("implant", ()))
    }


def first_known(breast: Breast, rows: Sequence[Row], name: str) -> str:
    value = next((each for row in breast.rows if (each := getattr(rows[row], name)) is not None), None)
    if value is None:
        return UNKNOWN
    if name == "age":
        return AGES[np.searchsorted((50, 60, 70), value, side="right")]
    return ("no", "yes")[int(value)] if name == "implant" else value


def parts_of(scores: BreastScores, names: Sequence[str], order: Sequence[str]) -> dict[str, BreastScores]:
    present = set(names)
    ordered = [name for name in order or in_order(present - {UNKNOWN}) if name in present]
    ordered += present & {UNKNOWN}
    return {name: scores.chosen(np.array([each == name for each in names])) for name in ordered}


def scores_by_view(
    table: Table, indices: Sequence[int], probabilities: np.ndarray, method: str = "mean"
) -> dict[str, BreastScores]:
    """The breasts scored from the images of one view alone, by view. Arguments as for `score_breasts`."""
    views = np.array([table.rows[index].view or UNKNOWN for index in indices])
    ordered = [*in_order({*views} - {UNKNOWN}), *({*views} & {UNKNOWN})]
    return {
        view: score_breasts(table, np.asarray(indices)[views == view], probabilities[views == view], method)
        for view in ordered
    }


class Line(NamedTuple):
    """One line of a section of the table: its name, and the cells after it."""

    name: str
    cells: tuple[str, ...]


class Section(NamedTuple):
    """A part of the table. headings: of the cells."""

    title: str
    headings: tuple[str, ...]
    lines: list[Line]


def score_line(values: Mapping[str, Any], what: str = "held-out breasts") -> str:
    """One line with pF1, its interval, and the pF1 of the best constant prediction."""
    low, high = values["pf1_interval"]
    return (
        f"Probabilistic F1 {share(values['pf1'])} (95 % interval {share(low)} to {share(high)}) on {values['count']} "
        f"{what}, {values['positives']} with cancer; the best constant prediction gets {share(values['pf1_all_ones'])}."
    )


def as_text(values: Mapping[str, Any]) -> str:
    """The figures as a table of about 100 columns. Sections with the same number of columns are aligned alike."""
    parts = [
        [(part.title, *part.headings), *((f"  {line.name}", *line.cells) for line in part.lines)]
        for part in sections(values)
    ]
    rows = [row for part in parts for row in part]
    alike = {size: [row for row in rows if len(row) == size] for size in map(len, rows)}
    widths = {size: [max(map(len, column)) for column in zip(*same, strict=True)] for size, same in alike.items()}

    def text(row: tuple[str, ...]) -> str:
        padded = [cell.rjust(width) for cell, width in zip(row, widths[len(row)], strict=True)]
        padded[0] = row[0].ljust(widths[len(row)][0])
        if len(row) == WITH_NOTE:
            padded[-1] = row[-1]
        return "  ".join(padded).rstrip()

    return "\n\n".join([*("\n".join(map(text, part)) for part in parts), LEGEND])


def as_markdown(values: Mapping[str, Any]) -> str:
    """The figures as Markdown tables."""
    parts = []
    for section in sections(values):
        parts.append(f"| {' | '.join((section.title, *section.headings))} |")
        parts.append("|---" * (1 + len(section.headings)) + "|")
        parts += [
            f"| {' | '.join(cell.replace('|', '/') for cell in (line.name, *line.cells))} |" for line in section.lines
        ]
        parts.append("")
    return "\n".join([*parts, LEGEND])


LEGEND = (
    "Intervals: 95 %, bootstrap over patients, thresholds held fixed. Figures at the threshold that is\n"
    "the best on these breasts are optimistic."
)


def sections(values: Mapping[str, Any]) -> Iterator[Section]:
    """Yield the parts of the table that the values have."""

    def metrics(title: str, note: str, *lines: tuple[str, str, Form, str]) -> Section:
        """Lines of (name, key, form, note), of those whose key is there."""
        shown = [
            Line(name, (form(values[key]), interval(values, key, form), its_note))
            for name, key, form, its_note in lines
            if key in values
        ]
        return Section(title, ("value", "95 % interval", note), shown)

    yield metrics(
        "probabilities as they are",
        "",
        ("pF1", "pf1", share, "the competition's metric"),
        ("pF1, calibrated", "pf1_calibrated", share, "by a fit to other patients"),
        ("pF1 of calling every breast", "pf1_all_ones", share, "the best constant prediction"),
        ("clshub's pF1", "clshub_pf1", hundredths, "in percent, not clipped"),
    )
    found = {"given_threshold": (GIVEN, "given, or of other breasts"), "threshold": ("", "the best on these breasts")}
    for threshold, (suffix, note) in found.items():
        if values.get(threshold) is not None:
            yield metrics(
                f"calls from {values[threshold]:.4g}",
                note,
                ("F1", f"pf1{suffix}" if suffix else "pf1_best", share, "pF1 of calls, which are 0 or 1"),
                ("sensitivity", f"sensitivity{suffix}", percent, "share of positives that are called"),
                ("specificity", f"specificity{suffix}", percent, "share of negatives that are not"),
                ("precision (PPV)", f"precision{suffix}", percent, "share of calls that are positive"),
                ("recall rate", f"recall_rate{suffix}", percent, "share of breasts that are called"),
            )
    yield metrics(
        "ranking",
        "",
        ("AUC", "auc", share, "a positive above a negative"),
        ("average precision", "average_precision", share, "over all thresholds"),
        ("sensitivity at 90 % specificity", RANKING[2], percent, ""),
        ("specificity at 90 % sensitivity", RANKING[3], percent, ""),
    )
    yield metrics(
        "calibration",
        "",
        ("Brier score", "brier", decimals, "mean squared error"),
        ("Brier score, calibrated", "brier_calibrated", decimals, ""),
        ("calibration error", "expected_calibration_error", percent, "of tenths by probability"),
        ("calibration error, calibrated", "expected_calibration_error_calibrated", percent, ""),
        ("temperature", "temperature", hundredths, "above 1: too extreme"),
    )
    if values["count"] >= 10 * BINS and "reliability" in values:
        bins = [
            Line(
                f"{number}",
                (str(each["count"]), str(each["positives"]), *map(percent, (each["predicted"], each["observed"]))),
            )
            for number, each in enumerate(values["reliability"], 1)
        ]
        yield Section("tenths by probability", ("breasts", "positives", "predicted", "observed"), bins)
    if groups := values.get("subgroups"):
        lines = [
            Line(f"{attribute.removesuffix('_id')} {value}", group_cells(each))
            for attribute, parts in groups.items()
            for value, each in parts.items()
        ]
        yield Section("subgroups", ("breasts", "positives", "AUC", "sensitivity", "specificity"), lines)


def group_cells(values: Mapping[str, Any]) -> tuple[str, ...]:
    counts = (f"{values['count']}", f"{values['positives']}")
    if "auc" not in values:
        return (*counts, *["too few"] * 3)
    forms = {"auc": share, "sensitivity": percent, "specificity": percent}
    return (*counts, *(f"{form(values[name])} ({interval(values, name, form, '-')})" for name, form in forms.items()))


def interval(values: Mapping[str, Any], name: str, form: Form, to: str = " to ") -> str:
    """Both ends, such as "60.1 to 70.2"; nothing where the value has no interval."""
    low, high = values.get(f"{name}_interval", (None, None))
    return "" if low is None else f"{form(low)}{to}{form(high)}".replace(" %", "")


def share(value: float | None) -> str:
    """Three decimals without the leading zero, such as .213; "-" for None."""
    return "-" if value is None else f"{value:.3f}".removeprefix("0")


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %".replace("100.0", "100")


def decimals(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def hundredths(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
