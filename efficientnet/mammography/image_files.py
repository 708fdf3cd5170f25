"""Find the data folder, and the image file of each row of its table."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from efficientnet.mammography.table import Row, Table, TableError

DICOM_SUFFIXES = (".dcm", ".dicom", "")  # exports of a PACS often have none
# In order of preference where an image exists in several forms.
SUFFIXES = (*DICOM_SUFFIXES, ".png", ".jpg", ".jpeg", ".tif", ".tiff")


def folder_of(data: Path, tables: Sequence[str] = ("train.csv",)) -> Path:
    """The folder that --data names, by itself or by one of its tables; not looked into."""
    return data.parent if data.name in tables and data.is_file() else data


def data_folder(data: Path, tables: Sequence[str] = ("train.csv",)) -> Path:
    """`folder_of`; raises TableError if there is no such folder, or none of the tables in it."""
    if not data.exists():
        where = "" if data.is_absolute() else f" in {Path.cwd()}"
        raise TableError(f"{data}: no such folder{where}; --data names the folder with {' or '.join(tables)}")
    data = folder_of(data, tables)
    if data.is_file():
        raise TableError(f"{data}: is a file; --data names the folder with {' or '.join(tables)}")
    if any((data / table).exists() for table in tables):
        return data
    raise TableError(
        f"{data}: has no {' or '.join(tables)}. Mammograms need a table with patient_id, image_id, laterality and "
        f"cancer,\nand images in {tables[0].removesuffix('.csv')}_images/<patient_id>/<image_id>.dcm (or png, jpg). A "
        "folder per class is not enough, since breasts and folds need the patient."
    )


def is_dicom(path: Path) -> bool:
    """Whether a file is read as DICOM: by its suffix, or because it has none that is known."""
    suffix = path.suffix.lower()
    return suffix in DICOM_SUFFIXES or suffix not in SUFFIXES


def find_images(table: Table, root: Path, folder: str = "train_images") -> list[Path | None]:
    """The file of each row of the table, None where there is none.

    Searches `root/folder` if that exists, else `root`, for `<patient_id>/<image_id>`, `<patient_id>_<image_id>` and
    `<image_id>`, in this order, with one of SUFFIXES or without a suffix. If there is no image at all, the search goes
    one folder deeper, as in `root/train_images_512`. Each folder is listed once. Raises TableError if two such folders
    have images of the table, since either could be meant, and if the file of one row may be that of another.

    `root/folder` may be a link. Links in it are followed only if they stay within it, or within `root`, and count as
    files in their own right, like copies. Anything that is neither a file nor a folder, such as a pipe, is ignored.
    """
    base = image_folder(root, folder)
    inside = [os.path.realpath(root), os.path.realpath(base)]
    files = match_images(table, list_images(base, inside))
    if any(files):
        return files
    deeper, patients = {}, frozenset(table.patients)
    for place in folders_in(base, inside):
        files_there = match_images(table, list_images(Path(place), inside))
        if any(files_there) and os.path.basename(place) not in patients:
            deeper[place] = files_there
    if len(deeper) > 1:
        nearly = {loosely(patient): patient for patient in patients}
        for place in deeper:
            if patient := nearly.get(loosely(os.path.basename(place))):
                raise TableError(
                    f"{place}: its name nearly matches patient {patient!r} of {table.path.name}, but names must match "
                    "exactly; a spreadsheet may have changed the table"
                )
        more = f" and {len(deeper) - 2} others" if len(deeper) > 2 else ""
        raise TableError(
            f"{base}: contains images of {table.path.name} in {' and in '.join(list(deeper)[:2])}{more}; keep only one "
            "of these folders, or name them by patient_id if each is a patient"
        )
    return next(iter(deeper.values()), files)


def image_folder(root: Path, folder: str) -> Path:
    """`root/folder` if that exists, else `root`."""
    return root / folder if (root / folder).is_dir() else root


def every_image(root: Path, folder: str, found: Iterable[Path]) -> tuple[set[str], list[str]]:
    """The path of every image, with or without a row, where `find_images` found some; and the links not followed.

    A file without one of SUFFIXES is not counted, since it may be anything.
    """
    base, left_out = image_folder(root, folder), []
    inside = [os.path.realpath(root), os.path.realpath(base)]
    images = set(list_images(base, inside, left_out).values())
    if images.isdisjoint(map(str, found)):
        for place in folders_in(base, inside):
            images.update(list_images(Path(place), inside).values())
    return {image for image in images if has_suffix(image)}, left_out


def name_hint(table: Table, files: Sequence[Path | None], root: Path, folder: str) -> str | None:
    """Why a row has no file: the first that is nearly its own, or where images belong if no row has one; else None."""
    base = image_folder(root, folder)
    found = set(map(str, files))
    nearly = {
        (loosely(parent), loosely(name)): path
        for (parent, name), path in list_images(base, [os.path.realpath(root), os.path.realpath(base)]).items()
        if path not in found
    }
    for row, file in zip(table.rows, files, strict=True):
        names = [(loosely(parent), loosely(name)) for parent, name in names_of(row)]
        path = next((nearly[name] for name in names if name in nearly), None)
        if file is not None or path is None:
            continue
        if has_suffix(row.image_id):
            reason = f"image_id must not include the suffix: {Path(row.image_id).stem}"
        elif not has_suffix(path):
            reason = f"files must end in {', '.join(filter(None, SUFFIXES))}, or have no suffix"
        else:
            reason = "upper/lower case and zeros must match"
        return f"{row.patient_id}/{row.image_id} nearly matches {path}, but {reason}"
    if any(files):
        return None
    return (
        f"put images in {folder}/<patient_id>/<image_id>.dcm (or png, jpg) or directly in {folder}; deeper folders, "
        "and links out of the data folder, are ignored"
    )


def has_suffix(name: str) -> bool:
    """Whether a file's name ends in a suffix of images."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix != "" and suffix in SUFFIXES


def loosely(name: str) -> str:
    """A name without suffixes, decimals, leading zeros, capitals and marks of thousands."""
    name = re.sub(r"(\.([a-z]\w*|0+))+$", "", name.lower()).lstrip("0")
    return re.sub(r"(?<=\d)[.,'](?=\d{3}\b)", "", name)


def folders_in(base: Path, inside: Sequence[str]) -> list[str]:
    with os.scandir(base) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir() and stays_in(entry, inside))


def stays_in(entry: os.DirEntry, inside: Sequence[str]) -> bool:
    """Whether the entry is not a link, or a link to a place within one of these folders."""
    if not entry.is_symlink():
        return True
    return any(Path(os.path.realpath(entry.path)).is_relative_to(place) for place in inside)


def list_images(base: Path, inside: Sequence[str], left_out: list[str] | None = None) -> dict[tuple[str, str], str]:
    """(name of its folder, or "" for `base`; name without suffix) -> path, for each file in `base` and its folders.

    A suffix is one of SUFFIXES: 1.2.840.113619 has none.
    Of an image in several forms the preferred one is listed; hidden files are not.

    inside    resolved folders that links have to stay within
    left_out  receives the links that do not
    """
    left_out = [] if left_out is None else left_out
    best: dict[tuple[str, str], tuple[int, str]] = {}

    def note(entry: os.DirEntry, parent: str) -> None:
        if entry.name.startswith("."):
            return
        stem, suffix = os.path.splitext(entry.name) if has_suffix(entry.name) else (entry.name, "")
        if not stays_in(entry, inside):
            if suffix:  # others may be anything
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


def match_images(table: Table, images: Mapping[tuple[str, str], str]) -> list[Path | None]:
    """The path of each row among `list_images`'s.

    Raises TableError for a file that goes by the name of two rows, as 1.png does where image_ids are repeated from
    patient to patient. A row with a file of a more particular name does not need it.
    """
    rows_of: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in table.rows:
        for name in names_of(row):
            if name in images:
                rows_of[name].append(row)
    files = []
    for row in table.rows:
        name = next((name for name in names_of(row) if name in images), None)
        files.append(None if name is None else Path(images[name]))
        if name is not None and len(rows_of[name]) > 1:
            other = next(other for other in rows_of[name] if other is not row)
            raise TableError(
                f"{images[name]}: matches both image {row.image_id!r} of patient {row.patient_id!r} and image "
                f"{other.image_id!r} of patient {other.patient_id!r}; rename it to <patient_id>_<image_id>, move it "
                "into the patient's folder, or remove it"
            )
    return files


def names_of(row: Row) -> list[tuple[str, str]]:
    """The names that the file of a row may have, as in `list_images`, the most particular first."""
    return [(row.patient_id, row.image_id), ("", f"{row.patient_id}_{row.image_id}"), ("", row.image_id)]
