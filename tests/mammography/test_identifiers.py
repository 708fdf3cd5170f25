"""Identifiers: what a spreadsheet has made of them is refused, and anything else is the text that it was."""

import random
import string
import uuid

import pytest

from efficientnet.mammography.identifiers import identifier_reader, read_prediction_id

GROUPS = {"comma": ",", "space": " ", "NBSP": "\u00a0", "narrow NBSP": "\u202f", "thin": "\u2009", "Swiss": "'"}
GROUPS |= {"typographic": "\u2019", "Arabic": "\u066c"}


def read(text: str, *others: str) -> str:
    return identifier_reader([text, *others])(text)


def grouped(number: int, mark: str) -> str:
    return f"{number:,}".replace(",", mark)


@pytest.mark.parametrize("mark", GROUPS.values(), ids=GROUPS)
def test_numbers_in_groups_are_refused(mark):
    generator = random.Random(0)
    for _ in range(200):
        number = generator.randrange(10 ** generator.randint(3, 15), 10**16)
        for text in (grouped(number, mark), grouped(number, mark) + ".00", grouped(number, mark) + ",00"):
            with pytest.raises(ValueError, match="spreadsheet"):
                read(text)
            with pytest.raises(ValueError, match="spreadsheet"):
                read_prediction_id(text)


def test_numbers_in_groups_by_dots_are_refused_from_two_groups_on():
    generator = random.Random(0)
    for _ in range(200):
        number = generator.randrange(10 ** generator.randint(6, 12), 10**13)
        for text in (grouped(number, "."), grouped(number, ".") + ",0"):
            with pytest.raises(ValueError, match="spreadsheet"):
                read(text)


def test_one_group_by_a_dot_is_never_taken_for_decimals():
    assert read("10.006") == "10.006"
    with pytest.raises(ValueError, match="10 or 10000"):
        read("10.000")
    assert read("0010.000") == "0010"  # no number in groups begins with zeros
    assert read("10.000", "10.250") == "10.000"


@pytest.mark.parametrize("mark", [".", ",", "\u066b"])
def test_rounded_numbers_are_refused(mark):
    generator = random.Random(0)
    for _ in range(200):
        digits, exponent = generator.randint(1, 9), generator.randint(9, 20)
        mantissa = f"{digits}{mark}{generator.randrange(10 ** generator.randint(1, 5))}"
        for text in (f"{mantissa}E+{exponent}", f"{mantissa}e+{exponent}", f"{mantissa}e{exponent}", f"{digits}E+09"):
            with pytest.raises(ValueError, match="rounded"):
                read(text)


@pytest.mark.parametrize(
    "text",
    [
        *("10006,0", "1,5", "12,34,567", "1,234.5", "1.234.567", "-1,234", "#", "######", "#REF!", "#N/A", "#NAME?"),
        *("#VALUE!", "#DIV/0!", "#NV", "#WERT!", "#\u00a1REF!", "#\u0418\u041c\u042f?", "'10006", "\u201910006"),
        *('="10006"', "=A1", "03.Jan", "3-Jan", "03. Mrz", "01-mars", "3-ene", "Jan-22", "Mai 2022", "01.03.2022"),
        *("01-d\u00e9c", "1-Sep-2022", "2022-01-03 00:00:00"),
    ],
)
def test_what_a_spreadsheet_displays_is_refused(text):
    with pytest.raises(ValueError, match="a spreadsheet has changed it: export the table again with this column as"):
        read(text)


def legal_identifiers() -> list[str]:
    generator = random.Random(0)
    uids = [
        ".".join(["1.2.840.113619", *(str(generator.randrange(10 ** generator.randint(1, 9))) for _ in range(n % 6))])
        for n in range(200)
    ]
    uids += [f"2.25.{uuid.UUID(int=generator.getrandbits(128)).int}" for _ in range(200)]
    letters = [
        "".join(generator.choices(string.ascii_letters + string.digits + "-_", k=generator.randint(1, 20)))
        for _ in range(2000)
    ]
    hexadecimal = [f"{generator.getrandbits(generator.randint(4, 64)):x}" for _ in range(500)]
    numbers = [str(generator.randrange(10 ** generator.randint(1, 15))) for _ in range(500)]
    zeros = [f"{generator.randrange(10**6):0{generator.randint(7, 20)}}" for _ in range(200)]
    uuids = [str(uuid.UUID(int=generator.getrandbits(128))) for _ in range(200)]
    named = ["7", "007", "1e5", "123e4567", "12E3", "MAR-01", "12-left", "3-LCC", "01-mlo", "mag-01", "1.5", "v1.0"]
    named += ["2022-01-03", "1.2.2022", "p0 1", "12 3", "A,B", "d'Arc", "#12", "#7a", "\u4e73\u817a-Br\u00fcste"]
    return [*uids, *letters, *hexadecimal, *numbers, *zeros, *uuids, *named]


def test_legal_identifiers_are_kept_as_they_are():
    for text in legal_identifiers():
        assert read(text) == text


def test_different_identifiers_stay_different():
    """But for the decimals of pandas."""
    texts = {text for text in legal_identifiers() if not text.endswith(".0")}
    reader = identifier_reader(texts)
    assert len({reader(text) for text in texts}) == len(texts)


def test_the_decimals_of_pandas_are_dropped_unless_the_column_has_others():
    assert [read(text, "10007", "", "nan") for text in ("10006.0", "10006", "0042.00")] == ["10006", "10006", "0042"]
    assert [read(text, "1.1") for text in ("1.0", "2.0")] == ["1.0", "2.0"]
    with pytest.raises(ValueError, match="rounded"):
        read("9007199254740994.0")


def test_a_column_cut_to_15_digits_is_refused():
    for column in (["123456789012345000"], ["1234567890123450", "1234567890123460", "1234567890123470", "7", "x"]):
        with pytest.raises(ValueError, match="15 digits"):
            identifier_reader(column)
    for column in (
        ["1234567890123450"],  # one in ten ends so by chance
        ["123456789012345000", "123456789012345678"],
        ["000000000012345000", "00000000001234600000"],
        ["100000000000000"],
    ):
        assert [identifier_reader(column)(text) for text in column] == column


@pytest.mark.parametrize("text", ["", "nan", "NA", "None", "null", "<NA>", "n/a"])
def test_missing_is_not_an_identifier(text):
    with pytest.raises(ValueError, match="missing"):
        read(text)
    assert read_prediction_id(text) is None


@pytest.mark.parametrize("mark", ["\u200b", "\u200e", "\ufeff", "\u00ad"])
def test_invisible_characters_are_refused(mark):
    with pytest.raises(ValueError, match="invisible"):
        read(f"100{mark}06")
