"""Original images -> prepared pictures, in separate processes that may crash."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from efficientnet.common.files import write_bytes
from efficientnet.common.isolated import Failure, run_isolated
from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.image_files import is_dicom
from efficientnet.mammography.picture import encode_picture, is_prepared, prepared_notes, read_noted_picture
from efficientnet.mammography.preprocessing import Preprocessing


@dataclass(frozen=True)
class Job:
    """One image to prepare: source, target, and the laterality in the table, for a picture that does not show it."""

    source: Path
    target: Path
    laterality: str

    def origin(self, settings: Preprocessing, dated: bool = True) -> str:
        """The inputs that determine the picture, besides the key of the settings, as text for the prepared file.

        `dated=False` leaves out the modification time, which older versions did not store.
        """
        name = self.source.name.encode("ascii", "backslashreplace").decode()  # PNG stores non-ASCII text differently
        ways = ("accept_raw",) if is_dicom(self.source) else ("bits", "invert_bright")
        defaults = {field.name: field.default for field in fields(settings)}  # not stored, so that older files match
        read = [f"{way} {value}" for way in ways if (value := getattr(settings, way)) != defaults[way]]
        state = self.source.stat()
        modified = [f"modified {state.st_mtime_ns} ns"] if dated else []
        return ", ".join([name, f"{state.st_size} bytes", *modified, self.laterality, *read])

    def is_done(self, settings: Preprocessing) -> bool:
        """Whether the prepared file is complete and was made with these settings from the source as it is now.

        A source with a new date counts as changed, even if only copied: needless work is better than a wrong picture.
        """
        try:
            if is_prepared(self.target, settings, self.origin(settings)):
                return True
            undated = is_prepared(self.target, settings, self.origin(settings, dated=False))
            return undated and self.source.stat().st_mtime <= self.target.stat().st_mtime
        except OSError:  # such as a broken link; preparing it reports the reason
            return False


def prepare_image(job: Job, settings: Preprocessing) -> bytes | Failure:
    """The content of the prepared file, or a Failure with the reason."""
    try:
        origin = job.origin(settings)  # first, so that a file replaced meanwhile is prepared again next time
        picture, notes = read_noted_picture(job.source, settings, job.laterality)
        return encode_picture(picture, settings, origin, notes)
    except ImageError as error:
        return Failure(str(error).removeprefix(f"{job.source}: "))
    except OSError as error:
        return Failure(f"it cannot be opened ({error.strerror or error}); check the path")


def prepare(jobs: list[Job], bar: tqdm, settings: Preprocessing, limits: dict[str, Any]) -> Iterator[tuple[Job, str]]:
    """Prepare the jobs, and yield each failed job with the reason. `limits` are those of `run_isolated`."""

    def still_to_do() -> Iterator[Job]:
        for job in jobs:
            if job.is_done(settings):  # done meanwhile by another process on the same folder
                bar.update()
            else:
                yield job

    for job, result in run_isolated(partial(prepare_image, settings=settings), still_to_do(), **limits):
        if isinstance(result, Failure):
            job.target.unlink(missing_ok=True)  # made from an earlier source of this name
            yield job, result.reason
        else:
            # Written here and not by the worker, so that a killed worker leaves no partial file behind.
            write_bytes(job.target, result)
        bar.update()


def count_notes(jobs: list[Job], failures: Collection[Path]) -> dict[str, int]:
    """The number of prepared pictures with each note on their sources, the most frequent first."""
    done = [job.target for job in jobs if job.source not in failures]
    return dict(Counter(note for target in done for note in prepared_notes(target)).most_common())
