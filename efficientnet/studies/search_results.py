"""What a search found: its table and plot."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from efficientnet.common.extras import require
from efficientnet.common.text import counted
from efficientnet.scaling import mnasnet_objective
from efficientnet.studies.results import Row, comparisons, label, table
from efficientnet.studies.search import EVOLUTION, RANDOM, START, Scored, Search
from efficientnet.training.curves import png_of

COLORS = {EVOLUTION: "tab:red", RANDOM: "tab:blue"}


def search_text(search: Search, scored: Sequence[Scored], rows: Sequence[Row]) -> str:
    """What both searches found, and the finalists with their paired tests."""
    settings, lines = search.settings, []
    for name in (EVOLUTION, RANDOM):
        found = [each for each in scored if each.search == name]
        best, last = search.best(scored, name), found[-settings.population :]
        lines.append(
            f"{name:<9}  {counted(len(found), 'network')}, {sum(each.multiply_adds for each in found) / 1e6:,.0f} M "
            f"multiply-adds together; best: objective {100 * best.member.score:.1f} (top-1 {100 * best.top1:.1f} %, "
            f"{best.multiply_adds / 1e6:.2f} M), network {best.member.number}; mean of the last {len(last)}: "
            f"{100 * sum(each.member.score for each in last) / len(last):.1f}"
        )
    lines += [
        "",
        f"Their best networks and the baseline, {counted(settings.final_epochs, 'epoch')} of "
        f"{settings.data.first(settings.final_images_per_class):,} "
        f"images, {counted(settings.seeds, 'seed')}, on {settings.data.validation:,} validation images:",
        "",
        *table(rows),
        "",
    ]
    by_name = {row.network.way: objectives_of(row, search.target) for row in rows}
    others = {name: by_name[name] for name in (RANDOM, START)}
    return "\n".join([*lines, *comparisons("the objective of evolution", by_name[EVOLUTION], others)])


def objectives_of(row: Row, target: int) -> list[float]:
    """The objective with each seed, in per cent."""
    return [mnasnet_objective(top1, row.network.counts.multiply_adds, target) for top1 in row.top1]


def search_png(search: Search, scored: Sequence[Scored]) -> bytes:
    """The objective of every network in the order of the search, with the best so far, and accuracy over cost.

    Raises MissingExtra without matplotlib.
    """
    figures = require("matplotlib.figure", "report", "the plot of a search")
    figure = figures.Figure(figsize=(11, 4.5), dpi=100, layout="constrained")
    course, costs = figure.subplots(1, 2)
    for name, color in COLORS.items():
        found = [each for each in scored if each.search == name]
        scores = [100 * each.member.score for each in found]
        course.plot(scores, ".", color=color, alpha=0.5)
        course.plot(list(itertools.accumulate(scores, max)), color=color, label=f"{name}, best so far")
        where = [each.multiply_adds / 1e6 for each in found], [100 * each.top1 for each in found]
        costs.plot(*where, ".", color=color, alpha=0.5, label=name)
    costs.axvline(search.target / 1e6, color="0.6", linewidth=1, label="target T")
    label(course, "network", "objective, ACC (M / T)^-0.07, %", "The course of the searches")
    label(costs, "multiply-adds for one image, M", "top-1 % on held-out training images", "Accuracy and cost")
    for axes in (course, costs):
        axes.legend(fontsize=8)
    return png_of(figure)
