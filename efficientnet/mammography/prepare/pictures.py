"""Original images to prepared pictures, in processes that may crash."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from efficientnet.common.isolated import Failure, run_isolated
from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.picture import encode_picture, is_prepared, read_picture
from efficientnet.mammography.preprocessing import Preprocessing


@dataclass(frozen=True)
class Job:
    """One image to prepare: from where, to where, and its side in the table, for pictures that do not show it."""

    source: Path
    target: Path
    laterality: str

    @property
    def origin(self) -> str:
        """What decides the picture beside the settings, as the prepared file notes it."""
        name = self.source.name.encode("ascii", "backslashreplace").decode()  # PNG has two forms for other text
        return f"{name}, {self.source.stat().st_size} bytes, {self.laterality}"

    def is_done(self, settings: Preprocessing) -> bool:
        """Whether the prepared file is whole, by these settings, from this source, and no older than it."""
        try:
            if not is_prepared(self.target, settings, self.origin):
                return False
            return self.source.stat().st_mtime <= self.target.stat().st_mtime
        except OSError:  # such as a link to nothing: what is wrong with it, preparing it will say
            return False


def prepare_image(job: Job, settings: Preprocessing) -> bytes | Failure:
    """The content of the prepared file."""
    try:
        return encode_picture(read_picture(job.source, settings, job.laterality), settings, job.origin)
    except ImageError as error:
        return Failure(str(error).removeprefix(f"{job.source}: "))


def prepare(
    jobs: list[Job], bar: tqdm, output: Path, settings: Preprocessing, limits: dict[str, Any]
) -> Iterator[tuple[Job, str]]:
    """Prepares the jobs, and yields those that failed with the reason. `limits` are those of `run_isolated`."""

    def still_to_do() -> Iterator[Job]:
        for job in jobs:
            if job.is_done(settings):  # by another process that prepares the same meanwhile
                bar.update()
            else:
                yield job

    with own_file(output) as unfinished:
        for job, result in run_isolated(partial(prepare_image, settings=settings), still_to_do(), **limits):
            if isinstance(result, Failure):
                job.target.unlink(missing_ok=True)  # what an earlier source of this name gave
                yield job, result.reason
            else:
                # This process alone writes, so that nothing is left by one that dies; and it has one file to write to.
                # The disk has its content before its name, or a power cut could leave a file of zeros.  That costs half
                # a millisecond on an SSD; to check every picture at the next start would be to read all of them.
                with open(unfinished, "wb") as file:
                    file.write(result)
                    file.flush()
                    os.fsync(file.fileno())
                job.target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(unfinished, job.target)
            bar.update()


@contextlib.contextmanager
def own_file(output: Path) -> Iterator[Path]:
    """A name in the folder that is this process's alone; before, what killed ones of this machine left is cleared."""
    prefix = f".unfinished-{socket.gethostname()}-{process_namespace()}-"
    for path in output.glob(f"{prefix}*"):
        process = path.name.removeprefix(prefix).partition("-")[0]
        if process.isdecimal() and not is_running(int(process)):
            path.unlink(missing_ok=True)
    path = output / f"{prefix}{os.getpid()}-{secrets.token_hex(4)}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def process_namespace() -> str:
    """Where the numbers of processes hold: containers with one host name may each have a process of the same number."""
    try:
        return os.readlink("/proc/self/ns/pid").strip("pid:[]")
    except OSError:  # not Linux
        return "0"


def is_running(process: int) -> bool:
    if os.name != "posix":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True
