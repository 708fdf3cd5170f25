"""What a study found: results.csv, the table with its paired tests, and the plot."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientnet.analysis.paper_tables import TABLE_3, TABLE_7
from efficientnet.analysis.plot import row_name
from efficientnet.common.extras import require
from efficientnet.metrics.paired import PairedDifference, paired_difference
from efficientnet.studies.design import BASELINES, STEP1, Design
from efficientnet.studies.networks import BASELINE, COMPOUND, WAYS, Network

COLORS = dict(zip((*WAYS, BASELINE), ("tab:green", "tab:blue", "tab:orange", "tab:red", "0.3"), strict=True))


@dataclass(frozen=True)
class Trained:
    """A finished run.  top1: the share of the validation images that it gets right, after the last epoch."""

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
        f"{design.epochs} epoch{'' if design.epochs == 1 else 's'} of {design.train_images:,} images{few}, "
        f"{design.seeds} seed{'' if design.seeds == 1 else 's'}; top-1 on {design.data.validation:,} validation images "
        "after the last epoch"
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
        mean = f"{row.mean:.1f}" if row.top1 else ""
        lines.append(
            line.format(
                one.way,
                one.flags,
                one.layers,
                one.image_size,
                f"{counts.parameters:,}",
                f"{counts.multiply_adds / 1e6:.2f} M",
                "" if one.way == BASELINE else f"{one.target / 1e6:.2f} M",
                " ".join(f"{value:.1f}" for value in row.top1),
                mean + (f" +- {row.deviation:.1f}" if len(row.top1) > 1 else ""),
            ).rstrip()
        )
    return lines


def verdicts(design: Design, rows: Sequence[Row]) -> Iterator[str]:
    """A line for each comparison with compound scaling or with the paper's choice, and one that sums them up."""
    if design.study == STEP1:
        chosen = [row for row in rows if row.network.way != BASELINE]
        paper = next(row for row in chosen if row.network.is_papers)
        groups = [("the paper's choice", paper, [row for row in chosen if row is not paper])]
    else:
        groups = []
        for growth in design.growths:
            chosen = [row for row in rows if row.network.growth == growth and row.network.way != BASELINE]
            compound = next(row for row in chosen if row.network.way == COMPOUND)
            at = f" at {compound.network.target / 1e6:.1f} M" if len(design.growths) > 1 else ""
            groups.append((f"compound scaling{at}", compound, [row for row in chosen if row is not compound]))
    for title, first, others in groups:
        found: dict[str, list[str]] = {}
        for other in others:
            difference = paired_difference(first.top1, other.top1)
            found.setdefault(verdict_of(difference), []).append(other.network.way)
            yield f"{title} - {other.network.way:<14} {difference_text(difference)}: {verdict_of(difference)}"
        parts = [SUMMARY[verdict].format(" and ".join(names)) for verdict, names in found.items()]
        yield f"So {title} is {'; it is '.join(parts)}."


WITHIN, BETTER, WORSE = "within the spread of the seeds", "better", "worse"
SUMMARY = {
    WITHIN: "no different from {} beyond the spread of the seeds",
    BETTER: "better than {}",
    WORSE: "worse than {}",
}


def verdict_of(difference: PairedDifference) -> str:
    if not difference.is_significant:
        return WITHIN
    return BETTER if difference.mean > 0 else WORSE


def difference_text(difference: PairedDifference) -> str:
    """In percentage points, with the 95 % interval and the p value."""
    mean, half = difference.mean, difference.half
    if half == float("inf"):
        return f"{mean:+.1f} (one seed)"
    p = f"p {difference.p:.3f}" if difference.p >= 0.001 else "p < 0.001"
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f}, {p})"


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
        for (ours, papers), full, group in zip(axes, BASELINES[design.study], groups, strict=True):
            draw_ours(ours, group)
            draw_papers(papers, full)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


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
    finish(axes, "M", "validation", f"{baseline.network.baseline.title}\n(bars: standard deviation over seeds)")


def draw_papers(axes: Any, full: Any) -> None:
    """The paper's rows of Table 7 or Table 3 for the full baseline, on ImageNet."""
    rows = [row for row in (*TABLE_7, *TABLE_3) if row.baseline is full]
    names = [row_name(row).split()[0] for row in rows]
    for way in WAYS:
        points = [rows[0], *(row for row, name in zip(rows, names, strict=True) if name == way)]
        where = [row.giga_flops for row in points], [row.top1 for row in points]
        axes.plot(*where, color=COLORS[way], marker="o", label=way)
    finish(axes, "G", "ImageNet", f"{full.title} in the paper, Table {7 if rows[0] in TABLE_7 else 3}")


def finish(axes: Any, unit: str, images: str, title: str) -> None:
    axes.set_xlabel(f"multiply-adds for one image, {unit}")
    axes.set_ylabel(f"top-1 % on {images}")
    axes.set_title(title, fontsize=11)
    axes.grid(linewidth=0.3)
    axes.legend()


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
    axes.set_xlabel("top-1 % on validation: each seed, and the mean")
    axes.set_ylabel("alpha, beta, gamma")
    axes.set_title(f"{rows[0].network.baseline.title}: STEP 1", fontsize=11)
    axes.grid(linewidth=0.3)
