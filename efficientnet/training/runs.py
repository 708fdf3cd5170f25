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
from efficientnet.common.text import counted, last_line

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

    @property
    def has_ended(self) -> bool:
        return self.diverged or self.result() is not None

    def result(self) -> Metrics | None:
        """The last line of metrics.jsonl; None if the run is not finished, or diverged."""
        if self.diverged:
            return None
        try:
            lines = (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            epochs = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))["recipe"]["epochs"]
            return json.loads(lines[-1]) if len(lines) == epochs else None
        except (OSError, ValueError, LookupError):  # a damaged file is train.py's to report
            return None


@dataclass(frozen=True)
class Machine:
    """How processes share this machine.

    jobs: processes at a time.  threads: of each.  gpus: values of CUDA_VISIBLE_DEVICES, which the processes take in
    turn; none without CUDA.
    """

    jobs: int
    threads: int
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        where = f" on {counted(len(self.gpus), 'GPU')}" if self.gpus else ""
        return f"{counted(self.jobs, 'run')} at a time{where}, {counted(self.threads, 'thread')} each"

    def environment(self, slot: int) -> dict[str, str]:
        """The environment variables of process `slot`, which is below `jobs`."""
        visible = {"CUDA_VISIBLE_DEVICES": self.gpus[slot % len(self.gpus)]} if self.gpus else {}
        return {**os.environ, "OMP_NUM_THREADS": str(self.threads), **visible}


def train_runs(next_run: Callable[[], Run | None], machine: Machine) -> Iterator[tuple[Run, Metrics | None]]:
    """Train runs until there are none left; yield each as it ends, with its `result`, or None if it diverged.

    Finished runs are not trained again, and begun ones are resumed.
    next_run: returns the next run to start, or None if there is none before another one has been yielded.
    Raises UserError if a run fails. The others are then stopped, which saves their state, as they also are when the
    iterator is closed or, on Linux, when this process dies.
    """
    running: dict[int, tuple[Run, subprocess.Popen]] = {}
    try:
        while True:
            done = []
            while len(running) < machine.jobs and (run := next_run()) is not None:
                if run.has_ended:
                    yield run, run.result()
                    continue
                slot = min({*range(machine.jobs)} - running.keys())
                running[slot] = run, start(run, machine.environment(slot))
            if not running:
                return
            while not done:
                done = [slot for slot, (_, process) in running.items() if process.poll() is not None]
                time.sleep(0 if done else POLL)
            for slot in done:
                run, process = running.pop(slot)
                if not run.has_ended:
                    printed = run.log.read_text(encoding="utf-8", errors="replace")
                    raise UserError(f"{run.name}: {last_line(printed)} (exit code {process.returncode}; see {run.log})")
                yield run, run.result()
    finally:
        if running:
            print(f"stopping and saving {counted(len(running), 'run')}", file=sys.stderr, flush=True)
        for _, process in running.values():
            process.terminate()
        for _, process in running.values():
            process.wait()


def start(run: Run, environment: dict[str, str]) -> subprocess.Popen:
    """Start the run's process, or resume it.

    In a session of its own, it does not get the Ctrl-C of the terminal: `train_runs` stops it, once.
    """
    run.folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(SCRIPTS / "train.py"), *run.flags, "--output", str(run.folder), "--resume", "auto"]
    options: dict[str, Any] = {"env": environment, "start_new_session": True}
    if platform.system() == "Linux":  # stop with this process, even if it is killed
        prctl = ctypes.CDLL(None).prctl
        options["preexec_fn"] = lambda: prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    with open(run.log, "ab") as log:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, **options)
