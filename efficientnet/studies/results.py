"""What a study found: results.csv, the table with its paired tests, and the plot."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientnet.analysis.paper_tables import TABLE_3, TABLE_7
from efficientnet.analysis.plot import row_name
from efficientnet.common.extras import require
from efficientnet.common.text import counted
from efficientnet.metrics.paired import holm, paired_difference
from efficientnet.studies.design import SCALED_BASELINES, STEP1, Design
from efficientnet.studies.networks import BASELINE, COMPOUND, WAYS, Network
from efficientnet.training.curves import png_of

COLORS = dict(zip((*WAYS, BASELINE), ("tab:green", "tab:blue", "tab:orange", "tab:red", "0.3"), strict=True))


@dataclass(frozen=True)
class Trained:
    """A finished run.  top1: the share of the validation images right after the last epoch; nan if it diverged."""

    network: Network
    seed: int
    top1: float


@dataclass(frozen=True)
class Row:
    """A network with the top-1 of all its seeds, in per cent."""

    network: Network
    top1: list[float]

    @property
    def mean(self) -> float:
        return float(np.mean(self.top1))

    @property
    def deviation(self) -> float:
        """The standard deviation over the seeds; nan for a single one."""
        return float(np.std(self.top1, ddof=1)) if len(self.top1) > 1 else float("nan")


def rows_of(trained: Iterable[Trained]) -> list[Row]:
    """A row for each network, in the order of the first run of each."""
    rows: dict[str, Row] = {}
    for each in sorted(trained, key=lambda each: each.seed):
        rows.setdefault(each.network.slug, Row(each.network, [])).top1.append(100 * each.top1)
    return list(rows.values())


def results_csv(trained: Iterable[Trained]) -> bytes:
    """A line for each run that is finished."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["baseline", "network", "flags", "parameters", "multiply_adds", "target", "seed", "top1"])
    for each in trained:
        one = each.network
        counts = (one.counts.parameters, one.counts.multiply_adds, round(one.target))
        writer.writerow([one.baseline.name, one.way, one.flags, *counts, each.seed, f"{each.top1:.6f}"])
    return text.getvalue().encode()


def results_text(design: Design, trained: Iterable[Trained]) -> str:
    """The table of each baseline, and what the paired tests say about it."""
    rows = rows_of(trained)
    few = "" if design.images_per_class is None else f" (the first {design.images_per_class:,} of each class)"
    lines = [
        f"{counted(design.epochs, 'epoch')} of {design.train_images:,} images{few}, {counted(design.seeds, 'seed')}; "
        f"top-1 on {design.data.validation:,} validation images after the last epoch; differences with 95 % intervals, "
        "p values adjusted for the number of tests (Holm)"
    ]
    for _, group in itertools.groupby(rows, lambda row: row.network.baseline.name):
        of_baseline = list(group)
        if design.study == STEP1:
            of_baseline[1:] = sorted(of_baseline[1:], key=lambda row: -row.mean)
        lines += ["", of_baseline[0].network.baseline.title, "", *table(of_baseline), ""]
        lines += verdicts(design, of_baseline)
    return "\n".join(lines)


def table(rows: Sequence[Row]) -> list[str]:
    """A line for each network, and a heading; without the columns of the results if there are none yet."""
    line = "{:<15} {:<38} {:>6} {:>6} {:>11} {:>13} {:>9}  {:<18} {}"
    header = ("network", "flags", "layers", "pixels", "parameters", "multiply-adds", "target")
    has_results = any(row.top1 for row in rows)
    lines = [line.format(*header, *(("top-1 %, by seed", "mean +- s.d.") if has_results else ("", ""))).rstrip()]
    for row in rows:
        one, counts = row.network, row.network.counts
        shown = ["diverged" if math.isnan(value) else f"{value:.1f}" for value in row.top1]
        mean = f"{row.mean:.1f}" if row.top1 and not math.isnan(row.mean) else ""
        lines.append(
            line.format(
                one.way,
                one.flags,
                one.layers,
                one.image_size,
                f"{counts.parameters:,}",
                f"{counts.multiply_adds / 1e6:.2f} M",
                "" if one.way == BASELINE else f"{one.target / 1e6:.2f} M",
                " ".join(shown),
                mean + (f" +- {row.deviation:.1f}" if mean and len(row.top1) > 1 else ""),
            ).rstrip()
        )
    return lines


def verdicts(design: Design, rows: Sequence[Row]) -> Iterator[str]:
    """The comparisons with compound scaling or with the paper's choice, and what they come to."""
    scaled = [row for row in rows if row.network.way != BASELINE]
    if design.study == STEP1:
        groups = {"the paper's choice": scaled}
    else:
        groups = {}
        for growth in design.growths:
            group = [row for row in scaled if row.network.growth == growth]
            at = f" at {group[0].network.target / 1e6:.1f} M" if len(design.growths) > 1 else ""
            groups[f"compound scaling{at}"] = group
    for title, group in groups.items():
        first = next(row for row in group if row.network.is_papers)
        others = {row.network.way: row.top1 for row in group if row is not first}
        yield from comparisons(title, first.top1, others)


WITHIN, BETTER, WORSE = "within the spread of the seeds", "better", "worse"
SUMMARY = {WITHIN: "not distinguishable from {}", BETTER: "better than {}", WORSE: "worse than {}"}


def comparisons(title: str, values: Sequence[float], others: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """A line for each paired test of the values, by seed, against others, and one that sums them up.

    The difference has its 95 % interval; the p values are adjusted for the number of tests (`holm`).
    """
    differences = {name: paired_difference(values, each) for name, each in others.items()}
    found: dict[str, list[str]] = {}
    for (name, difference), p in zip(differences.items(), holm([each.p for each in differences.values()]), strict=True):
        start, mean, half = f"{title} - {name:<14}", difference.mean, difference.half_width
        if math.isnan(p):
            yield f"{start} no test: {'a run diverged' if math.isnan(mean) else f'{mean:+.1f} with one seed'}"
            continue
        verdict = WITHIN if p >= 0.05 else BETTER if mean > 0 else WORSE
        found.setdefault(verdict, []).append(name)
        shown = f"p {p:.3f}" if p >= 0.001 else "p < 0.001"
        yield f"{start} {mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f}, {shown}): {verdict}"
    if found:
        parts = [SUMMARY[verdict].format(in_words(names)) for verdict, names in found.items()]
        yield f"So {title} is {'; it is '.join(parts)}."


def in_words(names: Sequence[str]) -> str:
    """ "depth, width and resolution"; with semicolons if the names have commas."""
    comma = "; " if any("," in name for name in names) else ", "
    return " and ".join(filter(None, [comma.join(names[:-1]), names[-1]]))


def plot_png(design: Design, trained: Iterable[Trained]) -> bytes:
    """Accuracy over multiply-adds beside the paper's, for each baseline; for STEP 1, the candidates in their order.

    Raises MissingExtra without matplotlib.
    """
    figures = require("matplotlib.figure", "report", "the plot of a study")
    rows = rows_of(trained)
    if design.study == STEP1:
        figure = figures.Figure(figsize=(8, 5), dpi=100, layout="constrained")
        draw_ranking(figure.subplots(), rows[1:])
    else:
        groups = [list(group) for _, group in itertools.groupby(rows, lambda row: row.network.baseline.name)]
        figure = figures.Figure(figsize=(11, 4.5 * len(groups)), dpi=100, layout="constrained")
        axes = figure.subplots(len(groups), 2, squeeze=False)
        for (ours, papers), full, group in zip(axes, SCALED_BASELINES[design.study], groups, strict=True):
            draw_ours(ours, group)
            draw_papers(papers, full)
    return png_of(figure)


def draw_ours(axes: Any, rows: Sequence[Row]) -> None:
    baseline = rows[0]
    for way in WAYS:
        points = [baseline, *(row for row in rows if row.network.way == way)]
        costs = [row.network.counts.multiply_adds / 1e6 for row in points]
        axes.errorbar(
            costs,
            [row.mean for row in points],
            [row.deviation for row in points],
            color=COLORS[way],
            marker="o",
            capsize=4,
            label=way,
        )
    title = f"{baseline.network.baseline.title}\n(bars: standard deviation over seeds)"
    label(axes, "multiply-adds for one image, M", "top-1 % on validation", title)
    axes.legend()


def draw_papers(axes: Any, full: Any) -> None:
    """The paper's rows of Table 7 or Table 3 for the full baseline, on ImageNet."""
    rows = [row for row in (*TABLE_7, *TABLE_3) if row.baseline is full]
    names = [row_name(row).split()[0] for row in rows]
    for way in WAYS:
        points = [rows[0], *(row for row, name in zip(rows, names, strict=True) if name == way)]
        where = [row.giga_flops for row in points], [row.top1 for row in points]
        axes.plot(*where, color=COLORS[way], marker="o", label=way)
    title = f"{full.title} in the paper, Table {7 if rows[0] in TABLE_7 else 3}"
    label(axes, "multiply-adds for one image, G", "top-1 % on ImageNet", title)
    axes.legend()


def label(axes: Any, x: str, y: str, title: str) -> None:
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=11)
    axes.grid(linewidth=0.3)


def draw_ranking(axes: Any, rows: Sequence[Row]) -> None:
    """A line for each candidate, the best on top: every seed, and the mean."""
    ordered = sorted(rows, key=lambda row: row.mean)
    for place, row in enumerate(ordered):
        color = COLORS[COMPOUND] if row.network.is_papers else COLORS[BASELINE]
        axes.plot(row.top1, [place] * len(row.top1), "|", color=color, markersize=10)
        axes.plot([row.mean], [place], "o", color=color)
    axes.set_yticks(
        range(len(ordered)), [row.network.way + (" (paper)" if row.network.is_papers else "") for row in ordered]
    )
    title = f"{rows[0].network.baseline.title}: STEP 1"
    label(axes, "top-1 % on validation: each seed, and the mean", "alpha, beta, gamma", title)
