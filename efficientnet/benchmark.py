"""How fast this EfficientNet is, beside the libraries that people would use instead.

    python -m efficientnet.benchmark                                    B0, 16 images of 224 pixels, prediction
    python -m efficientnet.benchmark --variant b3 --batch-size 8 --train
    python -m efficientnet.benchmark --batch-size 1 --peers torchvision --compile
    python -m efficientnet.benchmark --scaling                          where time does not follow multiply-adds
    python -m efficientnet.benchmark --checkpoint runs/b3-1/best.pt     what a lower precision does to the metrics

Every measurement is a process of its own, and the contestants take turns over several rounds, so that a machine that
slows down slows all of them. Peers run as their users run them: fp32, PyTorch's defaults.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from efficientnet.baselines import BASELINES, get_architecture
from efficientnet.benchmark_worker import COMPILED, FAST, PEERS, Task
from efficientnet.command_line import CommandError, Parser, command, leave, number
from efficientnet.complexity import complexity
from efficientnet.files import write_json
from efficientnet.scaling import SMALLEST_IMAGE, VARIANTS

PROGRAM = "python -m efficientnet.benchmark"
OURS = "efficientnet"
ROUNDS, SECONDS = 5, 3.0
# Seconds that a process may take beyond those that it measures: to import, compile, and call a few times more.
PATIENCE = 900


# Flags that have no meaning beside another.
DECIDED_BY = {
    "--scaling": ("variant", "image_size", "peers", "compile"),
    "--checkpoint": ("variant", "batch_size", "image_size", "peers", "compile", "rounds", "seconds", "threads"),
}


@dataclass(frozen=True)
class Contestant:
    """What one line of the table is about."""

    label: str
    task: Task


def contestants(task: Task, peers: Sequence[str], precisions: Sequence[str], compiled: bool) -> list[Contestant]:
    """Ours by the fast path in each precision, ours as written, then the peers."""
    paths = [FAST, COMPILED] if compiled and not task.train else [FAST]
    ours = [
        Contestant(f"ours, {path}, {precision}", replace(task, library=OURS, path=path, precision=precision))
        for path in paths
        for precision in precisions
    ]
    ours.append(Contestant("ours, as written, fp32", replace(task, library=OURS)))
    return ours + [
        Contestant(f"{peer} {importlib.metadata.version(peer)}, fp32", replace(task, library=peer)) for peer in peers
    ]


def run_task(task: Task) -> dict[str, Any]:
    """The result of `benchmark_worker` in a fresh process.  Raises CommandError where it fails."""
    command = [sys.executable, "-m", "efficientnet.benchmark_worker", task.to_json()]
    what = f"{task.library} {task.variant}{', ' + task.path if task.library == OURS else ''}, {task.precision}"
    root = Path(__file__).resolve().parents[1]  # where there is a package to import, installed or not
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE + task.seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise CommandError(f"{what}: no result after {PATIENCE + task.seconds:g} seconds; try a smaller one") from None
    if process.returncode < 0:
        raise CommandError(f"{what}: its process was killed (signal {-process.returncode}); try a smaller --batch-size")
    if process.returncode:
        lines = process.stderr.strip().splitlines() or ["no message"]
        # Compilers add advice to the message of their error.
        reasons = [line for line in lines if re.match(r"\S*(Error|Exception): ", line)]
        raise CommandError(f"{what}: {(reasons or lines)[-1]}")
    return json.loads(process.stdout.splitlines()[-1])


def measured_rows(
    entries: Sequence[Contestant], rounds: int, machine: dict[str, float]
) -> tuple[list[dict[str, Any] | None], list[str]]:
    """The `row` of each contestant, None where it failed, and the reasons.  They take turns in every round."""
    results: list[list[dict[str, Any]]] = [[] for _ in entries]
    failures: dict[int, str] = {}
    with tqdm(total=rounds * len(entries), disable=not sys.stderr.isatty(), leave=False, unit=" runs") as bar:
        for _ in range(rounds):
            for place, entry in enumerate(entries):
                bar.set_postfix_str(entry.label, refresh=True)
                if place not in failures:
                    try:
                        results[place].append(run_task(entry.task))
                    except CommandError as error:
                        failures[place] = str(error)
                bar.update()
    rows = [None if place in failures else row(entry, results[place], machine) for place, entry in enumerate(entries)]
    return rows, list(failures.values())


def row(entry: Contestant, results: Sequence[dict[str, Any]], machine: dict[str, float]) -> dict[str, Any]:
    """One line of the table.

    seconds: the median over the rounds of each round's median; spread: half of what lies between the fastest and the
    slowest round, as a share of it.  peak_share: of the machine's matrix product in that precision; a training step
    is taken for three predictions, one forward and two backward.
    """
    medians = [statistics.median(result["seconds"]) for result in results]
    seconds = statistics.median(medians)
    task = entry.task
    work = multiply_adds(task.variant, task.image_size) * task.batch_size * (3 if task.train else 1)
    return {
        "label": entry.label,
        "library": task.library,
        "path": task.path if task.library == OURS else None,
        "precision": task.precision,
        "seconds": seconds,
        "images_per_second": task.batch_size / seconds,
        "spread": (max(medians) - min(medians)) / 2 / seconds,
        "peak_memory_mebibytes": statistics.median(result["peak"] for result in results),
        "peak_share": work / seconds / 1e9 / machine[task.precision] if task.precision in machine else None,
    }


def multiply_adds(variant: str, image_size: int) -> int:
    return complexity(get_architecture(variant).stages, image_size).multiply_adds


def table(rows: Sequence[dict[str, Any]], reference: dict[str, Any]) -> str:
    """The rows as text; the ratio is of images per second to the reference's."""
    width = max(len(entry["label"]) for entry in rows)
    lines = [f"{'':<{width}}{'ms':>9}{'images/s':>10}{'spread':>8}{'ratio':>7}{'of peak':>9}{'peak MiB':>10}"]
    for entry in rows:
        share = "-" if entry["peak_share"] is None else f"{100 * entry['peak_share']:.0f} %"
        lines.append(
            f"{entry['label']:<{width}}{1000 * entry['seconds']:9.1f}{entry['images_per_second']:10.2f}"
            f"{'+-' + format(100 * entry['spread'], '.0f') + ' %':>8}{reference['seconds'] / entry['seconds']:7.2f}"
            f"{share:>9}{entry['peak_memory_mebibytes']:10.0f}"
        )
    return "\n".join(lines)


def processor() -> str:
    """Its name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine_text(machine: dict[str, float], device: str, threads: int) -> str:
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {threads} threads"
    products = ", ".join(f"{precision} {machine[precision]:.0f}" for precision in ("fp32", "bf16"))
    return (
        f"{name}, torch {torch.__version__}; ceilings: matrix product {products} billion multiply-adds a second, "
        f"memory {machine['memory']:.0f} GB/s"
    )


def installed_peers(wanted: str | None, variant: str) -> list[str]:
    """The peers asked for, or those that are installed and have the variant.  CommandError for one that is missing."""
    able = [name for name, names in PEERS.items() if variant in names]
    if wanted is None:
        return [name for name in able if importlib.util.find_spec(name)]
    chosen = [name for name in wanted.split(",") if name]
    for name in chosen:
        if name not in PEERS:
            raise CommandError(f"--peers {name}: unknown; the known ones are {', '.join(PEERS)}")
        if name not in able:
            raise CommandError(f"--peers {name}: it has no {variant}")
        if not importlib.util.find_spec(name):
            raise CommandError(
                f'--peers {name}: it is not installed; run: pip install {name}, or pip install -e ".[peers]"'
            )
    return chosen


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(prog=PROGRAM, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [*VARIANTS, *(name for name in BASELINES if name not in VARIANTS)]
    parser.add_argument("--variant", choices=names, metavar="NAME", help=f"{', '.join(names)} (b0)")
    parser.add_argument("--batch-size", type=number(int, 1), metavar="N", help="images at once (16; for --scaling 4)")
    parser.add_argument(
        "--image-size", type=number(int, SMALLEST_IMAGE), metavar="N", help="default: the variant's own"
    )
    parser.add_argument("--train", action="store_true", help="a training step instead of a prediction")
    parser.add_argument("--compile", action="store_true", help="torch.compile too, which takes minutes more")
    parser.add_argument(
        "--peers", metavar="NAME,...", help=f"of {', '.join(PEERS)}; '' is none (default: those installed)"
    )
    parser.add_argument("--scaling", action="store_true", help="B0 to B7 and other sizes against their multiply-adds")
    parser.add_argument("--checkpoint", type=Path, metavar="FILE", help="metrics of a trained one in each precision")
    parser.add_argument("--data", type=Path, metavar="DIR", help="for --checkpoint (default: what it was trained on)")
    parser.add_argument("--rounds", type=number(int, 1), metavar="N", help="turns of each contestant (5)")
    parser.add_argument("--seconds", type=number(float, above=0), metavar="S", help="for each turn (3)")
    parser.add_argument("--threads", type=number(int, 1), metavar="N", help="of PyTorch (default: its own choice)")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda where there is one")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there as well")
    arguments = parser.parse_args(argv)
    chosen = [f"--{name}" for name in ("train", "scaling", "checkpoint") if getattr(arguments, name)]
    if len(chosen) > 1:
        parser.error(f"{' and '.join(chosen)} exclude each other")
    if arguments.data is not None and arguments.checkpoint is None:
        parser.error("--data goes with --checkpoint")
    if arguments.compile and arguments.train:
        parser.error("--compile is for predictions: torch.compile gains nothing for the training of these networks")
    for mode in chosen:
        given = [name for name in DECIDED_BY.get(mode, ()) if getattr(arguments, name) not in (None, False)]
        if given:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            parser.error(f"{flags}: not with {mode}, which decides that itself")
    return arguments


def compare(
    task: Task, peers: Sequence[str], compiled: bool, rounds: int, machine: dict[str, float]
) -> tuple[str, dict[str, Any]]:
    """Ours beside the peers: the text, and the same for --json."""
    lower = "fp16" if task.device == "cuda" else "bf16"
    entries = contestants(task, peers, ("fp32", lower), compiled)
    measured, failures = measured_rows(entries, rounds, machine)
    rows = [entry for entry in measured if entry]
    if not rows:
        raise CommandError(failures[0])
    reference = next((entry for entry in rows if entry["library"] != OURS), rows[-1])
    what = "training step" if task.train else "prediction"
    text = (
        f"{task.variant}, {what}, {task.batch_size} images of {task.image_size} pixels; median of {rounds} "
        f"rounds, each a fresh process\n\n{table(rows, reference)}\n\nratio: speed over that of {reference['label']}"
    )
    return text, {"task": vars(task), "reference": reference["label"], "rows": rows, "failures": failures}


@command(PROGRAM)
def main(argv: Sequence[str] | None = None) -> None:
    arguments = parse_arguments(argv)
    import torch

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cuda" and not torch.cuda.is_available():
        raise CommandError("--device cuda: PyTorch sees no CUDA device here; leave the flag out")
    if arguments.checkpoint is not None:
        from efficientnet.benchmark_checkpoint import compare_precisions

        text, result = compare_precisions(arguments.checkpoint, arguments.data, torch.device(device))
    else:
        variant = arguments.variant or "b0"
        task = Task(
            OURS,
            variant,
            arguments.batch_size or (4 if arguments.scaling else 16),
            arguments.image_size or get_architecture(variant).image_size,
            arguments.train,
            device=device,
            seconds=arguments.seconds or SECONDS,
            threads=arguments.threads,
        )
        peers = [] if arguments.scaling else installed_peers(arguments.peers, variant)
        rounds = arguments.rounds or ROUNDS
        machine = run_task(replace(task, library="machine"))
        print(machine_text(machine, device, arguments.threads or torch.get_num_threads()), flush=True)
        if arguments.scaling:
            from efficientnet.benchmark_scaling import compare_costs

            text, result = compare_costs(task, rounds, machine)
        else:
            text, result = compare(task, peers, arguments.compile, rounds, machine)
        result = {"machine": machine, "processor": processor(), "torch": torch.__version__, **result}
    print(text)
    if arguments.json is not None:
        write_json(arguments.json, result)
    if result.get("failures"):
        raise CommandError("; ".join(result["failures"]))


if __name__ == "__main__":
    leave(main())
