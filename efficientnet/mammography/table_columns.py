"""The columns of a table: our names and the file's, which columns are required, and how each is parsed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from efficientnet.mammography.identifiers import identifier_reader, read_prediction_id
from efficientnet.mammography.table_text import (
    TableError,
    read_age,
    read_code,
    read_laterality,
    read_records,
    read_required_target,
    read_target,
    read_view,
)

RSNA_TARGETS = ("cancer", "biopsy", "invasive", "difficult_negative_case")
RSNA_COLUMNS = (
    *("site_id", "patient_id", "image_id", "laterality", "view", "age", "cancer", "biopsy", "invasive", "BIRADS"),
    *("implant", "density", "machine_id", "difficult_negative_case", "prediction_id"),
)
REQUIRED = {"patient_id": None, "image_id": None, "laterality": read_laterality}
OPTIONAL = {"view": read_view, "site_id": read_code, "machine_id": read_code, "age": read_age}
FIELDS = (*REQUIRED, *OPTIONAL, "prediction_id")


class Cell(NamedTuple):
    """One field of a row: our name, the file's name, its place in the file's records, and its parser.

    None as parser means that `read_by_column` chooses one from the whole column.
    """

    name: str
    column: str
    place: int
    parse: Callable[[str], Any] | None


class Header(NamedTuple):
    """The names of the columns, and the line number of the header."""

    names: list[str]
    line: int


def default_targets(path: str | Path, columns: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """cancer, and those of the competition's other targets that the table has columns for. Parses only the header."""
    scored, *others = RSNA_TARGETS
    columns = columns or {}
    names = read_header(Path(path), read_records(Path(path))).names
    return (scored, *(name for name in others if columns.get(name, name) in names))


def check_columns(path: str | Path, columns: Mapping[str, str]) -> None:
    """Raise TableError if the mapping names columns that the table does not have. Parses only the header."""
    header = read_header(Path(path), read_records(Path(path)))
    if absent := [name for name, column in columns.items() if column not in header.names]:
        raise TableError(no_such_columns(Path(path), header, absent, columns))


def without_absent_labels(path: str | Path, columns: Mapping[str, str]) -> dict[str, str]:
    """The mapping without the labels that a table such as test.csv does not have. Parses only the header."""
    names = read_header(Path(path), read_records(Path(path))).names
    return {name: column for name, column in columns.items() if name in FIELDS or column in names}


def parse_column_mapping(text: str) -> dict[str, str]:
    """Parse `"cancer=malignant,laterality=side"` into `{"cancer": "malignant", "laterality": "side"}`.

    Our name comes first, then the file's. Raises TableError for malformed text and for repeated or unknown names.
    """
    columns: dict[str, str] = {}
    for pair in filter(None, map(str.strip, text.split(","))):
        ours, equals, theirs = (part.strip() for part in pair.partition("="))
        if not (ours and equals and theirs):
            raise TableError(f"--columns: {pair!r} must have the form OUR_NAME=NAME_IN_FILE, such as cancer=malignant.")
        if ours in columns:
            raise TableError(f"--columns: {ours!r} is given twice, as {columns[ours]!r} and as {theirs!r}.")
        if theirs in columns.values():
            raise TableError(f"--columns: the file's {theirs!r} is mapped to two of our names.")
        columns[ours] = theirs
    check_mapping(columns, ())
    return columns


def find_cells(
    path: Path, header: Header, targets: tuple[str, ...], columns: Mapping[str, str], labels: str
) -> list[Cell]:
    """The fields of `Row` in its order, except that prediction_id comes before the targets.

    A field that the file lacks, or that is not wanted, gets the place after the last column. `align` puts an empty
    string there, which is parsed as missing.
    """
    parsers = {**REQUIRED, **OPTIONAL, "prediction_id": read_prediction_id}
    parsers |= {
        name: read_required_target if labels == "required" and name == targets[0] else read_target for name in targets
    }
    wanted = [name for name in parsers if labels != "none" or name not in targets]
    needed = [*REQUIRED, *(targets if labels == "required" else ())]
    mapped = [name for name in columns if name in wanted or labels != "none"]
    absent = [name for name in dict.fromkeys((*needed, *mapped)) if columns.get(name, name) not in header.names]
    if absent:
        raise TableError(no_such_columns(path, header, absent, columns))
    cells = []
    for name, parse in parsers.items():
        column = columns.get(name, name)
        if name in wanted and header.names.count(column) > 1:
            raise TableError(f"{path}: there are {header.names.count(column)} columns {column!r}; keep one of them.")
        is_there = name in wanted and column in header.names
        cells.append(Cell(name, column, header.names.index(column) if is_there else len(header.names), parse))
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


def check_mapping(columns: Mapping[str, str], targets: Sequence[str]) -> None:
    for name in columns:
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
