"""Several runs of train.py, each in a process and a folder of its own, some of them at the same time."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientnet.common.command_line import SCRIPTS
from efficientnet.common.errors import UserError

POLL = 0.1  # seconds between two looks at the processes
PR_SET_PDEATHSIG = 1  # of Linux's prctl

Metrics = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A run of train.py.  name: in messages.  flags: without --output and --resume."""

    name: str
    folder: Path
    flags: tuple[str, ...]

    @property
    def log(self) -> Path:
        """What the process prints: a file beside the run folder."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def diverged(self) -> bool:
        """Whether the run gave up because its loss or gradients were not finite."""
        return (self.folder / "not_finite.json").exists()

    def result(self) -> Metrics | None:
        """The last line of metrics.jsonl; None if the run is not finished."""
        try:
            lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            epochs = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))["recipe"]["epochs"]
        except OSError:
            return None
        return json.loads(lines[-1]) if len(lines) == epochs else None


def train_runs(
    next_run: Callable[[], Run | None], jobs: int, threads: int, gpus: tuple[str, ...] = ()
) -> Iterator[tuple[Run, Metrics | None]]:
    """Train runs until there are none left; yield each as it ends, with its `result`, or None if it diverged.

    Finished runs are not trained again, and begun ones are resumed.
    next_run: returns the next run to start, or None if there is none before another one has been yielded.
    jobs: processes at a time.  threads: of each.  gpus: the values of CUDA_VISIBLE_DEVICES that they take in turn.
    Raises UserError if a run fails. The others are then stopped, which saves their state, as they also are when the
    iterator is closed or, on Linux, when this process dies.
    """
    running: dict[int, tuple[Run, subprocess.Popen]] = {}
    try:
        while True:
            done = []
            while len(running) < jobs and (run := next_run()) is not None:
                if run.result() is not None or run.diverged:
                    yield run, None if run.diverged else run.result()
                    continue
                slot = min({*range(jobs)} - running.keys())
                running[slot] = run, start(run, threads, gpus[slot % len(gpus)] if gpus else None)
            if not running:
                return
            while not done:
                done = [slot for slot, (_, process) in running.items() if process.poll() is not None]
                time.sleep(0 if done else POLL)
            for slot in done:
                run, process = running.pop(slot)
                if run.result() is None and not run.diverged:
                    raise UserError(f"{run.name}: {last_line(run.log)} (exit code {process.returncode}; see {run.log})")
                yield run, None if run.diverged else run.result()
    finally:
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def start(run: Run, threads: int, gpu: str | None) -> subprocess.Popen:
    """Start the run's process, or resume it, on so many threads."""
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(SCRIPTS / "train.py"), *run.flags, "--output", str(run.folder), "--resume", "auto"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    options: dict[str, Any] = {}
    if platform.system() == "Linux":  # stop with this process, even if it is killed
        prctl = ctypes.CDLL(None).prctl
        options["preexec_fn"] = lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    with open(run.log, "ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, **options)


def last_line(log: Path) -> str:
    """The last line of a log that is not empty."""
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
