"""Train the embedded phantoms with one change to the recipe at a time, over several seeds, and compare.

    python -m efficientnet.mammography.ablation --output runs/ablation
    python -m efficientnet.mammography.ablation --output runs/ablation --only "cancer alone" "gem pooling" --seeds 5

Every run has the same budget, and lesions are harder to see than in the demo, which leaves room for differences. A
row is the mean difference from the unchanged recipe on the same seeds, with its 95 % interval (Student's t over the
seeds), after the last epoch. What was run before in the folder is not run again.

The phantoms are drawn: a difference here says that a part works, not what it is worth on mammograms.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from efficientnet.common.command_line import SCRIPTS, Parser, command, leave, number, output_folder, program_name
from efficientnet.common.cpu import usable_cores
from efficientnet.common.errors import UserError
from efficientnet.mammography.phantom.dataset import write_phantom_dataset
from efficientnet.mammography.settings import DEMO_PATIENTS

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
# Two-sided 95 % quantiles of Student's t, by degrees of freedom from 1.
T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def train(name: str, seed: int, output: Path, threads: int) -> None:
    """Train one run in a process of its own, unless it is finished. Raises UserError if it fails."""
    folder = run_folder(output, name, seed)
    data = str(prepared_folder(output, seed))
    flags = ("--data", data, *BUDGET, *CHANGES[name], "--seed", str(seed), "--resume", "auto", "--output", str(folder))
    if not finished(folder):
        run(f"{name}, seed {seed}", [str(SCRIPTS / "train.py"), *flags], threads)
    print(".", end="", file=sys.stderr, flush=True)


def prepare(seed: int, output: Path, jobs: int) -> None:
    """Draw the phantoms of a seed, and decode them once."""
    drawn = output / f"phantoms-{seed}"
    write_phantom_dataset(drawn, DEMO_PATIENTS, seed, conspicuity=CONSPICUITY, workers=jobs)
    command = ["-m", "efficientnet.mammography.prepare", "--data", str(drawn), *SIZE]
    run(f"preparing {drawn}", [*command, "--output", str(prepared_folder(output, seed))], jobs)


def run(what: str, arguments: Sequence[str], threads: int) -> None:
    """Run Python in a process of its own. Raises UserError with its last message if it fails."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    process = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)
    if process.returncode:
        raise UserError(f"{what}: {(process.stderr.splitlines() or ['no message'])[-1]}")


def prepared_folder(output: Path, seed: int) -> Path:
    return output / f"prepared-{seed}"


def run_folder(output: Path, name: str, seed: int) -> Path:
    return output / f"{name.replace('/', '-').replace(' ', '-')}-{seed}"


def finished(folder: Path) -> dict[str, float] | None:
    """The last line of a finished run's metrics; None for any other folder."""
    try:
        lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        epochs = json.loads((folder / "config.json").read_text(encoding="utf-8"))["recipe"]["epochs"]
    except OSError:
        return None
    return json.loads(lines[-1]) if len(lines) == epochs else None


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The mean of n differences and half the width of its 95 % interval; infinite for a single one."""
    n = len(differences)
    if n == 1:
        return float(differences[0]), math.inf
    return float(np.mean(differences)), T_QUANTILES[n - 2] * float(np.std(differences, ddof=1)) / math.sqrt(n)


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
            mean, half = interval([value - base[metric] for value, base in zip(values, results[BASE], strict=True)])
            cells.append(f"{mean:+.3f}" + (f" ({mean - half:+.2f} to {mean + half:+.2f})" if half < math.inf else ""))
        lines.append(f"{name:<{width}}" + "".join(f"{cell:>26}" for cell in cells))
    return "\n".join(lines)


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    parser = Parser(prog=PROGRAM, description=__doc__)
    parser.add_argument("--output", type=output_folder, required=True, metavar="DIR", help="folder of the runs")
    parser.add_argument("--seeds", type=number(int, 1, 10), default=3, metavar="N", help="runs per row (default: 3)")
    parser.add_argument(
        "--only", nargs="+", choices=list(CHANGES)[1:], metavar="ROW", help=f"rows: {', '.join(list(CHANGES)[1:])}"
    )
    parser.add_argument(
        "--jobs", type=number(int, 1), metavar="N", help="runs at a time (default: one per core, at most 8)"
    )
    arguments = parser.parse_args(argv)
    names = [BASE, *(arguments.only or list(CHANGES)[1:])]
    jobs = arguments.jobs or min(8, usable_cores())
    threads = max(1, usable_cores() // jobs)
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    seeds = range(arguments.seeds)
    for seed in seeds:  # before several runs would do so at the same time
        prepare(seed, output, jobs)
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda run: train(*run, output, threads), [(name, seed) for seed in seeds for name in names]))
    runs = {name: [run_folder(output, name, seed) for seed in seeds] for name in names}
    print(file=sys.stderr)
    print(f"phantoms, {' '.join((*SIZE, *BUDGET))}, seeds 0 to {arguments.seeds - 1}")
    print(table({name: [finished(folder) for folder in folders] for name, folders in runs.items()}))


if __name__ == "__main__":
    leave(main())
