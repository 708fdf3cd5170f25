"""Find the image file of each row of a table."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from efficientnet.mammography.table import Table, TableError

DICOM_SUFFIXES = (".dcm", ".dicom")
# In order of preference where an image exists in several forms.
SUFFIXES = (*DICOM_SUFFIXES, ".png", ".jpg", ".jpeg")


def find_images(table: Table, root: Path, folder: str = "train_images") -> list[Path | None]:
    """The file of each row of the table, None where there is none.

    Searches `root/folder` if that exists, else `root`, for `<patient_id>/<image_id>.<suffix>`, `<image_id>.<suffix>`
    and `<patient_id>_<image_id>.<suffix>`, with suffix dcm, dicom, png, jpg or jpeg. If there is no image at all, the
    search goes one folder deeper, as in `root/train_images_512`. Each folder is listed once. Raises TableError if two
    such folders have images of the table, since either could be meant.

    `root/folder` may be a link. Links in it are followed only if they stay within it, or within `root`. Anything that
    is neither a file nor a folder, such as a pipe, is ignored.
    """
    base = image_folder(root, folder)
    inside = [os.path.realpath(root), os.path.realpath(base)]
    files = match_images(table, list_images(base, inside))
    if any(files):
        return files
    deeper = {}
    for place in folders_in(base, inside):
        files_there = match_images(table, list_images(Path(place), inside))
        if any(files_there):
            deeper[place] = files_there
    if len(deeper) > 1:
        raise TableError(
            f"{base}: has images of {table.path.name} in {' and in '.join(deeper)}; leave one of them there"
        )
    return next(iter(deeper.values()), files)


def image_folder(root: Path, folder: str) -> Path:
    """`root/folder` if that exists, else `root`."""
    return root / folder if (root / folder).is_dir() else root


def every_image(root: Path, folder: str, found: Iterable[Path]) -> tuple[set[str], list[str]]:
    """The path of every image, with or without a row, where `find_images` found some; and the links not followed."""
    base, left_out = image_folder(root, folder), []
    inside = [os.path.realpath(root), os.path.realpath(base)]
    images = set(list_images(base, inside, left_out).values())
    if images.isdisjoint(map(str, found)):
        for place in folders_in(base, inside):
            images.update(list_images(Path(place), inside).values())
    return images, left_out


def folders_in(base: Path, inside: Sequence[str]) -> list[str]:
    with os.scandir(base) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir() and stays_in(entry, inside))


def stays_in(entry: os.DirEntry, inside: Sequence[str]) -> bool:
    """Whether the entry is not a link, or a link to a place within one of these folders."""
    if not entry.is_symlink():
        return True
    return any(Path(os.path.realpath(entry.path)).is_relative_to(place) for place in inside)


def list_images(base: Path, inside: Sequence[str], left_out: list[str] | None = None) -> dict[tuple[str, str], str]:
    """(name of its folder, or "" for `base`; stem) -> path, for each image in `base` and its folders.

    Of an image in several forms the preferred one is listed.

    inside    resolved folders that links have to stay within
    left_out  receives the links that do not
    """
    left_out = [] if left_out is None else left_out
    best: dict[tuple[str, str], tuple[int, str]] = {}

    def note(entry: os.DirEntry, parent: str) -> None:
        stem, suffix = os.path.splitext(entry.name)
        if suffix.lower() not in SUFFIXES:
            return
        if not stays_in(entry, inside):
            left_out.append(entry.path)
        elif entry.is_file() or not os.path.exists(entry.path):  # a broken link fails when it is read
            candidate = (SUFFIXES.index(suffix.lower()), entry.path)
            best[parent, stem] = min(candidate, best.get((parent, stem), candidate))

    with os.scandir(base) as entries:
        for entry in entries:
            if entry.is_dir() and not stays_in(entry, inside):
                left_out.append(entry.path)
            elif entry.is_dir():
                with os.scandir(entry.path) as images:
                    for image in images:
                        note(image, entry.name)
            else:
                note(entry, "")
    return {key: path for key, (_, path) in best.items()}


def match_images(table: Table, images: dict[tuple[str, str], str]) -> list[Path | None]:
    """The path of each row among `list_images`'s, preferring the patient's folder over flat files."""
    files = []
    for row in table.rows:
        names = ((row.patient_id, row.image_id), ("", row.image_id), ("", f"{row.patient_id}_{row.image_id}"))
        found = next((images[name] for name in names if name in images), None)
        files.append(None if found is None else Path(found))
    return files
