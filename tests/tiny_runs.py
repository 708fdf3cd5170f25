"""A run to disturb and to compare bit by bit: its recipe, ways to start, stop and kill it, and its folder."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from commands import ROOT, ranks, run

# 130,000 parameters, with everything that a B0 has: stages of one layer and of two, 3x3 and 5x5 kernels, shortcuts.
SMALL = ("--width", 0.2, "--depth", 0.5)
# Everything with a state or with random numbers is on: augmentation, mixing, balanced sampling, dropout, stochastic
# depth, gradient accumulation, the average of the weights.  Of 36 images that makes 9 updates an epoch on one rank, 4
# on two, 3 on three.
RECIPE = (
    *(*SMALL, "--image-size", 32, "--batch-size", 2, "--accumulate", 2, "--epochs", 3),
    *("--learning-rate", 1e-3, "--warmup-epochs", 0.5, "--positive-share", 0.4, "--ema-decay", 0.9),
    *("--mixup", 0.4, "--cutmix", 1, "--pooling", "gem"),
)
# The same for so long, some seconds, that a signal or a kill still meets it when this machine is busy.
LONG = (*RECIPE, "--epochs", 5)
# Saves after every update, so that half of the time a save is under way.
ALWAYS = ("--checkpoint-every", 1)


TIMES = {"seconds", "waited", "images_per_second", "waiting_share"}  # all that may differ between a run and another


def assert_same_run(a: Path, b: Path) -> None:
    """Both ended with the same weights, average, optimizer, scaler, metrics and predictions, to the bit."""
    for name in ("last.pt", "best.pt"):
        assert_same(torch.load(a / name, weights_only=True), torch.load(b / name, weights_only=True), name)
    assert (a / "predictions.csv").read_bytes() == (b / "predictions.csv").read_bytes()
    assert metrics(a) == metrics(b)


def assert_same(a, b, place: str) -> None:
    assert type(a) is type(b), place
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b), f"{place} differs by {(a - b).abs().max()}"
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), place
        for key in a.keys() - TIMES:
            assert_same(a[key], b[key], f"{place}: {key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), place
        for number, (one, other) in enumerate(zip(a, b, strict=True)):
            assert_same(one, other, f"{place}: {number}")
    else:
        np.testing.assert_equal(a, b, err_msg=place)  # where nan equals nan


def metrics(folder: Path) -> list[dict]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in line.keys() - TIMES} for line in lines]


def stopped_at(finished: Path, number: int, folder: Path) -> Path:
    """A run folder as it was when `finished`, which kept every checkpoint, had done `number` updates."""
    folder.mkdir()
    for path in (finished / "config.json", *finished.glob("*.txt*")):
        shutil.copy(path, folder)
    shutil.copy(finished / "checkpoints" / f"update-{number:08}.pt", folder / "last.pt")
    best, last = (torch.load(path, weights_only=True) for path in (finished / "best.pt", folder / "last.pt"))
    for name in ("best.pt", "predictions.csv", "MODEL_CARD.md"):
        if best["epoch"] <= last["epoch"] and (finished / name).exists():
            shutil.copy(finished / name, folder)
    return folder


def train(count: int, *arguments: object) -> SimpleNamespace:
    """`train.py ARGUMENTS` to its end, which has to be a good one; 0 is plain python, otherwise so many ranks."""
    process = run("train.py", *arguments) if count == 0 else ranks(count, "train.py", *arguments)
    assert process.returncode == 0, process.stderr
    return process


def start(
    count: int,
    *arguments: object,
    elastic: tuple[object, ...] = ("--standalone",),
    within: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> subprocess.Popen:
    """torchrun in the background; `elastic` are its own options, `within` a command that runs a command."""
    launcher = [*within, sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}"]
    return subprocess.Popen(
        [*launcher, *map(str, elastic), "train.py", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **(environment or {})},
    )


def wait_for(process: subprocess.Popen, beginning: str) -> None:
    """Until the process prints a line that begins so."""
    if not any(line.startswith(beginning) for line in process.stdout):
        pytest.fail(process.stderr.read())


def children(pid: int) -> list[int]:
    """Of torchrun: the ranks, in their order."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def kill(*pids: int) -> None:
    """SIGKILL, as the kernel sends it, to these and to what they started."""
    for pid in pids:
        below = children(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        kill(*below)
