"""The run folder: its name, its log, its lock, and the mark of a run that was asked to stop."""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from efficientnet.common.errors import UserError
from efficientnet.common.files import UNFINISHED, atomic_file
from efficientnet.training.checkpoint import NUMBERED

RUNS = Path("runs")
STOPPED = "STOPPED"
LOCK, LAUNCH = ".lock", ".launch"


def launch_name() -> str | None:
    """Names this machine's start of torchrun, the same for the workers of a restart; None under plain python.

    On each of several machines it is another, and another one after a container has come back with the same numbers.
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


def own_folder(output: Path | None) -> Path | None:
    """For workers that torchrun has started again, the folder of their first start, if that came so far; None else.

    output: the folder that they were given; without one, it was a default one.
    """
    if restarted():
        for folder in [output] if output else RUNS.glob("*"):
            marker = folder / LAUNCH
            if marker.exists() and marker.read_text(encoding="utf-8") == launch_name():
                return folder
    return None


def choose_folder(name: str) -> Path:
    """`runs/<name>-<n>` with the next free number, made at once; a restart finds the folder of its first start."""
    own = own_folder(None)
    if own is not None:
        return own
    taken = [path.name.rpartition("-")[2] for path in RUNS.glob(f"{name}-*")]
    number = max((int(text) for text in taken if text.isdigit()), default=0)
    while True:
        number += 1
        folder = RUNS / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another run took it in this instant
            continue
        mark_launch(folder)
        return folder


def mark_launch(folder: Path) -> None:
    launch = launch_name()
    if launch is not None:
        (folder / LAUNCH).write_text(launch, encoding="utf-8")


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Keeps other runs out of the folder, at the latest until this process ends: the kernel holds the lock.

    Raises UserError where another run has it.  A run that was just killed is given three seconds to be gone.
    """
    # Of the two kinds of lock, the one that loader processes do not inherit; they may outlive a killed rank.
    handle = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
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
                        f"{folder}: another run is writing there ({holder}); stop it first, or choose another --output"
                    ) from None
                time.sleep(0.1)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Unfinished temporary files of a run that was killed while it wrote.  Only with the lock held."""
    for pattern in (f".*{UNFINISHED}", f"{NUMBERED}/.*{UNFINISHED}"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def is_free(folder: Path) -> bool:
    """Whether a new run may have it: it is not there, or has nothing but what a run makes before its config.json."""
    if not folder.exists():
        return True
    return folder.is_dir() and all(
        path.name in (LOCK, LAUNCH) or (path.name.startswith(".config.json.") and path.suffix == UNFINISHED)
        for path in folder.iterdir()
    )


def is_run_folder(folder: Path) -> bool:
    """Whether a run of this project has begun there."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and {"data", "settings", "recipe"} <= set(config)


def mark_stopped(folder: Path, reason: str, launches: Iterable[str | None]) -> None:
    """Says to whoever looks that the run stopped because it was asked, and to workers that torchrun starts again.

    launches: the `launch_name` of each rank; workers of other starts are not meant.
    """
    names = sorted({name for name in launches if name is not None})
    with atomic_file(folder / STOPPED, "w") as file:
        file.writelines(f"{line}\n" for line in (reason, *names))


def is_stopped(folder: Path) -> bool:
    """Whether the run there was stopped on request under this very start of torchrun."""
    try:
        lines = (folder / STOPPED).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return False
    return launch_name() in lines[1:]


def unmark_stopped(folder: Path) -> None:
    (folder / STOPPED).unlink(missing_ok=True)


def metrics_text(history: list[dict[str, Any]]) -> str:
    """metrics.jsonl: a line an epoch; what is not a finite number is null."""
    lines = []
    for values in history:
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
        lines.append(json.dumps(clean) + "\n")
    return "".join(lines)
