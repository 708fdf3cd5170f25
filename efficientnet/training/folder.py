"""The run folder: its name, its lock, its logs, and the marks by which torchrun's restarts find it."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from efficientnet.common.command_line import program_name
from efficientnet.common.errors import UserError
from efficientnet.common.files import UNFINISHED, atomic_file, remove_unfinished, write_json
from efficientnet.training.distributed import Process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

RUNS = Path("runs")
STOPPED, LOCK, LAUNCH = "STOPPED", ".lock", ".launch"


@dataclass(frozen=True)
class RunFolder:
    """A folder with config.json, metrics.jsonl, the checkpoints and what the task writes beside the best."""

    path: Path

    @classmethod
    @contextlib.contextmanager
    def open(cls, output: Path | None, name: str, config: dict[str, Any], process: Process) -> Iterator[RunFolder]:
        """The folder, on every rank; rank 0 creates and locks it.

        output: None chooses a new folder with `name`.  config: the content of config.json.
        Raises UserError where another run is writing there.
        """
        with contextlib.ExitStack() as held:
            path = None
            if process.is_main:
                folder = cls(output) if output else cls.choose(name)
                folder.path.mkdir(parents=True, exist_ok=True)
                held.enter_context(folder.lock())
                remove_unfinished(folder.path, seconds=0)  # of a run that was killed: the lock says that none lives
                (folder.path / STOPPED).unlink(missing_ok=True)
                folder.mark_launch()
                write_json(folder.path / "config.json", config)
                path = str(folder.path)
            yield cls(Path(process.broadcast(path)))

    @classmethod
    def choose(cls, name: str) -> RunFolder:
        """`runs/<name>-<n>` with the next free number, created at once; a restart finds that of its first start."""
        own = cls.of_this_launch(None)
        if own is not None:
            return own
        taken = [path.name.rpartition("-")[2] for path in RUNS.glob(f"{name}-*")]
        number = max((int(text) for text in taken if text.isdigit()), default=0)
        while True:
            number += 1
            folder = cls(RUNS / f"{name}-{number}")
            try:
                folder.path.mkdir(parents=True)
            except FileExistsError:  # another run took it in this instant
                continue
            folder.mark_launch()
            return folder

    @classmethod
    def of_this_launch(cls, output: Path | None) -> RunFolder | None:
        """The folder that these workers had before torchrun restarted them, if they came so far; None otherwise.

        output: the folder of --output; without it they chose one.
        """
        if restarted():
            for path in [output] if output else RUNS.glob("*"):
                marker = path / LAUNCH
                if marker.exists() and marker.read_text(encoding="utf-8") == launch_name():
                    return cls(path)
        return None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out of the folder until this process ends: the kernel holds the lock.

        Raises UserError where another run has it. A run that was just killed is given three seconds to be gone. Where
        there are no locks, as on some network disks, there is a warning instead.
        """
        warning = (
            f"{program_name('train.py')}: warning: file locks are not available here; do not start a second run in "
            f"{self.path}"
        )
        if fcntl is None:
            print(warning, file=sys.stderr)
            yield
            return
        # Of the two kinds of lock, the one that loader processes do not inherit; they may outlive a killed rank.
        handle = os.open(self.path / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            deadline = time.monotonic() + 3
            while True:
                try:
                    fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except (BlockingIOError, PermissionError):
                    if time.monotonic() > deadline:
                        holder = os.pread(handle, 200, 0).decode("utf-8", "replace")
                        raise UserError(
                            f"{self.path}: in use by another run ({holder}); stop it first, or choose another --output"
                        ) from None
                    time.sleep(0.1)
                except OSError as error:
                    print(f"{warning} ({error.strerror})", file=sys.stderr)
                    break
            os.ftruncate(handle, 0)
            os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
            yield
        finally:
            os.close(handle)

    @property
    def in_the_way(self) -> Path | None:
        """The first file that a new run may not have beside it: any but what a run writes before its config.json."""
        for path in sorted(self.path.iterdir()) if self.path.exists() else []:
            unfinished = path.name.startswith(".config.json.") and path.suffix == UNFINISHED
            if path.name not in (LOCK, LAUNCH) and not unfinished:
                return path
        return None

    @property
    def is_run(self) -> bool:
        """Whether a run of this project has begun there."""
        try:
            config = json.loads((self.path / "config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        return isinstance(config, dict) and {"data", "settings", "recipe"} <= set(config)

    def mark_launch(self) -> None:
        launch = launch_name()
        if launch is not None:
            (self.path / LAUNCH).write_text(launch, encoding="utf-8")

    def mark_stopped(self, reason: str, process: Process) -> None:
        """Record that the run stopped because it was asked to, so that torchrun's restarts leave it alone.

        Every rank takes part: the mark is for restarts of this very start, on any machine, and for no other.
        """
        launches = process.gather(launch_name())
        if process.is_main:
            names = sorted({name for name in launches if name is not None})
            with atomic_file(self.path / STOPPED, "w") as file:
                file.writelines(f"{line}\n" for line in (reason, *names))

    @classmethod
    def stopped_before_restart(cls, output: Path | None) -> RunFolder | None:
        """For workers that torchrun has restarted: their folder, if the run in it was stopped on request."""
        if not restarted():
            return None
        folder = cls.of_this_launch(output) or (cls(output) if output else None)
        return folder if folder is not None and folder.is_stopped else None

    @property
    def is_stopped(self) -> bool:
        """Whether the run was stopped on request under this very start of torchrun."""
        try:
            lines = (self.path / STOPPED).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return launch_name() in lines[1:]

    def not_finite(self, suspects: list[list[str]], process: Process) -> UserError:
        """The error after too many broken updates in a row. The images of each, over all ranks, go into a file."""
        images = [list(chain(*parts)) for parts in zip(*process.gather(suspects), strict=True)]
        path = self.path / "not_finite.json"
        if process.is_main:
            write_json(path, images)
        return UserError(
            f"{len(suspects)} consecutive updates had a non-finite loss or gradients: lower --learning-rate, or use "
            f"--precision bf16 or fp32. {path} lists the images of each"
        )

    @staticmethod
    def logs(history: list[dict[str, Any]], unreadable: list[str]) -> dict[str, bytes]:
        """metrics.jsonl, a line an epoch in which numbers that are not finite are null; unreadable.txt if needed."""
        lines = []
        for values in history:
            clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
            lines.append(json.dumps(clean) + "\n")
        files = {"metrics.jsonl": "".join(lines).encode()}
        if unreadable:
            files["unreadable.txt"] = "".join(f"{line}\n" for line in unreadable).encode(errors="surrogateescape")
        return files


def launch_name() -> str | None:
    """A name for this machine's start of torchrun; None under plain python.

    Workers of a restart have the same one. Each machine of a run has its own, and so has a container that came back
    with the same process numbers.
    """
    identifier, agent = os.environ.get("TORCHELASTIC_RUN_ID"), os.getppid()
    if identifier is None:
        return None
    started = ""
    with contextlib.suppress(OSError):  # in clock ticks after the start of the machine (proc(5), stat); Linux only
        started = Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{identifier} {socket.gethostname()} {agent} {started}".strip()


def restarted() -> bool:
    """Whether torchrun has started these workers again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
