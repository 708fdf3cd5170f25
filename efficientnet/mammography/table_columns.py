"""The columns of a table: our names and the file's, which columns are required, and how each is parsed."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from efficientnet.mammography.identifiers import identifier_reader, read_prediction_id
from efficientnet.mammography.layouts import LAYOUTS, table_records
from efficientnet.mammography.table_text import (
    TableError,
    read_age,
    read_code,
    read_density,
    read_flag,
    read_laterality,
    read_records,
    read_required_target,
    read_target,
    read_view,
)
from efficientnet.mammography.targets import KINDS, Kind

RSNA_TARGETS = ("cancer", "biopsy", "invasive", "difficult_negative_case")
LEARNABLE = (*RSNA_TARGETS, "implant", "BIRADS", "density", "view", "site_id", "machine_id", "age")
RSNA_COLUMNS = (
    *("site_id", "patient_id", "image_id", "laterality", "view", "age", "cancer", "biopsy", "invasive", "BIRADS"),
    *("implant", "density", "machine_id", "difficult_negative_case", "prediction_id"),
)
MOST_CATEGORIES = 50  # of a default target
REQUIRED = {"patient_id": None, "image_id": None, "laterality": read_laterality}
OPTIONAL = {
    "view": read_view,
    "site_id": read_code,
    "machine_id": read_code,
    "age": read_age,
    "implant": read_flag,
    "density": read_density,
}
FIELDS = (*REQUIRED, *OPTIONAL, "prediction_id")
IDENTIFIERS = (*REQUIRED, "prediction_id")


class Cell(NamedTuple):
    """One field of a row, or one target: our name, the file's name, its place in the file's records, and its parser.

    None as parser means that `read_by_column` chooses one from the whole column. A text that the parser of an optional
    cell refuses counts as missing.
    """

    name: str
    column: str
    place: int
    parse: Callable[[str], Any] | None
    is_optional: bool


class Header(NamedTuple):
    """The names of the columns, and the line number of the header."""

    names: list[str]
    line: int


def default_targets(path: str | Path, columns: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """cancer, and those of LEARNABLE whose column has at least two different values, and not too many categories.

    Parses the whole table. Raises TableError if it is not one.
    """
    columns = columns or {}
    records = table_records(Path(path), columns)
    names = read_header(Path(path), records).names
    texts = dict(zip(names, map(set, zip(*(fields for _, fields in records), strict=False)), strict=False))
    scored, *others = LEARNABLE
    targets = [scored]
    for name in others:
        kind = KINDS.get(name, "binary")
        values = known_values(target_reader(name, kind), texts.get(columns.get(name, name), ()))
        if len(values) > 1 and not (kind == "category" and len(values) > MOST_CATEGORIES):
            targets.append(name)
    return tuple(targets)


def known_values(parse: Callable[[str], Any], texts: Iterable[str]) -> set[Any]:
    """The values of the texts that can be parsed and are not missing."""
    values = set()
    for text in texts:
        try:
            value = parse(text.strip())
        except ValueError:
            continue
        if value is not None and value == value:  # not NaN
            values.add(value)
    return values


def target_reader(name: str, kind: Kind) -> Callable[[str], Any]:
    """The parser of a target's cells."""
    if kind == "binary":
        return read_target
    return read_age if kind == "number" else OPTIONAL.get(name, read_code)


def check_columns(path: str | Path, columns: Mapping[str, str]) -> None:
    """Raise TableError if the mapping names columns that the table does not have. Parses only the header."""
    if "layout" in columns:
        return  # reading it checks them
    header = read_header(Path(path), read_records(Path(path)))
    if absent := [name for name, column in columns.items() if column not in header.names]:
        raise TableError(no_such_columns(Path(path), header, absent, columns))


def present_columns(path: str | Path, columns: Mapping[str, str], needed: Collection[str] = ()) -> dict[str, str]:
    """The mapping without the columns that the table does not have, other than `needed`. Parses only the header."""
    if "layout" in columns:
        return dict(columns)
    names = read_header(Path(path), read_records(Path(path))).names
    return {name: column for name, column in columns.items() if name in needed or column in names}


def parse_column_mapping(text: str) -> dict[str, str]:
    """Parse `"cancer=malignant,laterality=side"` into `{"cancer": "malignant", "laterality": "side"}`.

    Our name comes first, then the file's. The name of a published layout becomes `{"layout": name}`. Raises TableError
    for malformed text and for repeated or unknown names.
    """
    if text.strip() in LAYOUTS:
        return {"layout": text.strip()}
    columns: dict[str, str] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and equals and theirs):
            raise TableError(
                f"--columns: {pair!r} must have the form OUR_NAME=NAME_IN_FILE, such as cancer=malignant, or be the "
                f"name of a layout: {', '.join(LAYOUTS)}."
            )
        if ours in columns:
            raise TableError(f"--columns: {ours!r} is given twice, as {columns[ours]!r} and as {theirs!r}.")
        if theirs in columns.values():
            raise TableError(f"--columns: the file's {theirs!r} is mapped to two of our names.")
        columns[ours] = theirs
    check_mapping(columns, ())
    return columns


def find_cells(
    path: Path, header: Header, targets: Mapping[str, Kind], columns: Mapping[str, str], labels: str
) -> list[Cell]:
    """The fields of `Row` in its order, then the targets. A target that is also a field, such as age, has two cells.

    A field that the file lacks, or that is not wanted, gets the place after the last column. `align` puts an empty
    string there, which is parsed as missing.
    """
    scored = next(iter(targets))
    needed = [*REQUIRED, *(targets if labels == "required" else ())]
    mapped = [name for name in columns if name in FIELDS or labels != "none"]
    absent = [name for name in dict.fromkeys((*needed, *mapped)) if columns.get(name, name) not in header.names]
    if absent:
        raise TableError(no_such_columns(path, header, absent, columns))

    def cell(name: str, parse: Callable[[str], Any] | None, is_wanted: bool, is_optional: bool) -> Cell:
        column = columns.get(name, name)
        if is_wanted and header.names.count(column) > 1:
            raise TableError(f"{path}: there are {header.names.count(column)} columns {column!r}; keep one of them.")
        is_there = is_wanted and column in header.names
        place = header.names.index(column) if is_there else len(header.names)
        if parse is not None and name != "prediction_id":  # other columns repeat a few texts
            parse = cache(parse)
        return Cell(name, column, place, parse, is_optional)

    parsers = {**REQUIRED, **OPTIONAL, "prediction_id": read_prediction_id}
    cells = [cell(name, parse, True, name in OPTIONAL) for name, parse in parsers.items()]
    for name, kind in targets.items():
        is_required = labels == "required" and name == scored
        parse = read_required_target if is_required else target_reader(name, kind)
        # 0/1 labels must be right, except that of a column which was read anyway.
        is_optional = kind != "binary" or (name in OPTIONAL and name != scored)
        cells.append(cell(name, parse, labels != "none", is_optional))
    return cells


def no_such_columns(path: Path, header: Header, absent: list[str], columns: Mapping[str, str]) -> str:
    missing = ", ".join(
        f"{columns[name]!r} (--columns {name}={columns[name]})" if name in columns else repr(name) for name in absent
    )
    listed = ", ".join(header.names[:30]) + (", ..." if len(header.names) > 30 else "")
    if len(listed) > 500:  # not a table but, for example, an HTML page
        listed = listed[:500] + "..."
    unmapped = next((name for name in absent if name not in columns), absent[0])
    other = "" if unmapped in (*FIELDS, *columns) else ", or choose other targets: --targets NAME,..."
    return (
        f"{path}, line {header.line}: no column {missing}; the columns are: {listed}.\n"
        f"If the column has another name in this file, use --columns {unmapped}=NAME_IN_FILE{other}"
    )


def check_mapping(columns: Mapping[str, str], targets: Collection[str]) -> None:
    if "layout" in columns and columns["layout"] not in LAYOUTS:
        raise TableError(f"--columns: unknown layout {columns['layout']!r}; the layouts are: {', '.join(LAYOUTS)}.")
    if "layout" in columns and len(columns) > 1:
        raise TableError("--columns: a layout cannot be combined with names of columns.")
    for name in columns:
        if name == "layout":
            continue
        if name not in RSNA_COLUMNS and name not in targets:
            raise TableError(
                f"--columns: unknown name {name!r}; our names are: {', '.join(RSNA_COLUMNS)}.\n"
                "Our name comes first, then the file's: --columns cancer=malignant"
            )


def read_header(path: Path, records: Iterator[tuple[int, list[str]]]) -> Header:
    line, names = next(records, (1, None))
    if names is None:
        raise TableError(f"{path}: the file is empty; it needs a header with {', '.join(REQUIRED)} and the targets.")
    return Header([name.strip() for name in names], line)


def read_by_column(path: Path, cell: Cell, fields: list[list[str]]) -> Cell:
    try:
        return cell._replace(parse=identifier_reader(record[cell.place] for record in fields))
    except ValueError as error:
        raise TableError(f"{path}, column {cell.column!r}: {error}.") from None
