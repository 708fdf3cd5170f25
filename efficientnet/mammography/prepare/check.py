"""Check the tables, their image files and the headers, for --check and before each run decodes anything."""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pydicom
from tqdm import tqdm

from efficientnet.common.isolated import Failure, run_isolated
from efficientnet.mammography.dicom.headers import Header, count_lines, first_lines, look_at, report
from efficientnet.mammography.dicom.reading import value_place
from efficientnet.mammography.image_files import every_image, find_images, is_dicom, name_hint, source_folder
from efficientnet.mammography.layouts import LAYOUTS, find_table
from efficientnet.mammography.raster import Survey, look, sample
from efficientnet.mammography.table import Row, Table, read_table
from efficientnet.mammography.table_columns import check_columns

SAMPLE = 2**16  # bytes from the middle of the pixel data, which shows tissue: many images begin and end with background


@dataclass(frozen=True)
class TableFiles:
    """train.csv or test.csv, and the image file of each row."""

    name: str
    table: Table
    files: list[Path | None]

    @property
    def folder(self) -> str:
        return f"{self.name}_images"

    @property
    def source_folder(self) -> str:
        """The folder of the images, which a published layout names otherwise."""
        return source_folder(self.table, self.folder)

    @property
    def images(self) -> list[tuple[Row, Path]]:
        """The rows that have a file, each with its file."""
        return [(row, file) for row, file in zip(self.table.rows, self.files, strict=True) if file is not None]


def read_splits(data: Path, columns: dict[str, str] | None) -> list[TableFiles]:
    """The tables that exist, one or both. Raises TableError."""
    splits = []
    for name in ("train", "test"):
        source = find_table(data, columns, f"{name}.csv")
        if source.path.exists():
            if name == "train":  # a test table need not have the labels that --columns names
                check_columns(source.path, source.columns)
            table = read_table(source.path, columns=source.columns, labels="none")
            splits.append(TableFiles(name, table, find_images(table, data, f"{name}_images")))
    return splits


def survey_of(files: list[Path], limits: dict[str, Any]) -> Survey:
    """Survey a sample of the PNG, JPEG and TIFF files."""
    return Survey.of(dict(run_isolated(look, [path for part in sample(files) for path in part], **limits)))


def look_at_all(files: list[Path], raw: bool, limits: dict[str, Any]) -> dict[Path, Header | Failure]:
    """The header of each file."""
    return call_on_all(partial(look_at, raw=raw), files, "headers", limits)


def call_on_all(function: Callable[[Path], Any], files: list[Path], name: str, limits: dict[str, Any]) -> dict:
    """Map each file to `function(file)` or a Failure, in the order of `files`. `limits` are those of `run_isolated`."""
    found = {}
    with progress_bar(len(files), name) as bar:
        for path, result in run_isolated(function, files, **limits):
            found[path] = result
            bar.update()
    return {path: found[path] for path in files}


def progress_bar(total: int, name: str, initial: int = 0) -> tqdm:
    """A bar with progress, speed and remaining time; hidden unless stderr is a terminal."""
    hidden = not sys.stderr.isatty()
    return tqdm(desc=name, total=total, initial=initial, unit=" images", disable=hidden, leave=False, smoothing=0.05)


def check_lines(
    splits: list[TableFiles],
    data: Path,
    headers: Mapping[Path, Header | Failure],
    limits: dict[str, Any],
) -> list[str]:
    """Report lines on the tables, the headers of their files, and disagreements between the two."""
    lines = [*table_lines(splits, data), report(headers)]
    lines += first_lines("laterality", contradicted_sides(splits, headers))
    return lines + shared_image_lines(splits, limits)


def table_lines(splits: list[TableFiles], data: Path) -> list[str]:
    """Report lines on the size of the tables, rows without a file, and files without a row."""
    lines = []
    for split in splits:
        counts = split.table.counts
        if split.table.layout:
            lines.append(f"{'layout':<24}  {LAYOUTS[split.table.layout].title}, {split.table.path.name}")
        lines.append(f"{split.name + '.csv':<17}{counts.images:>7,}  images of {counts.patients:,} patients")
        lines += count_lines("  machine_id", (row.machine_id or "-" for row in split.table.rows))
        rows = zip(split.table.rows, split.files, strict=True)
        missing = [f"{row.patient_id}/{row.image_id}" for row, file in rows if file is None]
        lines += first_lines("  without a file", missing)
        if hint := name_hint(split.table, split.files, data, split.folder) if missing else None:
            lines.append(f"{'':>24}  hint: {hint}")
        lines += [f"  warning: {text}" for text in split.table.warnings]
    # Both tables may share a folder of images, so a file without a row in one table may have one in the other.
    found = [file for split in splits for _, file in split.images]
    strangers, links = set(), set()
    for split in splits:
        there, left_out = every_image(data, split.source_folder, found)
        strangers |= there
        links |= set(left_out)
    lines += first_lines("files without row", sorted(strangers - set(map(str, found))))
    lines += first_lines("links outside", sorted(links))
    return lines


def contradicted_sides(splits: list[TableFiles], headers: Mapping[Path, Header | Failure]) -> list[str]:
    """One line for each file whose header and table name opposite sides."""
    other = {"L": "R", "R": "L"}
    return [
        f"{file}: {header.laterality} in its header, {row.laterality} in {split.table.path.name}"
        for split in splits
        for row, file in split.images
        if isinstance(header := headers.get(file), Header) and header.laterality == other[row.laterality]
    ]


def shared_image_lines(splits: list[TableFiles], limits: dict[str, Any]) -> list[str]:
    """Report lines on images that several patients have."""
    patients = {file: row.patient_id for split in splits for row, file in split.images}
    pairs = shared_images(patients, limits)
    lines = first_lines("equal images", [f"{one} and {other}" for one, other in pairs])
    if pairs:
        lines.append(
            f"{'':>24}  hint: the same pixels under two patient_ids may end up on both sides of a split; "
            "give both patients one id"
        )
    return lines


def shared_images(patients: Mapping[Path, str], limits: dict[str, Any]) -> list[tuple[Path, Path]]:
    """For each image that several patients have, two of its files, from two patients.

    `patients` maps each file to its patient. Only files that agree in a sample of bytes are read in full.
    """
    samples = call_on_all(partial(digest, most=SAMPLE), list(patients), "equal images", limits)
    alike = [path for group in of_several(samples, patients) for path in group]
    groups = of_several(call_on_all(digest, alike, "equal images", limits), patients)
    return [(one, next(path for path in rest if patients[path] != patients[one])) for one, *rest in groups]


def of_several(digests: Mapping[Path, bytes | Failure], patients: Mapping[Path, str]) -> list[list[Path]]:
    """Groups of files that have the same digest but belong to more than one patient."""
    groups = defaultdict(list)
    for path, value in digests.items():
        if isinstance(value, bytes):
            groups[value].append(path)
    return [group for group in groups.values() if len({patients[path] for path in group}) > 1]


def digest(path: Path, most: int | None = None) -> bytes:
    """SHA-256 of the length and content of the encoded pixel data, or of only its middle `most` bytes.

    A DICOM header is left out, since a copy of the file for a second patient has another one. Deflated DICOM files, and
    files of other formats, are hashed with their header.
    """
    size, start = path.stat().st_size, 0
    with open(path, "rb") as file:
        if is_dicom(path):
            pydicom.dcmread(file, stop_before_pixels=True, force=True)
            start = file.tell() + value_place(file.read(6))
            start = start if start < size else 0
        length = size - start
        count = length if most is None else min(most, length)
        file.seek(start + (length - count) // 2)
        return hashlib.sha256(length.to_bytes(8, "big") + file.read(count)).digest()
