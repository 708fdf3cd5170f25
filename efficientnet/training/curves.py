"""Training curves, of any task: loss, scores and learning rate over epochs.

Needs matplotlib, the `report` extra.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from efficientnet.common.extras import MissingExtra, require

# Keys of an epoch that are not drawn: its number, the course of the work, and a setting.
BOOKKEEPING = {
    *("epoch", "step", "skipped_updates", "unreadable_images", "seconds", "images_per_second", "waiting_share"),
    "threshold",
}
LEARNING_RATE = "learning_rate"
COLORS = tuple(f"C{number}" for number in range(10))  # matplotlib's

History = Sequence[Mapping[str, Any]]  # one mapping per epoch, as in metrics.jsonl


@dataclass(frozen=True)
class Panel:
    """One pair of axes: a line for each name and run, as (epochs, values)."""

    title: str
    lines: dict[str, list[tuple[list[int], list[float]]]]


def panels(runs: Sequence[History]) -> list[Panel]:
    """Sort the numbers of some runs by scale: losses, scores from 0 to 1, other scores, learning rate.

    A value that is None or not finite is left out, and so is a panel without values.
    """
    names = dict.fromkeys(name for run in runs for epoch in run for name in epoch if name not in BOOKKEEPING)
    lines = {name: found for name in names if (found := [line for run in runs if (line := line_of(run, name))[0]])}
    losses = [name for name in lines if name.endswith("loss")]
    others = [name for name in lines if name not in losses and name != LEARNING_RATE]
    shares = [name for name in others if all(0 <= value <= 1 for _, values in lines[name] for value in values)]
    titles = {
        "loss": losses,
        "scores": shares,
        "other scores": [name for name in others if name not in shares],
        "learning rate": [name for name in lines if name == LEARNING_RATE],
    }
    return [Panel(title, {name: lines[name] for name in chosen}) for title, chosen in titles.items() if chosen]


def line_of(run: History, name: str) -> tuple[list[int], list[float]]:
    """The epochs that have a finite number of this name, and the numbers."""
    points = [
        (epoch.get("epoch", place), value)
        for place, epoch in enumerate(run, start=1)
        if isinstance(value := epoch.get(name), int | float) and math.isfinite(value)
    ]
    return [epoch for epoch, _ in points], [float(value) for _, value in points]


def draw_panel(axes: Any, panel: Panel, ticker: Any, colors: Sequence[str] = COLORS) -> None:
    """Draw the lines of a panel: one colour per name, the same for all runs.  ticker: matplotlib.ticker."""
    for number, (name, runs) in enumerate(panel.lines.items()):
        for place, (epochs, values) in enumerate(runs):
            label = name.replace("_", " ") if place == 0 else None
            axes.plot(
                epochs, values, ".-", color=colors[number % len(colors)], linewidth=1.2, markersize=4, label=label
            )
    if panel.title == "scores":
        axes.set_ylim(-0.02, 1.02)
    axes.set_title(panel.title)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
    axes.grid(linewidth=0.3)


def curves_png(history: History) -> bytes | None:
    """The training curves of a run as a PNG file; None without matplotlib, or if there is nothing to draw."""
    shown = panels([history])
    try:
        figures = require("matplotlib.figure", "report", "training curves")
        ticker = require("matplotlib.ticker", "report", "training curves")
    except MissingExtra:
        return None
    if not shown:
        return None
    figure = figures.Figure(figsize=(4 * len(shown), 3.2), dpi=100, layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        draw_panel(axes, panel, ticker)
        if len(panel.lines) > 1:
            axes.legend(fontsize=8)
    return png_of(figure)


def png_of(figure: Any) -> bytes:
    """A figure of matplotlib as a PNG file, the same for the same figure whichever version draws it."""
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()
