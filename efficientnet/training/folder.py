"""The run folder: its name, lock and logs, and the marks by which workers find it after a torchrun restart."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from efficientnet.common.command_line import program_name
from efficientnet.common.errors import UserError
from efficientnet.common.files import UNFINISHED, atomic_file, remove_unfinished, write_bytes, write_json
from efficientnet.training.curves import curves_png
from efficientnet.training.distributed import Process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

RUNS = Path("runs")
STOPPED, LOCK, LAUNCH = "STOPPED", ".lock", ".launch"


@dataclass(frozen=True)
class RunFolder:
    """A folder with config.json, metrics.jsonl, curves.png, the checkpoints, and the task's files for the best one."""

    path: Path

    @classmethod
    @contextlib.contextmanager
    def open(
        cls,
        output: Path | None,
        name: str,
        config: dict[str, Any],
        process: Process,
        records: Callable[[], Mapping[str, bytes]] = dict,
    ) -> Iterator[RunFolder]:
        """Open the folder on every rank; rank 0 creates and locks it.

        output: None chooses a new folder with `name`.  config: the content of config.json.
        records: returns further files by name.
        Raises UserError if another run is writing there.
        """
        with contextlib.ExitStack() as held:
            path = None
            if process.is_main:
                folder = cls(output) if output else cls.choose(name)
                folder.path.mkdir(parents=True, exist_ok=True)
                held.enter_context(folder.lock())
                remove_unfinished(folder.path, seconds=0)  # of a killed run: the lock rules out a live one
                (folder.path / STOPPED).unlink(missing_ok=True)
                folder.mark_launch()
                write_json(folder.path / "config.json", config)
                for record, data in records().items():
                    write_bytes(folder.path / record, data)
                path = str(folder.path)
            yield cls(Path(process.broadcast(path)))

    @classmethod
    def choose(cls, name: str) -> RunFolder:
        """Create `runs/<name>-<n>` with the next free number. After a restart, return the folder of the first start."""
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
            except FileExistsError:  # another run has just created it
                continue
            folder.mark_launch()
            return folder

    @classmethod
    def of_this_launch(cls, output: Path | None) -> RunFolder | None:
        """The folder that these workers had before torchrun restarted them; None if there was no restart or no folder.

        output: the folder of --output; None looks for the folder that they chose.
        """
        if restarted():
            for path in [output] if output else RUNS.glob("*"):
                marker = path / LAUNCH
                if marker.exists() and marker.read_text(encoding="utf-8") == launch_name():
                    return cls(path)
        return None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other runs out of the folder. The kernel releases the lock if this process dies.

        Raises UserError if another run holds the lock. A run that was just killed gets three seconds to exit. Where
        locks do not work, as on some network disks, it prints a warning instead.
        """
        warning = (
            f"{program_name('train.py')}: warning: file locks are not available here; do not start a second run in "
            f"{self.path}"
        )
        if fcntl is None:
            print(warning, file=sys.stderr)
            yield
            return
        # lockf rather than flock: loader processes, which may outlive a killed rank, do not inherit a lockf lock.
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
        """The first file that rules out a new run here, or None. Files that runs write before config.json are fine."""
        for path in sorted(self.path.iterdir()) if self.path.exists() else []:
            unfinished = path.name.startswith(".config.json.") and path.suffix == UNFINISHED
            if path.name not in (LOCK, LAUNCH) and not unfinished:
                return path
        return None

    @property
    def is_run(self) -> bool:
        """Whether a run of this project has started in the folder."""
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
        """Record that the run was stopped on request, so that torchrun's restarts do not continue it.

        Must be called on every rank. The mark applies to restarts of this torchrun launch only, on any machine.
        """
        launches = process.gather(launch_name())
        if process.is_main:
            names = sorted({name for name in launches if name is not None})
            with atomic_file(self.path / STOPPED, "w") as file:
                file.writelines(f"{line}\n" for line in (reason, *names))

    @classmethod
    def stopped_before_restart(cls, output: Path | None) -> RunFolder | None:
        """The folder of workers that torchrun has restarted, if the run in it was stopped on request; else None."""
        if not restarted():
            return None
        folder = cls.of_this_launch(output) or (cls(output) if output else None)
        return folder if folder is not None and folder.is_stopped else None

    @property
    def is_stopped(self) -> bool:
        """Whether the run was stopped on request under this torchrun launch."""
        try:
            lines = (self.path / STOPPED).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return False
        return launch_name() in lines[1:]

    def not_finite(self, suspects: list[list[str]], process: Process) -> UserError:
        """The error for too many non-finite updates in a row. Writes the images of each, from all ranks, to a file."""
        images = [list(chain(*parts)) for parts in zip(*process.gather(suspects), strict=True)]
        path = self.path / "not_finite.json"
        if process.is_main:
            write_json(path, images)
        return UserError(
            f"{len(suspects)} consecutive updates had a non-finite loss or gradients: lower --learning-rate, or use "
            f"--precision bf16 or fp32. {path} lists the images of each"
        )

    def draw_curves(self, history: list[dict[str, Any]]) -> None:
        """Write curves.png, where matplotlib is installed."""
        picture = curves_png(history)
        if picture is not None:
            with contextlib.suppress(OSError):  # no reason to fail a finished run
                write_bytes(self.path / "curves.png", picture)

    @staticmethod
    def logs(history: list[dict[str, Any]], unreadable: list[str]) -> dict[str, bytes]:
        """Contents of metrics.jsonl (a line per epoch, non-finite numbers as null) and, if needed, unreadable.txt."""
        lines = []
        for values in history:
            clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
            lines.append(json.dumps(clean) + "\n")
        files = {"metrics.jsonl": "".join(lines).encode()}
        if unreadable:
            files["unreadable.txt"] = "".join(f"{line}\n" for line in unreadable).encode(errors="surrogateescape")
        return files


def launch_name() -> str | None:
    """A name for this machine's torchrun launch; None under plain python.

    Workers keep the name after a restart. Each machine of a run has its own name, and so does a container that was
    recreated with the same process ids.
    """
    identifier, agent = os.environ.get("TORCHELASTIC_RUN_ID"), os.getppid()
    if identifier is None:
        return None
    started = ""
    with contextlib.suppress(OSError):  # in clock ticks since boot (proc(5), stat); Linux only
        started = Path(f"/proc/{agent}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{identifier} {socket.gethostname()} {agent} {started}".strip()


def restarted() -> bool:
    """Whether torchrun has restarted these workers after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
