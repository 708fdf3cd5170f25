"""The picture of `scale.py --plot`: accuracy over multiply-adds, and the curve of Equation 3.

Needs matplotlib, the `report` extra.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efficientnet.analysis.paper_tables import TABLE_3, TABLE_7, PaperRow
from efficientnet.analysis.rows import curve_rows
from efficientnet.architecture import FACTORS, derive
from efficientnet.baselines.stages import BASELINES
from efficientnet.common.extras import require
from efficientnet.common.files import atomic_file
from efficientnet.complexity import complexity
from efficientnet.scaling import ALPHA, B0, BETA, GAMMA, VARIANTS, Baseline

FORMATS = ("png", "svg", "pdf")
SUBJECT, CURVE, OTHERS = "tab:red", "tab:blue", "0.55"
MARKERS = ("s", "^", "o", "v")


def points(baseline: Baseline) -> list[dict]:
    """The points beside the curve: the released variants for B0, the rows of Table 3 for another baseline.

    Each is {name, parameters, multiply_adds}, with our counts. Rows without stated coefficients are left out.
    Raises ValueError for a baseline that is not in the paper.
    """
    if baseline is B0:
        named = [(variant.name.upper(), variant.coefficients) for variant in VARIANTS.values()]
    else:
        rows = [row for row in TABLE_3 if row.baseline is baseline and row.coefficients is not None]
        named = [(row_name(row), row.coefficients) for row in rows]
    if not named:
        raise ValueError(
            f"--plot shows the paper's figures, and it has none for {baseline.file or baseline.name}: choose one of "
            f"{', '.join(BASELINES)}"
        )
    result = []
    for name, coefficients in named:
        derived = derive(baseline, coefficients)
        counts = complexity(derived.stages, derived.image_size)
        result.append({"name": name, "parameters": counts.parameters, "multiply_adds": counts.multiply_adds})
    return result


def row_name(row: PaperRow) -> str:
    """What scaled the row's baseline: "depth 4", "compound"; the baseline's own title where nothing did."""
    if row.coefficients is None:
        return "compound"
    changed = [f"{name} {value:g}" for name in FACTORS if (value := getattr(row.coefficients, name)) != 1]
    return "compound" if len(changed) > 1 else "".join(changed) or row.baseline.title


def plot(
    path: Path, baseline: Baseline = B0, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA
) -> dict[str, list[dict]]:
    """Write the plot to `path` (.png, .svg or .pdf) atomically; returns its `curve` and `points`.

    Raises ValueError for another suffix and MissingExtra without matplotlib.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise ValueError(f"{path}: the file name must end in .{', .'.join(FORMATS)}")
    figures = require("matplotlib.figure", "report", "a plot")
    ticker = require("matplotlib.ticker", "report", "a plot")

    shown = points(baseline)
    most = max(point["multiply_adds"] for point in shown)
    curve = curve_rows(baseline, alpha, beta, gamma, last=16, step=0.125, most=1.3 * most)
    figure = figures.Figure(figsize=(12, 5), dpi=100, layout="constrained")
    accuracy, cost = figure.subplots(1, 2)
    draw_accuracy(accuracy, baseline)
    draw_cost(cost, baseline, shown, curve, f"Equation 3: {alpha:g}^phi, {beta:g}^phi, {gamma:g}^phi")
    for axis in (accuracy.xaxis, cost.xaxis, cost.yaxis):
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.set_minor_formatter(ticker.NullFormatter())
    for axes, margin in ((accuracy, 0.1), (cost, 0.1 if baseline is B0 else 0.3)):
        axes.margins(margin)
        axes.grid(which="both", linewidth=0.3)
    with atomic_file(path) as file:
        figure.savefig(file, format=kind)
    return {"curve": curve, "points": shown}


def draw_accuracy(axes: Any, baseline: Baseline) -> None:
    """The paper's top-1 over the paper's multiply-adds: B0 to B7, and the baselines of Tables 3 and 7 scaled.

    The marks of compound scaling are filled.
    """
    tables = {f"{rows[0].baseline.title}, Table 3": rows for rows in by_baseline(TABLE_3)}
    if baseline is B0:
        tables["B0, Table 7"] = list(TABLE_7)
    for (label, rows), marker in zip(tables.items(), MARKERS, strict=False):
        color = SUBJECT if rows[0].baseline is baseline else OTHERS
        for style, compound in (("none", False), ("full", True)):
            chosen = [row for row in rows if (row_name(row) == "compound") == compound]
            where = [row.giga_flops for row in chosen], [row.top1 for row in chosen]
            axes.plot(*where, marker, color=color, markersize=5, fillstyle=style, label=label if compound else None)
        if rows[0].baseline is baseline and baseline is not B0:
            rows = sorted(rows, key=lambda row: row.top1)
            for side, which in ((7, rows[::2]), (-7, rows[1::2])):  # neighbours to either side
                where = [row.giga_flops for row in which], [row.top1 for row in which]
                annotate(axes, [row_name(row) for row in which], *where, color, (side, -3))
    known = [variant for variant in VARIANTS.values() if variant.paper_top1 is not None]
    where = [variant.paper_flops for variant in known], [variant.paper_top1 for variant in known]
    color = SUBJECT if baseline is B0 else OTHERS
    axes.plot(*where, "D-", color=color, linewidth=1, fillstyle="none", label="EfficientNet-B0 to B7, Table 2")
    if baseline is B0:
        annotate(axes, [variant.name.upper() for variant in known], *where, color, (-5, 6))
    axes.set_xscale("log")
    axes.set_ylim(65, 86)  # room for the legend
    axes.set_xlabel("multiply-adds for one image, billions (the paper's)")
    axes.set_ylabel("top-1 accuracy on ImageNet, % (the paper's)")
    axes.set_title("What scaling gains (filled: compound scaling)")
    axes.legend(loc="lower right", fontsize=8)


def by_baseline(table: Sequence[PaperRow]) -> list[list[PaperRow]]:
    """The rows of each baseline, in the order of the table."""
    return [list(rows) for _, rows in itertools.groupby(table, lambda row: row.baseline)]


def draw_cost(axes: Any, baseline: Baseline, shown: list[dict], curve: list[dict], equation: str) -> None:
    """Our counts: the curve of Equation 3 with whole numbers of phi marked, and `shown` beside it."""

    def place(rows: list[dict]) -> tuple[list[float], list[float]]:
        return [row["parameters"] / 1e6 for row in rows], [row["multiply_adds"] / 1e9 for row in rows]

    whole = [row for row in curve if row["phi"] == int(row["phi"])]
    axes.plot(*place(curve), color=CURVE, linewidth=1.2, zorder=1, label=equation)
    axes.plot(*place(whole), "o", color=CURVE, markersize=4, zorder=2, label="phi = 0, 1, 2, ...")
    what = "released variants" if baseline is B0 else "rows of Table 3"
    axes.plot(*place(shown), "D", color=SUBJECT, markersize=6, zorder=3, fillstyle="none", label=what)
    annotate(axes, [f"{row['phi']:g}" for row in whole], *place(whole), CURVE, (5, -11))
    annotate(axes, [point["name"] for point in shown], *place(shown), SUBJECT, (-7, 6))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("parameters, millions")
    axes.set_ylabel("multiply-adds for one image, billions")
    axes.set_title(f"{baseline.title} scaled by Equation 3")
    axes.legend(loc="upper left", fontsize=8)


def annotate(
    axes: Any, texts: Sequence[str], x: Sequence[float], y: Sequence[float], color: str, offset: tuple[int, int]
) -> None:
    """A text beside each point. offset: in typographic points; to the left, the text ends there."""
    align = "right" if offset[0] < 0 else "left"
    for text, *where in zip(texts, x, y, strict=True):
        axes.annotate(text, where, xytext=offset, textcoords="offset points", fontsize=9, color=color, ha=align)
