"""The text of a table: a file -> records, and the text of a cell -> a value.

Errors in encodings, separators, quotation marks and values are detected here. The cell parsers raise ValueError, whose
text completes a sentence and says what the cell should contain.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterator
from pathlib import Path

from efficientnet.common.errors import UserError
from efficientnet.mammography.identifiers import MISSING, without_decimals


class TableError(UserError):
    """A table that cannot be used; str() says what is wrong, in which file, line and column, and what to do."""


SIDES = {"l": "L", "left": "L", "r": "R", "right": "R"}
BINARY = {"false": 0.0, "true": 1.0} | dict.fromkeys(MISSING, math.nan)
ZERO_OR_ONE = re.compile(r"\+?([01])(?:\.0*)?")
AGE = re.compile(r"(\d{1,3})([DWMY])", re.IGNORECASE)  # DICOM's Age String, PS3.5 6.2
PER_YEAR = {"D": 365.25, "W": 365.25 / 7, "M": 12, "Y": 1}
DELIMITER_LINE = re.compile(r'"?sep=([^\w" \r\n])"?[ \t]*(?=[\r\n])', re.IGNORECASE)


def read_code(text: str) -> str | None:
    return None if text.lower() in MISSING else without_decimals(text)


def read_density(text: str) -> str | None:
    code = read_code(text)
    return code and code.upper()


def read_view(text: str) -> str | None:
    return None if text.lower() in MISSING else text.upper()


def read_laterality(text: str) -> str:
    try:
        return SIDES[text.lower()]
    except KeyError:
        raise ValueError("is not a side; write L or R (or left, right)") from None


def read_age(text: str) -> float | None:
    if text.lower() in MISSING:
        return None
    if found := AGE.fullmatch(text):
        return int(found[1]) / PER_YEAR[found[2].upper()]
    try:
        years = float(text.replace(",", "."))
    except ValueError:
        years = math.nan
    if not 0 <= years < math.inf:
        raise ValueError("is not an age in years or a DICOM age such as 061Y")
    return years


def read_target(text: str) -> float:
    if found := ZERO_OR_ONE.fullmatch(text):
        return float(found[1])
    try:
        return BINARY[text.lower()]
    except KeyError:
        raise ValueError("is not a label; write 0 or 1 (or nothing, if it is unknown)") from None


def read_flag(text: str) -> float | None:
    return None if text.lower() in MISSING else read_target(text)


def read_required_target(text: str) -> float:
    label = read_target(text)
    if math.isnan(label):
        raise ValueError("is missing; every row needs 0 or 1 for the scored target")
    return label


def read_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, fields) for each record that is not blank. Lines count from 1, as in an editor."""
    text = read_text(path)
    if declared := DELIMITER_LINE.match(text):  # a line for spreadsheets, such as sep=;
        delimiter, text = declared[1], text[declared.end() :]
    else:
        header = text.lstrip().partition("\n")[0]
        delimiter = max(",;\t|", key=header.count)  # the comma, if there are none
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start = 1
    try:
        for record in reader:
            if any(field and not field.isspace() for field in record):
                yield start, record
            start = reader.line_num + 1  # a quoted field may span several lines
    except csv.Error as error:
        raise TableError(f"{path}, line {start}: {error}; check for an unclosed quotation mark.") from None


def read_text(path: Path) -> str:
    if path.is_dir():
        raise TableError(f"{path} is a folder; name the table in it, such as {path / 'train.csv'}")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: cannot be read: {error.strerror}.") from None
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TableError(f"{path}: is UTF-16 text; save it as 'CSV UTF-8'.")
    if b"\0" in content:
        raise TableError(f"{path}: is not a text file; a table is CSV (an archive must be unpacked first).")
    try:
        return content.decode("utf-8-sig")  # spreadsheets write a byte-order mark
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise TableError(f"{path}, line {line}: is not UTF-8 text; save it as 'CSV UTF-8'.") from None


def align(path: Path, line: int, record: list[str], columns: int) -> list[str]:
    """One field per column, and an empty one after them. Surplus delimiters at the end are ignored."""
    if len(record) < columns or any(field.strip() for field in record[columns:]):
        raise TableError(
            f"{path}, line {line}: {len(record)} fields for {columns} columns; "
            "a field is missing, or contains an unquoted separator."
        )
    return [*record[:columns], ""]
