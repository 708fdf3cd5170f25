"""Saving: when a save is due, and a thread that writes in the background."""

from __future__ import annotations

import argparse
import re
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from efficientnet.common.command_line import program_name
from efficientnet.common.errors import UserError
from efficientnet.common.files import write_bytes
from efficientnet.training.checkpoint import serialise, write_checkpoint, write_numbered


@dataclass(frozen=True)
class Interval:
    """A number of seconds or a number of updates; the other is None."""

    seconds: float | None = None
    updates: int | None = None


def interval(text: str) -> Interval:
    """An argparse type: `90s`, `10m` or `2h` is time, a bare number is updates."""
    found = re.fullmatch(r"([1-9]\d{0,8})([smh]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a time such as 10m nor a number of updates such as 500")
    number, unit = int(found[1]), found[2]
    return Interval(seconds=number * {"s": 1, "m": 60, "h": 3600}[unit]) if unit else Interval(updates=number)


class CheckpointStore:
    """Writes a run's files in a thread, one save after another, each file atomically.

    `save` copies the state in memory, so that training can continue while the thread writes. If a file cannot be
    written (a full disk), the store warns, keeps the old file, and tries again with the next save. The next call of
    `wait`, `save` or `close` raises any other exception of the thread.

    active: False on all ranks but 0, where no save is due and `save` does nothing.
    """

    def __init__(self, folder: Path, every: Interval, keep: int, active: bool = True) -> None:
        self.folder, self.every, self.keep, self.active = folder, every, keep, active
        self.error: OSError | None = None  # of the last save, if any file failed
        self.pending: dict[str, partial[None]] = {}
        self.failure: Exception | None = None  # any other exception in the thread
        self.thread = threading.Thread()
        self.saved = time.monotonic()

    def due(self, number: int) -> bool:
        """Whether the state after update `number` should be saved."""
        if not self.active:
            return False
        if self.every.updates:
            return number % self.every.updates == 0
        return time.monotonic() - self.saved >= self.every.seconds

    def save(
        self,
        number: int,
        content: dict[str, Any],
        files: Mapping[str, bytes] | None = None,
        best: bool = False,
        say: str = "",
    ) -> None:
        """Start writing `files` (by name in the run folder), then the checkpoint after update `number`.

        Waits for the previous save if it is still running.  best: write best.pt too, the checkpoint without "training".
        say: printed once everything is on disk.
        """
        if not self.active:
            return
        self.wait()
        for name, data in (files or {}).items():
            self.pending[name] = partial(write_bytes, self.folder / name, data)
        if best:
            data = serialise({name: value for name, value in content.items() if name != "training"})
            self.pending["best.pt"] = partial(write_checkpoint, self.folder / "best.pt", data)
        self.pending["last.pt"] = partial(write_numbered, self.folder, number, serialise(content), self.keep)
        self.saved = time.monotonic()
        self.thread = threading.Thread(target=self.write, args=(say,))
        self.thread.start()

    def write(self, say: str) -> None:
        try:
            self.write_pending()
            if say:
                tqdm.write(say, file=sys.stdout)  # above a progress bar, if there is one
        except Exception as failure:
            self.failure = failure

    def write_pending(self) -> None:
        self.error = None
        for name, write in list(self.pending.items()):
            try:
                write()
                del self.pending[name]
            except OSError as error:
                self.error = error
                tqdm.write(
                    f"{program_name('train.py')}: warning: {self.folder / name} could not be saved "
                    f"({error.strerror or error}); any previous version is intact, and the next save will retry",
                    file=sys.stderr,
                )

    def wait(self) -> None:
        """Wait until the last save has been written or has failed."""
        if self.thread.is_alive():
            self.thread.join()
        if self.failure is not None:
            raise self.failure

    def close(self, what: str) -> None:
        """Do `wait`; if the last save failed, raise UserError with a message that begins with `what`."""
        self.wait()
        if self.error:
            raise UserError(f"{what}, but could not write to {self.folder}: {self.error.strerror or self.error}")
