"""Train the embedded phantoms with one change to the recipe at a time, over several seeds, and compare.

    python -m efficientnet.mammography.ablation --output runs/ablation
    python -m efficientnet.mammography.ablation --output runs/ablation --only "cancer alone" "gem pooling" --seeds 5

Every run has the same budget, and lesions are harder to see than in the demo, which leaves room for differences. A
row is the mean difference from the unchanged recipe on the same seeds, with its 95 % interval (Student's t over the
seeds), after the last epoch. What was run before in the folder is not run again.

The phantoms are drawn: a difference here says that a part works, not what it is worth on mammograms.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from efficientnet.common.command_line import Parser, command, leave, number, output_folder, program_name
from efficientnet.common.cpu import usable_cores
from efficientnet.common.errors import UserError
from efficientnet.common.text import last_line
from efficientnet.mammography.phantom.dataset import write_phantom_dataset
from efficientnet.mammography.settings import DEMO_PATIENTS
from efficientnet.metrics.paired import paired_difference
from efficientnet.training.runs import Machine, Metrics, Run, train_runs

PROGRAM = program_name("python -m efficientnet.mammography.ablation")
BASE = "unchanged"
SIZE = ("--image-size", "128", "64")
BUDGET = (
    *("--width", "0.5", "--depth", "0.5", "--recipe", "demo"),
    *("--batch-size", "4", "--epochs", "4", "--workers", "0"),
)
CONSPICUITY = 0.7
# One change each, as flags of train.py.
CHANGES: dict[str, tuple[str, ...]] = {
    BASE: (),
    "cancer alone": ("--targets", "cancer"),
    "0/1 targets alone": ("--targets", "cancer,biopsy,invasive,difficult_negative_case"),
    "gem pooling": ("--pooling", "gem"),
    "max pooling": ("--pooling", "max"),
    "focal loss": ("--loss", "focal"),
    "asymmetric loss": ("--loss", "asymmetric"),
    "soft-F1 loss": ("--loss", "soft-f1"),
    "positives at 0.9": ("--positive-target", "0.9"),
    "mixup 0.2": ("--mixup", "0.2"),
    "CutMix 1": ("--cutmix", "1"),
    "natural share": ("--positive-share", "0"),
    "no average": ("--ema-decay", "0"),
    "average .999": ("--ema-decay", "0.999"),
    "strong augmentation": ("--augmentation", "1"),
    "joint views": ("--views", "joint", "--batch-size", "2", "--learning-rate", "8e-3"),  # the same images and rate
}
METRICS = {"auc": "AUC", "pf1_best": "F1", "pf1": "pF1", "pf1_calibrated": "calibrated pF1"}


def run_of(name: str, seed: int, output: Path) -> Run:
    """The run of a row with a seed."""
    data = str(prepared_folder(output, seed))
    folder = output / f"{name.replace('/', '-').replace(' ', '-')}-{seed}"
    return Run(f"{name}, seed {seed}", folder, ("--data", data, *BUDGET, *CHANGES[name], "--seed", str(seed)))


def prepare(seed: int, output: Path, jobs: int) -> None:
    """Draw the phantoms of a seed, and decode them once."""
    drawn = output / f"phantoms-{seed}"
    write_phantom_dataset(drawn, DEMO_PATIENTS, seed, conspicuity=CONSPICUITY, workers=jobs)
    command = [sys.executable, "-m", "efficientnet.mammography.prepare", "--data", str(drawn), *SIZE]
    command += ["--output", str(prepared_folder(output, seed))]
    process = subprocess.run(command, capture_output=True, text=True)
    if process.returncode:
        raise UserError(f"preparing {drawn}: {last_line(process.stderr)}")


def prepared_folder(output: Path, seed: int) -> Path:
    return output / f"prepared-{seed}"


def table(results: Mapping[str, Sequence[Mapping[str, float]]]) -> str:
    """The rows of the printed table. results: for each change, one line of metrics for each seed."""
    width = max(map(len, results))
    lines = [" " * width + "".join(f"{title:>26}" for title in METRICS.values())]
    for name, runs in results.items():
        cells = []
        for metric in METRICS:
            values = [run[metric] for run in runs]
            if name == BASE:
                cells.append(f"{np.mean(values):.3f}")
                continue
            difference = paired_difference(values, [base[metric] for base in results[BASE]])
            mean, half = difference.mean, difference.half_width
            cells.append(f"{mean:+.3f}" + (f" ({mean - half:+.2f} to {mean + half:+.2f})" if half < math.inf else ""))
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--output", type=output_folder, required=True, metavar="DIR", help="folder of the runs")
    parser.add_argument("--seeds", type=number(int, 1), default=3, metavar="N", help="runs per row (default: 3)")
    parser.add_argument(
        "--only", nargs="+", choices=list(CHANGES)[1:], metavar="ROW", help=f"rows: {', '.join(list(CHANGES)[1:])}"
    )
    parser.add_argument(
        "--jobs", type=number(int, 1), metavar="N", help="runs at a time (default: one per core, at most 8)"
    )
    arguments = parser.parse_args(argv)
    names = [BASE, *(arguments.only or list(CHANGES)[1:])]
    jobs = arguments.jobs or min(8, usable_cores())
    machine = Machine(jobs, max(1, usable_cores() // jobs))
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.seeds)
    for seed in seeds:  # before several runs would do so at the same time
        prepare(seed, output, jobs)
    waiting = iter([run_of(name, seed, output) for seed in seeds for name in names])
    results: dict[Run, Metrics] = {}
    for run, metrics in train_runs(lambda: next(waiting, None), machine):
        if metrics is None:
            raise UserError(f"{run.name}: its loss was not finite; see {run.log}")
        results[run] = metrics
        print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    print(f"phantoms, {' '.join((*SIZE, *BUDGET))}, seeds 0 to {arguments.seeds - 1}")
    print(table({name: [results[run_of(name, seed, output)] for seed in seeds] for name in names}))


if __name__ == "__main__":
    leave(main())
