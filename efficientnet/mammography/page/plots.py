"""The plots of a report page, each for a light and a dark page.

Needs matplotlib, the `report` extra.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficientnet.common.extras import require
from efficientnet.mammography.page.content import ReportData
from efficientnet.metrics import (
    at_or_above,
    average_precision,
    f_score,
    reliability,
    roc_auc,
    roc_curve,
    tally,
    validated,
)
from efficientnet.training.curves import draw_panel, panels, png_of

PURPOSE = "a report"
SIZE, DPI = (3.5, 3.3), 220  # inches, and twice as many pixels as in the page, for dense screens
Z = 1.96  # standard deviations on each side of a 95 % interval


@dataclass(frozen=True)
class Theme:
    """Colours of one version of a plot: background, text and axes, grid, and lines in order of use."""

    suffix: str
    background: str
    ink: str
    grid: str
    lines: tuple[str, ...]


# Okabe and Ito's colours for the colour-blind, darker on white and lighter on black for contrast.
LIGHT = Theme("", "#ffffff", "#30363d", "#d0d7de", ("#0060a0", "#c14a00", "#00785a", "#a03f78", "#6b6b00", "#505050"))
DARK = Theme(
    "-dark", "#1c2128", "#d0d7de", "#444c56", ("#56b4e9", "#ff9d4d", "#3dc99b", "#e69fc8", "#e6dc5a", "#b0b0b0")
)

Draw = Callable[[Any, Theme], None]  # draw(axes, theme)


@dataclass(frozen=True)
class Plot:
    """A plot as PNG files for both themes, or the reason why there is none.

    text: what it shows, for those who cannot see it.
    """

    name: str
    title: str
    text: str
    light: bytes | None = None
    dark: bytes | None = None


def plots(data: ReportData) -> list[Plot]:
    """The plots of the labelled breasts. Raises MissingExtra without matplotlib."""
    positive, scores = validated(data.labels, data.probabilities)
    both = "" if positive.any() and not positive.all() else "needs positive and negative breasts"
    some = "" if len(scores) else "no breasts"
    drawn = (
        ("roc", "ROC", "sensitivity over 1 - specificity", draw_roc(data, positive, scores), both),
        ("precision-recall", "Precision and recall", "one over the other", draw_precision(positive, scores), both),
        ("thresholds", "Calls by threshold", "F1, precision, recall", draw_thresholds(data, positive, scores), both),
        ("calibration", "Calibration", "observed over predicted share", draw_calibration(data), some),
    )
    return [plot(*each) for each in drawn]


def training_plots(data: ReportData) -> list[Plot]:
    """The training curves of all runs, a plot for each panel."""
    ticker = require("matplotlib.ticker", "report", PURPOSE)
    found = []
    for panel in panels(data.histories):
        name = f"training-{panel.title.replace(' ', '-')}"

        def draw(axes: Any, theme: Theme, panel: Any = panel) -> None:
            draw_panel(axes, panel, ticker, theme.lines)

        found.append(plot(name, panel.title.capitalize(), f"{', '.join(panel.lines)} over epochs", draw))
    return found


def plot(name: str, title: str, text: str, draw: Draw, missing: str = "") -> Plot:
    """Draw a plot for both themes, unless something is missing for it."""
    if missing:
        return Plot(name, title, missing)
    return Plot(name, title, text, rendered(draw, LIGHT), rendered(draw, DARK))


def rendered(draw: Draw, theme: Theme) -> bytes:
    """A PNG file, the same bytes for the same data."""
    figure = require("matplotlib.figure", "report", PURPOSE).Figure(
        figsize=SIZE, dpi=DPI, layout="constrained", facecolor=theme.background
    )
    axes = figure.subplots()
    draw(axes, theme)
    axes.set_title("")  # the page has it
    axes.set_facecolor(theme.background)
    axes.grid(color=theme.grid, linewidth=0.5)
    axes.tick_params(colors=theme.ink)
    for part in (axes.xaxis.label, axes.yaxis.label, axes.xaxis.get_offset_text(), axes.yaxis.get_offset_text()):
        part.set_color(theme.ink)
    for spine in axes.spines.values():
        spine.set_color(theme.grid)
    handles, names = axes.get_legend_handles_labels()
    if len(names) > 1:  # below the axes, where it covers no line
        legend = {"frameon": False, "fontsize": 7.5, "labelcolor": theme.ink, "ncols": 2}
        figure.legend(handles, names, loc="outside lower center", **legend)
    return png_of(figure)


def draw_roc(data: ReportData, positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> Draw:
    def draw(axes: Any, theme: Theme) -> None:
        sensitivity, specificity = roc_curve(positive, scores)
        axes.plot((0, 1), (0, 1), "--", color=theme.grid, linewidth=1)
        label = f"AUC {roc_auc(positive, scores):.3f}"
        axes.plot(1 - specificity, sensitivity, color=theme.lines[0], label=label)
        if data.threshold is not None:
            called = scores >= data.threshold
            at = called[~positive].mean(), called[positive].mean()
            axes.plot(*at, "o", color=theme.lines[1], label=f"calls from {data.threshold:.3g}")
        labelled(axes, "1 - specificity", "sensitivity")

    return draw


def draw_precision(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> Draw:
    def draw(axes: Any, theme: Theme) -> None:
        _, precision, recall, _ = by_threshold(positive, scores)
        axes.axhline(positive.mean(), linestyle="--", color=theme.ink, linewidth=1, label="every breast called")
        label = f"average precision {average_precision(positive, scores):.3f}"
        # Recall falls as the threshold rises. As in average precision, a step is as high as its right end.
        axes.step([*recall, 0], [*precision, precision[-1]], where="post", color=theme.lines[0], label=label)
        labelled(axes, "recall (sensitivity)", "precision")

    return draw


def draw_thresholds(data: ReportData, positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> Draw:
    def draw(axes: Any, theme: Theme) -> None:
        thresholds, precision, recall, f1 = by_threshold(positive, scores)
        named = {"F1": f1, "precision": precision, "recall (sensitivity)": recall}
        for (name, values), color, width in zip(named.items(), theme.lines, (2.2, 1, 1), strict=False):
            # A score's calls are those of every threshold above the next lower score.
            axes.step([0, *thresholds], [values[0], *values], where="pre", color=color, linewidth=width, label=name)
        if data.threshold is not None:
            label = f"threshold {data.threshold:.3g}"
            axes.axvline(data.threshold, linestyle=":", color=theme.ink, linewidth=1.3, label=label)
        labelled(axes, "threshold", "share")
        axes.set_xlim(0, min(1.0, 1.02 * float(thresholds[-1])) or 1.0)

    return draw


def draw_calibration(data: ReportData) -> Draw:
    def draw(axes: Any, theme: Theme) -> None:
        most = 0.0
        curves = {"probabilities": data.probabilities}
        if data.calibrated is not None:
            curves["calibrated"] = data.calibrated
        for (name, values), color in zip(curves.items(), theme.lines, strict=False):
            bins = reliability(data.labels, values)
            predicted = np.array([each.predicted for each in bins])
            observed = np.array([each.observed for each in bins])
            low, high = wilson(np.array([each.positives for each in bins]), np.array([each.count for each in bins]))
            bars = np.clip((observed - low, high - observed), 0, None)
            style = {"color": color, "linewidth": 1.2, "markersize": 4, "elinewidth": 0.8}
            axes.errorbar(predicted, observed, bars, fmt="o-", label=name, **style)
            most = max(most, *predicted, *high)
        axes.plot((0, 1), (0, 1), "--", color=theme.ink, linewidth=1, label="perfect")
        labelled(axes, "mean probability", "share of positives")
        limit = min(1.03, 1.05 * most)
        axes.set_xlim(-0.02 * limit, limit)
        axes.set_ylim(-0.02 * limit, limit)

    return draw


def by_threshold(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Thresholds (K,), ascending, and precision, recall and F1 of the calls at each."""
    thresholds, positives, negatives = tally(positive, scores)
    true, called = at_or_above(positives), at_or_above(positives + negatives)
    return thresholds, true / called, true / positive.sum(), f_score(true, called, positive.sum(), 1.0)


def wilson(positives: NDArray[np.int64], counts: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """95 % intervals of shares. Source: Wilson (1927), "Probable Inference"; it holds for few breasts too."""
    share, square = positives / counts, Z * Z / counts
    middle = (share + square / 2) / (1 + square)
    half = Z / (1 + square) * np.sqrt(share * (1 - share) / counts + square / (4 * counts))
    return middle - half, middle + half


def labelled(axes: Any, x: str, y: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(-0.02, 1.02)


def png_files(found: Sequence[Plot]) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of the files of some plots."""
    for each in found:
        for theme, content in ((LIGHT, each.light), (DARK, each.dark)):
            if content is not None:
                yield f"{each.name}{theme.suffix}.png", content
