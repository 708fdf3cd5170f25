"""Measure ours and the installed peers in turns over several rounds, each measurement in a fresh process."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from efficientnet.baselines.stages import get_architecture
from efficientnet.benchmark.worker import FAST, PEERS, Task
from efficientnet.common.errors import UserError
from efficientnet.common.text import last_line
from efficientnet.complexity import Complexity, complexity
from efficientnet.inference.engines import ENGINES, OF_ONNX, check_engine, has_bf16, installed
from efficientnet.inference.exported import WRITERS

OURS = "efficientnet"
# Seconds that a process may take beyond its measurement, for imports, compilation and warm-up.
PATIENCE = 900


@dataclass(frozen=True)
class Contestant:
    """A line of the table: its label and its task."""

    label: str
    task: Task


def contestants(
    task: Task, peers: Sequence[str], engines: Sequence[str], precisions: Sequence[str]
) -> list[Contestant]:
    """Ours on the fast path and on each engine in each precision, and as written; then the peers."""
    ours = [
        Contestant(f"ours, {path}, {precision}", replace(task, library=OURS, path=path, precision=precision))
        for path in [FAST, *engines]
        for precision in precisions
        if path not in OF_ONNX or precision == "fp32" or (path == "openvino" and has_bf16(installed(path)))
    ]
    ours.append(Contestant("ours, as written, fp32", replace(task, library=OURS)))
    return ours + [
        Contestant(f"{peer} {importlib.metadata.version(peer)}, fp32", replace(task, library=peer)) for peer in peers
    ]


def worth_measuring(device: str, machine: dict[str, float]) -> tuple[str, ...]:
    """fp32 and the lower precision, unless this is a CPU that multiplies bf16 slower than fp32."""
    if device == "cuda":
        return "fp32", "fp16"
    return ("fp32", "bf16") if machine["bf16"] > machine["fp32"] else ("fp32",)


def run_task(task: Task) -> dict[str, Any]:
    """Run `worker` in a fresh process and return its result. Raises UserError if it fails."""
    command = [sys.executable, "-m", "efficientnet.benchmark.worker", task.to_json()]
    what = f"{task.library} {task.variant}{', ' + task.path if task.library == OURS else ''}, {task.precision}"
    root = Path(__file__).resolve().parents[2]  # the package may not be installed
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE + task.seconds, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{what}: no result after {PATIENCE + task.seconds:g} seconds; try a smaller model or batch"
        ) from None
    if process.returncode < 0:
        raise UserError(f"{what}: the process was killed (signal {-process.returncode}); try a smaller --batch-size")
    if process.returncode:
        # PyTorch's compiler prints advice after the error.
        reasons = [line for line in process.stderr.splitlines() if re.match(r"\S*(Error|Exception): ", line)]
        raise UserError(f"{what}: {reasons[-1] if reasons else last_line(process.stderr)}")
    return json.loads(process.stdout.splitlines()[-1])


def measured_rows(
    entries: Sequence[Contestant], rounds: int, machine: dict[str, float]
) -> tuple[list[dict[str, Any] | None], list[str]]:
    """Measure every contestant once per round; return the `row` of each, None if it failed, and the reasons."""
    results: list[list[dict[str, Any]]] = [[] for _ in entries]
    failures: dict[int, str] = {}
    with tqdm(total=rounds * len(entries), disable=not sys.stderr.isatty(), leave=False, unit=" runs") as bar:
        for _ in range(rounds):
            for place, entry in enumerate(entries):
                bar.set_postfix_str(entry.label, refresh=True)
                if place not in failures:
                    try:
                        results[place].append(run_task(entry.task))
                    except UserError as error:
                        failures[place] = str(error)
                bar.update()
    rows = [None if place in failures else row(entry, results[place], machine) for place, entry in enumerate(entries)]
    return rows, list(failures.values())


def row(entry: Contestant, results: Sequence[dict[str, Any]], machine: dict[str, float]) -> dict[str, Any]:
    """The values of a line of the table.

    seconds: median over the rounds of each round's median. spread: half the difference between the fastest and the
    slowest round, as a share of `seconds`. peak_share: speed as a share of the machine's matrix product in the same
    precision; a training step counts as three predictions, one forward and two backward.
    """
    medians = [statistics.median(result["seconds"]) for result in results]
    seconds = statistics.median(medians)
    task = entry.task
    work = counts_of(task.variant, task.image_size).multiply_adds * task.batch_size * (3 if task.train else 1)
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


def ceilings(task: Task) -> dict[str, float]:
    """The limits of the machine itself: see `worker.ceilings`."""
    return run_task(replace(task, library="machine"))


def counts_of(variant: str, image_size: int) -> Complexity:
    return complexity(get_architecture(variant).stages, image_size)


def table(rows: Sequence[dict[str, Any]], reference: dict[str, Any]) -> str:
    """The rows as text. ratio: speed over that of the reference."""
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
    """The name of the processor, or its architecture if the system does not tell the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine_text(machine: dict[str, float], device: str, threads: int) -> str:
    """The machine and its `ceilings` in one line."""
    name = torch.cuda.get_device_name() if device == "cuda" else f"{processor()}, {threads} threads"
    products = ", ".join(f"{precision} {machine[precision]:.0f}" for precision in ("fp32", "bf16"))
    return (
        f"{name}, torch {torch.__version__}; ceilings: matrix product {products} billion multiply-adds a second, "
        f"memory {machine['memory']:.0f} GB/s"
    )


def check_peers(wanted: str | None, variant: str) -> list[str] | None:
    """Split a list of peers, "timm,torchvision"; None stays None. ValueError if one is unknown or lacks the variant."""
    if wanted is None:
        return None
    chosen = [name for name in wanted.split(",") if name]
    for name in chosen:
        if name not in PEERS:
            raise ValueError(f"--peers {name}: unknown; choose from {', '.join(PEERS)}")
        if variant not in PEERS[name]:
            raise ValueError(f"--peers {name}: does not have {variant}")
    return chosen


def installed_peers(chosen: list[str] | None, variant: str) -> list[str]:
    """The chosen peers, or all installed ones that have the variant. UserError if a chosen one is not installed."""
    if chosen is None:
        return [name for name, names in PEERS.items() if variant in names and importlib.util.find_spec(name)]
    for name in chosen:
        if not importlib.util.find_spec(name):
            raise UserError(f'--peers {name}: not installed; run: pip install {name}, or pip install -e ".[peers]"')
    return chosen


def check_engines(wanted: str | None, train: bool) -> list[str] | None:
    """Split a list of engines, "compile,openvino"; None stays None. ValueError if one is unknown or if training."""
    chosen = [name for name in (wanted or "").split(",") if name]
    for name in chosen:
        if name not in ENGINES[1:]:
            raise ValueError(f"--engines {name}: unknown; choose from {', '.join(ENGINES[1:])}")
    if chosen and train:
        raise ValueError("--engines is for predictions: it cannot be combined with --train")
    return None if wanted is None else chosen


def installed_engines(chosen: list[str] | None, device: str) -> list[str]:
    """The chosen engines, or all installed ones that read ONNX. UserError if a chosen one cannot be used."""
    if chosen is None:
        return [name for name in OF_ONNX if device == "cpu" and all(map(importlib.util.find_spec, (name, *WRITERS)))]
    for name in chosen:
        try:
            check_engine(name, "fp32", device)
        except ValueError as error:
            raise UserError(f"--engines: {error}") from None
        if name in OF_ONNX:
            installed(name)
    return chosen


def compare(
    task: Task, peers: Sequence[str], engines: Sequence[str], rounds: int, machine: dict[str, float]
) -> tuple[str, dict[str, Any]]:
    """Compare ours with the peers; return the text and its values for --json."""
    with tempfile.TemporaryDirectory() as folder:
        task = replace(task, folder=folder)
        entries = contestants(task, peers, engines, worth_measuring(task.device, machine))
        measured, failures = measured_rows(entries, rounds, machine)
    rows = [entry for entry in measured if entry]
    if not rows:
        raise UserError(failures[0])
    reference = next((entry for entry in rows if entry["library"] != OURS), rows[-1])
    what = "training step" if task.train else "prediction"
    text = (
        f"{task.variant}, {what}, {task.batch_size} images of {task.image_size} pixels; median of {rounds} "
        f"rounds, each a fresh process\n\n{table(rows, reference)}\n\nratio: speed relative to {reference['label']}"
    )
    return text, {"task": vars(task), "reference": reference["label"], "rows": rows, "failures": failures}
