"""Original images -> prepared pictures, in processes that may crash."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from efficientnet.common.files import write_bytes
from efficientnet.common.isolated import Failure, run_isolated
from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.picture import encode_picture, is_prepared, read_picture
from efficientnet.mammography.preprocessing import Preprocessing


@dataclass(frozen=True)
class Job:
    """One image to prepare: source, target, and the side in the table, for pictures that do not show it."""

    source: Path
    target: Path
    laterality: str

    @property
    def origin(self) -> str:
        """The inputs that decide the picture besides the settings, as stored in the prepared file."""
        name = self.source.name.encode("ascii", "backslashreplace").decode()  # PNG stores other text differently
        return f"{name}, {self.source.stat().st_size} bytes, {self.laterality}"

    def is_done(self, settings: Preprocessing) -> bool:
        """Whether the prepared file is complete, with these settings, from this source, and no older than it."""
        try:
            if not is_prepared(self.target, settings, self.origin):
                return False
            return self.source.stat().st_mtime <= self.target.stat().st_mtime
        except OSError:  # such as a broken link, which fails with a reason when it is prepared
            return False


def prepare_image(job: Job, settings: Preprocessing) -> bytes | Failure:
    """The content of the prepared file."""
    try:
        return encode_picture(read_picture(job.source, settings, job.laterality), settings, job.origin)
    except ImageError as error:
        return Failure(str(error).removeprefix(f"{job.source}: "))


def prepare(jobs: list[Job], bar: tqdm, settings: Preprocessing, limits: dict[str, Any]) -> Iterator[tuple[Job, str]]:
    """Prepare the jobs, and yield those that failed with the reason. `limits` are those of `run_isolated`."""

    def still_to_do() -> Iterator[Job]:
        for job in jobs:
            if job.is_done(settings):  # by another process that prepares the same folder
                bar.update()
            else:
                yield job

    for job, result in run_isolated(partial(prepare_image, settings=settings), still_to_do(), **limits):
        if isinstance(result, Failure):
            job.target.unlink(missing_ok=True)  # made from an earlier source of this name
            yield job, result.reason
        else:
            # Written by this process, so that one that is killed for its image leaves nothing behind.
            write_bytes(job.target, result)
        bar.update()
