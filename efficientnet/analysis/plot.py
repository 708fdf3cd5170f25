"""A plot of the family over parameters and multiply-adds, with the curve of Equation 3: `scale.py --plot`.

Needs matplotlib, the `report` extra.
"""

from __future__ import annotations

from pathlib import Path

from efficientnet.analysis.paper_tables import TABLES
from efficientnet.analysis.rows import curve_rows
from efficientnet.architecture import derive
from efficientnet.common.extras import require
from efficientnet.common.files import atomic_file
from efficientnet.complexity import complexity
from efficientnet.scaling import ALPHA, B0, BETA, GAMMA, VARIANTS, Baseline, Coefficients

FORMATS = ("png", "svg", "pdf")


def points(baseline: Baseline) -> list[dict]:
    """The points beside the curve: the released variants of B0, or the rows of another baseline in Table 3.

    Each is {name, parameters, multiply_adds}, with our counts. Rows without stated coefficients are left out.
    """
    if baseline is B0:
        named = [(variant.name.upper(), variant.coefficients) for variant in VARIANTS.values()]
    else:
        rows = [row for row in TABLES["table3"] if row.baseline is baseline and row.coefficients is not None]
        named = [(point_name(baseline, row.coefficients), row.coefficients) for row in rows]
    result = []
    for name, coefficients in named:
        derived = derive(baseline, coefficients)
        counts = complexity(derived.stages, derived.image_size)
        result.append({"name": name, "parameters": counts.parameters, "multiply_adds": counts.multiply_adds})
    return result


def point_name(baseline: Baseline, coefficients: Coefficients) -> str:
    return derive(baseline, coefficients).name.partition(" with ")[2] or baseline.title


def plot(
    path: Path, baseline: Baseline = B0, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA
) -> dict[str, list[dict]]:
    """Draw the plot to `path` (.png, .svg or .pdf), whole or not at all; returns its `curve` and `points`.

    Raises ValueError for another ending and MissingExtra without matplotlib.
    """
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise ValueError(f"{path}: the picture's name must end in .{', .'.join(FORMATS)}")
    require("matplotlib", "report", "a plot")
    figures = require("matplotlib.figure", "report", "a plot")
    ticker = require("matplotlib.ticker", "report", "a plot")

    shown = points(baseline)
    most = max(point["multiply_adds"] for point in shown)
    fine = curve_rows(baseline, alpha, beta, gamma, last=16, step=0.125, most=1.3 * most)
    whole = [row for row in fine if row["phi"] == int(row["phi"])]

    figure = figures.Figure(figsize=(9, 6.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()

    def place(rows: list[dict]) -> tuple[list[float], list[float]]:
        return [row["parameters"] / 1e6 for row in rows], [row["multiply_adds"] / 1e9 for row in rows]

    label = f"Equation 3, {alpha:g}^phi, {beta:g}^phi, {gamma:g}^phi"
    axes.plot(*place(fine), color="tab:blue", linewidth=1.2, zorder=1, label=label)
    axes.plot(*place(whole), "o", color="tab:blue", markersize=4, zorder=2, label="phi = 0, 1, 2, ...")
    what = "released variants" if baseline is B0 else "rows of Table 3"
    axes.plot(*place(shown), "D", color="tab:red", markersize=6, zorder=3, fillstyle="none", label=what)
    for row in whole:
        axes.annotate(
            f"{row['phi']:g}",
            (row["parameters"] / 1e6, row["multiply_adds"] / 1e9),
            xytext=(5, -11),
            textcoords="offset points",
            fontsize=8,
            color="tab:blue",
        )
    for point in shown:
        axes.annotate(
            point["name"],
            (point["parameters"] / 1e6, point["multiply_adds"] / 1e9),
            xytext=(-7, 6) if baseline is B0 else (0, 8),
            textcoords="offset points",
            ha="right" if baseline is B0 else "center",
            fontsize=9,
            color="tab:red",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        axis.set_minor_formatter(ticker.NullFormatter())
    axes.margins(0.1)
    axes.set_xlabel("parameters, millions")
    axes.set_ylabel("multiply-adds for one image, billions")
    axes.set_title(f"{baseline.title} scaled by Equation 3")
    axes.grid(which="both", linewidth=0.3)
    axes.legend(loc="upper left")

    with atomic_file(path) as file:
        figure.savefig(file, format=kind)
    return {"curve": fine, "points": shown}
