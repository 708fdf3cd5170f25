"""Published layouts of other screening data sets: where their tables are, and their lines as lines of RSNA's table.

VinDr-Mammo (PhysioNet, version 1.0.0)
    breast-level_annotations.csv, and images/<study_id>/<image_id>.dicom. A study counts as a patient. There is no
    pathology: cancer is 1 for BI-RADS 5 and 0 for BI-RADS 1 and 2. BI-RADS 3 and 4 are unknown, not guessed.
CBIS-DDSM (The Cancer Imaging Archive)
    mass_case_description_train_set.csv and three others, read together. They have a line for each abnormality: an image
    has cancer if one of its abnormalities is malignant. Image and folder are named Mass-Training_P_00001_LEFT_CC; the
    file is somewhere in that folder, since the paths in the tables are out of date. A film that is in a mass table and
    in a calcification table counts as two images of one breast.

RSNA's BIRADS column holds 0 for a recall, 1 for negative and 2 for benign: an assessment of 3 or more becomes 0.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from efficientnet.mammography.identifiers import MISSING, read_identifier
from efficientnet.mammography.table_text import TableError, align, read_laterality, read_records

COLUMNS = ("patient_id", "image_id", "laterality", "view", "cancer", "BIRADS", "density")
MARK = "converted"  # the last column of a converted table
RECALL, NEGATIVE, BENIGN = "0", "1", "2"  # in RSNA's BIRADS column

Converted = dict[str, str]  # the cells of one line of RSNA's table, by name
Read = Callable[..., str]  # read(column, parse): the parsed cell of a line; raises TableError with its place


class Layout(NamedTuple):
    """One published layout.

    columns  those that identify a table of it
    folder   with the images
    images   where an image belongs, for messages
    convert  one line of a table -> one of RSNA's
    merged   whether an image may have several lines
    """

    title: str
    tables: tuple[str, ...]
    columns: tuple[str, ...]
    folder: str
    images: str
    convert: Callable[[Read], Converted]
    merged: bool = False


class TableSource(NamedTuple):
    """How to read the table of a data folder: the first arguments of `table.read_table`, and its `labels`."""

    path: Path
    columns: dict[str, str]
    labels: Literal["required", "optional"] = "required"


def find_table(root: Path, columns: Mapping[str, str] | None = None, name: str = "train.csv") -> TableSource:
    """The table of a data folder: that of the layout in `columns`, else the file `name`, else that of any layout.

    A prepared folder holds a converted train.csv, whatever `columns` says. No layout has a test.csv. The file need not
    exist.
    """
    path, columns = root / name, dict(columns or {})
    if name != "train.csv":
        return TableSource(path, {ours: theirs for ours, theirs in columns.items() if ours != "layout"})
    is_converted = path.is_file() and is_converted_table(path)
    given = None if is_converted else columns.get("layout")
    layout = given or (None if path.exists() else find_layout(root))
    if layout is not None:
        tables = LAYOUTS[layout].tables
        path = next((root / table for table in tables if (root / table).exists()), root / tables[0])
        return TableSource(path, {"layout": layout}, "optional")
    if is_converted:
        return TableSource(path, {}, "optional")
    return TableSource(path, columns)


def find_layout(root: Path) -> str | None:
    """The name of the layout that a folder is recognised as, by the names and headers of its tables; None if it is not.

    Raises TableError if a table of such a name cannot be read.
    """
    for name, layout in LAYOUTS.items():
        for table in layout.tables:
            if (root / table).is_file():
                _, header = next(read_records(root / table), (1, []))
                if {column.strip() for column in header}.issuperset(layout.columns):
                    return name
    return None


def table_records(path: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, list[str]]]:
    """The records of a table (see `read_records`); if `columns` names a layout, those of all its tables, as RSNA's."""
    return layout_records(path, columns["layout"]) if "layout" in columns else read_records(path)


def layout_records(path: Path, name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields): a header of RSNA's names, then a record for each image. Raises TableError."""
    layout = LAYOUTS[name]
    tables = [path.parent / table for table in layout.tables if (path.parent / table).exists()] or [path]
    images: dict[Any, tuple[int, Converted]] = {}
    for table in tables:
        for line, read in named_cells(table, layout):
            row = layout.convert(read)
            key = (row["patient_id"], row["image_id"]) if layout.merged else line
            first, earlier = images.get(key, (line, row))
            images[key] = first, merge(earlier, row)
    yield 1, list(COLUMNS)
    for line, row in images.values():
        yield line, [row[column] for column in COLUMNS]


def named_cells(path: Path, layout: Layout) -> Iterator[tuple[int, Read]]:
    """Yield, for each line of a table, its number and a function that reads its cells by the names of their columns.

    Several names may be given for a column, of which the table has one or none; a cell of none is empty.
    """
    records = read_records(path)
    start, header = next(records, (1, []))
    names = [name.strip() for name in header]
    if absent := [column for column in layout.columns if column not in names]:
        raise TableError(
            f"{path}, line {start}: no column {', '.join(map(repr, absent))}, which {layout.title} has; the columns "
            f"are: {', '.join(names[:30])[:500]}"
        )
    for line, record in records:
        fields = [field.strip() for field in align(path, line, record, len(names))]

        def read(*columns: str, parse: Callable[[str], str] = str, line: int = line, fields: list[str] = fields) -> str:
            column = next((column for column in columns if column in names), None)
            text = "" if column is None else fields[names.index(column)]
            try:
                return parse(text)
            except ValueError as error:
                raise TableError(f"{path}, line {line}, column {column!r}: {text!r} {error}.") from None

        yield line, read


def merge(one: Converted, other: Converted) -> Converted:
    """Combine two lines on the same image: cancer if either has it, and the more serious BIRADS."""
    severity = ("", NEGATIVE, BENIGN, RECALL)
    return {
        **one,
        "density": one["density"] or other["density"],
        "cancer": max(one["cancer"], other["cancer"]),  # "" < "0" < "1"
        "BIRADS": max(one["BIRADS"], other["BIRADS"], key=severity.index),
    }


def vindr(read: Read) -> Converted:
    assessment = read("breast_birads", parse=read_birads)
    return {
        "patient_id": read("study_id", parse=read_identifier),
        "image_id": read("image_id", parse=read_identifier),
        "laterality": read("laterality", parse=read_laterality),
        "view": read("view_position"),
        "cancer": {"1": "0", "2": "0", "5": "1"}.get(assessment, ""),
        "BIRADS": of_rsna(assessment),
        "density": read("breast_density").upper().removeprefix("DENSITY").strip(),
    }


def cbis(read: Read) -> Converted:
    patient, side = read("patient_id", parse=read_identifier), read("left or right breast", parse=read_laterality)

    def read_own_film(path: str) -> str:
        film = read_film(path)
        if f"_{patient}_{'LEFT' if side == 'L' else 'RIGHT'}_" not in f"{film}_":
            raise ValueError(f"is not of patient {patient}, side {side}, as the line says")
        return film

    return {
        "patient_id": patient,
        "image_id": read("image file path", parse=read_own_film),
        "laterality": side,
        "view": read("image view"),
        "cancer": read("pathology", parse=read_pathology),
        "BIRADS": of_rsna(read("assessment")),
        "density": {"1": "A", "2": "B", "3": "C", "4": "D"}.get(read("breast_density", "breast density"), ""),
    }


def read_birads(text: str) -> str:
    if text.lower() in MISSING:
        return ""
    if found := re.fullmatch(r"(?:BI-?RADS\s*)?([1-5])", text, re.IGNORECASE):
        return found[1]
    raise ValueError("is not a category from BI-RADS 1 to BI-RADS 5")


def of_rsna(assessment: str) -> str:
    return {"0": RECALL, "1": NEGATIVE, "2": BENIGN, "3": RECALL, "4": RECALL, "5": RECALL}.get(assessment, "")


def read_pathology(text: str) -> str:
    if text.lower() in MISSING:
        return ""
    try:
        return {"MALIGNANT": "1", "BENIGN": "0", "BENIGN_WITHOUT_CALLBACK": "0"}[text.upper()]
    except KeyError:
        raise ValueError("is not MALIGNANT, BENIGN or BENIGN_WITHOUT_CALLBACK") from None


def read_film(text: str) -> str:
    for part in re.split(r"[/\\]", text):
        if re.fullmatch(r"(?:Mass|Calc)-(?:Training|Test)_P_\d+_(?:LEFT|RIGHT)_[A-Z]+", part):
            return part
    raise ValueError("does not hold the name of an image, such as Mass-Training_P_00001_LEFT_CC")


def converted_table(path: Path, name: str) -> bytes:
    """The table of a layout as RSNA-style CSV. A further column, which `is_converted_table` looks for, is empty."""
    file = io.StringIO()
    (_, header), *records = layout_records(path, name)
    csv.writer(file, lineterminator="\n").writerows([[*header, MARK], *([*fields, ""] for _, fields in records)])
    return file.getvalue().encode()


def is_converted_table(path: Path) -> bool:
    """Whether a train.csv is a `converted_table`."""
    with open(path, "rb") as file:
        return file.readline(1000).rstrip() == ",".join((*COLUMNS, MARK)).encode()


LAYOUTS = {
    "vindr": Layout(
        "VinDr-Mammo",
        ("breast-level_annotations.csv",),
        ("study_id", "image_id", "laterality", "view_position", "breast_birads", "breast_density"),
        "images",
        "images/<study_id>/<image_id>.dicom",
        vindr,
    ),
    "cbis": Layout(
        "CBIS-DDSM",
        tuple(f"{kind}_case_description_{part}_set.csv" for kind in ("mass", "calc") for part in ("train", "test")),
        ("patient_id", "left or right breast", "image view", "assessment", "pathology", "image file path"),
        ".",
        "a folder named like Mass-Training_P_00001_LEFT_CC, at any depth",
        cbis,
        merged=True,
    ),
}
