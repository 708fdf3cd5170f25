"""A run to disturb and to compare bit by bit: its recipe, ways to start, stop and kill it, and its folder."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import ROOT, run, torchrun

# The whole of the fault-injection suite takes about half an hour; a part of it runs always.
whole_suite = pytest.mark.skipif("FAULT_INJECTION" not in os.environ, reason="set FAULT_INJECTION=1 for the whole")

# Everything with a state or with random numbers is on: augmentation, balanced sampling, dropout, stochastic depth,
# gradient accumulation, the average of the weights.  Of 36 images that makes 9 updates an epoch on one rank, 4 on two,
# 3 on three.
RECIPE = (
    *("--variant", "b0", "--image-size", 32, "--batch-size", 2, "--accumulate", 2, "--epochs", 3),
    *("--learning-rate", 1e-3, "--warmup-epochs", 0.5, "--positive-share", 0.4, "--ema-decay", 0.9),
)
# Saves after every update, so that half of the time a save is under way.
ALWAYS = ("--checkpoint-every", 1)


TIMES = {
    "seconds",
    "waited",
    "images_per_second",
    "waiting_share",
}  # all that may differ between a run and its repetition


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
    shutil.copy(finished / "config.json", folder)
    shutil.copy(finished / "checkpoints" / f"update-{number:08}.pt", folder / "last.pt")
    best, last = (torch.load(path, weights_only=True) for path in (finished / "best.pt", folder / "last.pt"))
    for name in ("best.pt", "predictions.csv", "MODEL_CARD.md") if best["epoch"] <= last["epoch"] else ():
        shutil.copy(finished / name, folder)
    return folder


def train(ranks: int, *arguments: object) -> subprocess.CompletedProcess:
    """`train.py ARGUMENTS` to its end, which has to be a good one; on 0 ranks plain python, else torchrun."""
    process = run("train.py", *arguments) if ranks == 0 else torchrun(ranks, "train.py", *arguments)
    assert process.returncode == 0, process.stderr
    return process


def start(
    ranks: int,
    *arguments: object,
    elastic: tuple[object, ...] = ("--standalone",),
    within: tuple[str, ...] = (),
    environment: dict[str, str] | None = None,
) -> subprocess.Popen:
    """The same in the background; `elastic` are torchrun's own options, `within` a command that runs a command."""
    command = [*within, sys.executable]
    if ranks:
        command += ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}", *map(str, elastic)]
    return subprocess.Popen(
        [*command, "train.py", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
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
