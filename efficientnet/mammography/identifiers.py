"""Identifiers of patients, images and breasts: text that spreadsheets and pandas may have converted to numbers.

A number that was rounded or written in a local style is rejected, never repaired, since two patients may have become
one. Other text is kept, except for the ".0" that pandas appends: "007" is not "7", and dots and dashes have no meaning,
as in DICOM UIDs. Dates such as 2022-01-03 are kept too: programs use them as names, and no two of them collide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

MISSING = frozenset(("", "nan", "na", "n/a", "<na>", "none", "null"))
NOT_A_FILE_NAME = re.compile(r"[/\\\x00-\x1f]|\.\.|^\.$")
INVISIBLE = re.compile(r"[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
WHOLE_FLOAT = re.compile(r"(\d+)\.0+")
FRACTION = re.compile(r"\d+\.\d*[1-9]\d*")
THOUSANDS = re.compile(r"([1-9]\d{0,2})\.000")

# English, German, French, Spanish, Italian, Portuguese and Dutch. All capitals do not match, since MAR-01 may be a
# person. Before a year, only an initial capital matches, since mag-01 may be a magnification.
MONTHS = (
    "jan janv ene gen feb febr fev fév févr mar mär mars mrt mrz märz apr abr avr avril may mai mag maj mei maggio "
    "jun juni juin giu jul juli juil lug aug ago août aou sep sept set oct okt ott out nov dec dez dic déc"
)
MONTH = rf"(?:{'|'.join(f'[{name[0].upper()}{name[0]}]{name[1:]}' for name in MONTHS.split())})\.?"
# A spreadsheet writes to CSV what it displays. Description -> pattern of the displayed text.
DISPLAYED = {
    "an error value": r"#[^\da-z]*(?:/0!)?",
    "a formula or a mark for text": r"['\u2019=].*",
    "a rounded number": r"[+-]?\d+(?:[.,\u066b]\d+)?[eE]\+\d+|[+-]?\d+[.,\u066b]\d+[eE]-?\d+",
    "a number in a local style": r"[+-]?[\d.]+(?:[,'\u2019\u066b\u066c][\d.]+)+"
    r"|[+-]?\d{1,3}(?:[ \u00a0\u2007-\u200a\u202f]\d{3})+(?:[.,]\d+)?"
    r"|[+-]?[1-9]\d{0,2}(?:\.\d{3}){2,}",
    "a date": rf"\d{{1,2}}[-. ]{{1,2}}{MONTH}(?:[-. ]\d{{2,4}})?|(?=[A-Z]){MONTH}[- ]\d{{2}}(?:\d{{2}})?"
    r"|\d\d\.\d\d\.(?:19|20)\d\d|\d{4}-\d\d-\d\d[ T]\d\d:\d\d.*",
}
AS_TEXT = "export the table again with this column as text"


def identifier_reader(column: Iterable[str]) -> Callable[[str], str]:
    """Choose the parser of patient or image identifiers that fits a whole column of text.

    10006.0 is read as 10006, since pandas writes whole numbers like that if the column has a missing value. If the
    column has fractions, the decimals belong to the names (1.0, 1.1, 2.0) and are kept.

    Raises ValueError, whose text completes a sentence, if all whole numbers of more than 15 digits have only zeros from
    the sixteenth digit on: a spreadsheet keeps 15 digits. Fewer than three such zeros in total may be chance.
    """
    distinct = set(column)
    long = [text for text in distinct if len(text) > 15 and text.isdecimal() and text[0] != "0"]
    if sum(len(text) - 15 for text in long) >= 3 and not any(text[15:].strip("0") for text in long):
        raise ValueError(
            f"{min(long)!r} and all other long numbers end in zeros after 15 digits, as a spreadsheet writes them; "
            f"{AS_TEXT}"
        )
    if any(map(FRACTION.fullmatch, distinct)):
        return read_identifier
    return read_whole_identifier


def read_identifier(text: str) -> str:
    """Parse a patient or image. It becomes part of a file name, so it must not lead out of the image folder."""
    if text.lower() in MISSING:
        raise ValueError("is missing; every image needs it")
    if text.isalnum():
        return text
    check_displayed(text)
    if NOT_A_FILE_NAME.search(text):
        raise ValueError("cannot be part of a file name; remove slashes, '..' and control characters")
    if INVISIBLE.search(text):
        raise ValueError("holds an invisible character; remove it")
    return text


def read_whole_identifier(text: str) -> str:
    text = read_identifier(text)
    if found := THOUSANDS.fullmatch(text):
        raise ValueError(f"is ambiguous: {found[1]} or {found[1]}000; {AS_TEXT}")
    return without_decimals(text)


def read_prediction_id(text: str) -> str | None:
    """Parse the identifier of a breast; None if it is missing."""
    if text.lower() in MISSING:
        return None
    check_displayed(text)
    return without_decimals(text)


def check_displayed(text: str) -> None:
    """Raise ValueError if a spreadsheet has changed an identifier."""
    for what, pattern in DISPLAYED.items():
        if re.fullmatch(pattern, text):
            raise ValueError(f"is {what}; a spreadsheet has changed it: {AS_TEXT}")


def without_decimals(text: str) -> str:
    """Drop the decimals of a whole number: 10006.0 -> 10006. Raises ValueError if a float may have rounded it."""
    whole = WHOLE_FLOAT.fullmatch(text) if "." in text else None
    if whole and (len(whole[1]) > 16 or int(whole[1]) > 2**53):
        raise ValueError(f"is too long for a number with decimals, and may be rounded; {AS_TEXT}")
    return whole[1] if whole else text
