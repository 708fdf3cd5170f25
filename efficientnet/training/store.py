"""When a run saves its state, and how: files written in a thread while training goes on."""

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

from tqdm import tqdm

from efficientnet.common.files import atomic_file
from efficientnet.training.checkpoint import write_checkpoint, write_numbered


@dataclass(frozen=True)
class Interval:
    """So many seconds, or so many updates; the other is None."""

    seconds: float | None = None
    updates: int | None = None


def interval(text: str) -> Interval:
    """An argparse type: `90s`, `10m` or `2h` is time, a bare number is updates."""
    found = re.fullmatch(r"([1-9]\d{0,8})([smh]?)", text)
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a time such as 10m nor a number of updates such as 500")
    number, unit = int(found[1]), found[2]
    return Interval(seconds=number * {"s": 1, "m": 60, "h": 3600}[unit]) if unit else Interval(updates=number)


class CheckpointWriter:
    """Writes a run's files in a thread, one save after another, each file atomically.

    The caller serialises, which is the moment that a checkpoint speaks of; the disk is the thread's.  What cannot be
    written (a full disk) is warned of and tried again with the next save, and leaves the file that was there before.
    """

    def __init__(self, folder: Path, every: Interval, keep: int) -> None:
        self.folder, self.every, self.keep = folder, every, keep
        self.error: OSError | None = None  # of the last save, if anything of it failed
        self._pending: dict[str, partial[None]] = {}
        self._thread = threading.Thread()
        self._saved = time.monotonic()

    def due(self, number: int) -> bool:
        """Whether the state after update `number` is to be saved."""
        if self.every.updates:
            return number % self.every.updates == 0
        return time.monotonic() - self._saved >= self.every.seconds

    def save(
        self, number: int, checkpoint: memoryview, files: Mapping[str, bytes | memoryview] | None = None, say: str = ""
    ) -> None:
        """Begins to write `files`, by their names in the run folder, then the checkpoint after update `number`.

        Waits for the save before, if that is still under way.  say: printed once everything is on the disk.
        """
        self.wait()
        for name, data in (files or {}).items():
            write = write_checkpoint if name.endswith(".pt") else write_file
            self._pending[name] = partial(write, self.folder / name, data)
        self._pending["last.pt"] = partial(write_numbered, self.folder, number, checkpoint, self.keep)
        self._saved = time.monotonic()
        self._thread = threading.Thread(target=self._write, args=(say,))
        self._thread.start()

    def _write(self, say: str) -> None:
        self.error = None
        for name, write in list(self._pending.items()):
            try:
                write()
                del self._pending[name]
            except OSError as error:
                self.error = error
                tqdm.write(
                    f"train.py: warning: {self.folder / name} could not be saved ({error.strerror}); "
                    "what was there before is whole, and the next save tries again",
                    file=sys.stderr,
                )
        if say:
            tqdm.write(say, file=sys.stdout)  # above a progress bar, if there is one

    def wait(self) -> None:
        """Until the disk has what was given to `save`, or has refused it: see `error`."""
        if self._thread.is_alive():
            self._thread.join()


def write_file(path: Path, data: bytes | memoryview) -> None:
    with atomic_file(path) as file:
        file.write(data)
