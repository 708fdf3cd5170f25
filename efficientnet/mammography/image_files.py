"""Find the data folder, and the image file of each row of its table."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from efficientnet.mammography.layouts import LAYOUTS, find_layout
from efficientnet.mammography.table import Row, Table, TableError

DICOM_SUFFIXES = (".dcm", ".dicom", "")  # PACS exports often have no suffix
# In order of preference, for an image that exists in several formats.
SUFFIXES = (*DICOM_SUFFIXES, ".png", ".jpg", ".jpeg", ".tif", ".tiff")


def folder_of(data: Path, tables: Sequence[str] = ("train.csv",)) -> Path:
    """The folder that --data names, directly or by one of its tables. Its content is not checked."""
    tables = (*tables, *(table for layout in LAYOUTS.values() for table in layout.tables))
    return data.parent if data.name in tables and data.is_file() else data


def is_screening_folder(data: Path) -> bool:
    """Whether --data names a folder with a table of RSNA's or of a published layout, or one of these tables."""
    tables = ("train.csv", "test.csv", *(table for layout in LAYOUTS.values() for table in layout.tables))
    return data.name in tables or any((data / table).exists() for table in tables)


def data_folder(data: Path, tables: Sequence[str] = ("train.csv",)) -> Path:
    """`folder_of`, checked: raises TableError if the folder does not exist, or holds neither a table nor those of a
    published layout.
    """
    if not data.exists():
        where = "" if data.is_absolute() else f" in {Path.cwd()}"
        raise TableError(
            f"{data}: no such folder{where}; --data names the folder with {' or '.join(tables)}, or with a folder of "
            "images for each class"
        )
    data = folder_of(data, tables)
    if data.is_file():
        raise TableError(f"{data}: is a file; --data names the folder with {' or '.join(tables)}")
    if any((data / table).exists() for table in tables) or find_layout(data):
        return data
    raise TableError(
        f"{data}: has no {' or '.join(tables)}. Mammograms need a table with patient_id, image_id, laterality and "
        f"cancer,\nand images in {tables[0].removesuffix('.csv')}_images/<patient_id>/<image_id>.dcm (or png, jpg); "
        "photographs need a folder for each class, in DIR or in DIR/train and DIR/val."
    )


def is_dicom(path: Path) -> bool:
    """Whether a file is read as DICOM: it has a DICOM suffix, an unknown suffix or none."""
    suffix = path.suffix.lower()
    return suffix in DICOM_SUFFIXES or suffix not in SUFFIXES


def find_images(table: Table, root: Path, folder: str = "train_images") -> list[Path | None]:
    """Find the image file of each row of the table; None for a row without a file.

    Searches `root/folder` if that exists, else `root`, for `<patient_id>/<image_id>`, `<patient_id>_<image_id>` and
    `<image_id>`, in this order, with one of SUFFIXES or without a suffix. If no row has an image there, searches each
    subfolder in the same way, such as `root/train_images_512`. Each folder is listed once. Raises TableError if two
    subfolders hold images of the table, since either could be meant, and if a file may belong to more than one row.

    If the table is in a published layout, searches where that keeps its images instead of `folder`.

    `root/folder` may be a link. Links in it are followed only if they stay within it or within `root`, and count as
    separate files, like copies. Anything that is neither a file nor a folder, such as a pipe, is ignored.
    """
    if table.layout == "cbis":
        return find_films(table, root)
    base = image_folder(root, source_folder(table, folder))
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


def source_folder(table: Table, folder: str) -> str:
    """The name of the folder of the table's images: `folder`, or that of its layout."""
    return folder if table.layout is None else LAYOUTS[table.layout].folder


def find_films(table: Table, root: Path) -> list[Path | None]:
    """The image file of each row of CBIS-DDSM: in a folder named by the image_id, at any depth, or itself so named.

    Raises TableError if an image has several files of the preferred format.
    """
    found: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    films, inside = {row.image_id for row in table.rows}, [os.path.realpath(root)]

    def search(folder: str, film: str | None) -> None:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not stays_in(entry, inside):
                    continue
                stem, suffix = os.path.splitext(entry.name)
                if entry.is_dir():
                    if entry.is_symlink():  # would be searched twice, or for ever
                        continue
                    # Mass-Training_P_00001_LEFT_CC_1 holds a crop and a mask of an abnormality.
                    if film or entry.name.rpartition("_")[0] not in films:
                        search(entry.path, entry.name if entry.name in films else film)
                elif has_suffix(entry.name) and (name := film or (stem if stem in films else None)):
                    found[name].append((SUFFIXES.index(suffix.lower()), entry.path))

    search(str(root), None)
    for film, files in found.items():
        files.sort()
        if len(files) > 1 and files[0][0] == files[1][0]:
            raise TableError(f"{files[0][1]} and {files[1][1]}: either could be the image {film}; keep one of them")
    return [Path(found[row.image_id][0][1]) if row.image_id in found else None for row in table.rows]


def image_folder(root: Path, folder: str) -> Path:
    """`root/folder` if that exists, else `root`."""
    return root / folder if (root / folder).is_dir() else root


def every_image(root: Path, folder: str, found: Iterable[Path]) -> tuple[set[str], list[str]]:
    """The paths of all images in the folders that `find_images` searched, and the links that were not followed.

    Images without a row are included. A file without an image suffix is not, since it may be anything.
    """
    base, left_out = image_folder(root, folder), []
    inside = [os.path.realpath(root), os.path.realpath(base)]
    images = set(list_images(base, inside, left_out).values())
    if images.isdisjoint(map(str, found)):
        for place in folders_in(base, inside):
            images.update(list_images(Path(place), inside).values())
    return {image for image in images if has_suffix(image)}, left_out


def name_hint(table: Table, files: Sequence[Path | None], root: Path, folder: str) -> str | None:
    """A hint on rows without a file: a near match, or where images belong if no row has a file; otherwise None."""
    if table.layout == "cbis":
        return None if any(files) else f"put images in {LAYOUTS[table.layout].images}"
    folder = source_folder(table, folder)
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
    if table.layout:
        return f"put images in {LAYOUTS[table.layout].images}"
    return (
        f"put images in {folder}/<patient_id>/<image_id>.dcm (or png, jpg) or directly in {folder}; deeper folders, "
        "and links out of the data folder, are ignored"
    )


def has_suffix(name: str) -> bool:
    """Whether a file name ends in an image suffix."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix != "" and suffix in SUFFIXES


def loosely(name: str) -> str:
    """The name in lower case, without suffixes, decimals, leading zeros and thousands separators."""
    name = re.sub(r"(\.([a-z]\w*|0+))+$", "", name.lower()).lstrip("0")
    return re.sub(r"(?<=\d)[.,'](?=\d{3}\b)", "", name)


def folders_in(base: Path, inside: Sequence[str]) -> list[str]:
    with os.scandir(base) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir() and stays_in(entry, inside))


def stays_in(entry: os.DirEntry, inside: Sequence[str]) -> bool:
    """Whether the entry is not a link, or its target lies within one of these folders."""
    if not entry.is_symlink():
        return True
    return any(Path(os.path.realpath(entry.path)).is_relative_to(place) for place in inside)


def list_images(base: Path, inside: Sequence[str], left_out: list[str] | None = None) -> dict[tuple[str, str], str]:
    """The files in `base` and its subfolders: (name of the subfolder or "", file name without suffix) -> path.

    Only SUFFIXES count as suffixes: 1.2.840.113619 has none.
    An image in several formats is listed once, in the preferred one. Hidden files are skipped.

    inside    resolved folders that links must stay within
    left_out  receives the links that do not
    """
    left_out = [] if left_out is None else left_out
    best: dict[tuple[str, str], tuple[int, str]] = {}

    def note(entry: os.DirEntry, parent: str) -> None:
        if entry.name.startswith("."):
            return
        stem, suffix = os.path.splitext(entry.name) if has_suffix(entry.name) else (entry.name, "")
        if not stays_in(entry, inside):
            if suffix:  # a file without one may be anything
                left_out.append(entry.path)
        elif entry.is_file() or not os.path.exists(entry.path):  # a broken link is listed, and fails when it is read
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
    """The path of each row's file in the result of `list_images`; None for a row without one.

    Raises TableError if a file matches several rows, as 1.png does if image_ids repeat from patient to patient, unless
    each of these rows has a file with a more specific name.
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
    """The names that a row's file may have, as keys of `list_images`, the most specific first."""
    return [(row.patient_id, row.image_id), ("", f"{row.patient_id}_{row.image_id}"), ("", row.image_id)]
