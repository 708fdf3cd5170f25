"""The table: what is read from it, and what is refused and where."""

import math

import numpy as np
import pytest

from efficientnet.mammography.table import Breast, Counts, Row, TableError, read_table
from efficientnet.mammography.table_columns import (
    FIELDS,
    RSNA_TARGETS,
    check_columns,
    default_targets,
    parse_column_mapping,
    present_columns,
)
from efficientnet.mammography.targets import Target

TRAIN_HEADER = (
    "site_id,patient_id,image_id,laterality,view,age,cancer,biopsy,invasive,BIRADS,implant,density,machine_id,"
    "difficult_negative_case"
)
TEST_HEADER = "site_id,patient_id,image_id,laterality,view,age,implant,machine_id,prediction_id"
SMALL = "patient_id,image_id,laterality,cancer\n10006,1,L,0\n10006,2,R,1\n10011,3,L,0\n"


@pytest.fixture
def write(tmp_path):
    def write_file(content: str | bytes, name: str = "train.csv"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write_file


def message_of(path, **arguments) -> str:
    """What the person at the keyboard reads about a bad table: one or two lines that name the file."""
    with pytest.raises(TableError) as caught:
        read_table(path, **arguments)
    message = str(caught.value)
    assert str(path) in message
    assert message.count("\n") <= 1
    return message


def test_rsna_train_rows_are_typed(write):
    path = write(
        TRAIN_HEADER + "\n"
        "2,10006,462822612,L,CC,61.0,0,0,0,,0,,29,False\n"
        "1,10006,1459541791,R,mlo,,1,1,0,4.0,0,B,21.0,True\n"
    )
    table = read_table(path, targets=RSNA_TARGETS)
    assert table.rows == (
        Row("10006", "462822612", "L", "CC", "2", "29", 61.0, (0.0, 0.0, 0.0, 0.0), "10006_L", 0.0, None),
        Row("10006", "1459541791", "R", "MLO", "1", "21", None, (1.0, 1.0, 0.0, 1.0), "10006_R", 0.0, "B"),
    )
    assert table.target_names == RSNA_TARGETS
    assert table.path == path
    assert table.warnings == ()


def test_rsna_test_table_has_no_labels_and_its_own_prediction_ids(write):
    path = write(TEST_HEADER + "\n2,10008,736471439,L,MLO,81,0,21,10008_left\n")
    table = read_table(path, targets=("cancer", "biopsy"), labels="none")
    assert table.rows[0].prediction_id == "10008_left"
    assert table.labels.shape == (1, 2)
    assert np.isnan(table.labels).all()
    assert table.warnings == ()


def test_empty_prediction_id_is_filled_in(write):
    path = write("patient_id,image_id,laterality,prediction_id\n10008,1,L,\n")
    assert read_table(path, labels="none").rows[0].prediction_id == "10008_L"


def test_labels_are_ignored_where_they_are_not_wanted(write):
    table = read_table(write("patient_id,image_id,laterality,cancer\n1,1,L,unclear\n"), labels="none")
    assert np.isnan(table.labels).all()


def test_identifiers_are_kept_as_written_except_for_the_decimals_of_pandas(write):
    path = write("patient_id,image_id,laterality,cancer\n10006.0,0042.00,L,0\n007,a.0,R,0\n7,42,R,0\nv1.5,b,R,0\n")
    rows = read_table(path).rows
    images = [(row.patient_id, row.image_id) for row in rows]
    assert images == [("10006", "0042"), ("007", "a.0"), ("7", "42"), ("v1.5", "b")]


def test_identifiers_that_a_spreadsheet_cut_to_15_digits_are_refused_by_column(write):
    rows = "".join(f"{patient},1{patient:02}000000000000000,L,0\n" for patient in range(10, 15))
    message = message_of(write("patient_id,image_id,laterality,cancer\n" + rows))
    assert "column 'image_id': '110000000000000000' and" in message and "15 digits" in message


def test_prediction_ids_are_refused_where_a_spreadsheet_changed_them(write):
    path = write("patient_id,image_id,laterality,prediction_id\n1,1,L,1.2E+09\n")
    assert "line 2, column 'prediction_id': '1.2E+09'" in message_of(path, labels="none")


def test_patients_that_differ_only_in_case_are_said(write):
    table = read_table(write("patient_id,image_id,laterality,cancer\np1,1,L,0\nP1,2,L,0\np2,3,L,0\n"))
    assert table.patients == ("p1", "P1", "p2")
    assert len(table.warnings) == 1 and "(first: p1, P1)" in table.warnings[0]


def test_patients_that_differ_only_in_leading_zeros_are_said(write):
    patients = ("100", "00100", "0", "00", "10")
    rows = "".join(f"{patient},{image},L,0\n" for image, patient in enumerate(patients))
    table = read_table(write("patient_id,image_id,laterality,cancer\n" + rows))
    assert table.patients == patients
    (warning,) = table.warnings
    assert "2 patients" in warning and "leading zeros (first: 100, 00100)" in warning


@pytest.mark.parametrize("written", ["L", "l", "left", "Left", "LEFT", " L "])
def test_left_is_left_however_it_is_written(write, written):
    path = write(f"patient_id,image_id,laterality,cancer\n1,1,{written},0\n")
    assert read_table(path).rows[0].laterality == "L"


@pytest.mark.parametrize(
    ("written", "value"),
    [
        *[("0", 0), ("1", 1), ("0.0", 0), ("1.0", 1), ("True", 1), ("FALSE", 0), ("false", 0), (" 1 ", 1)],
        *[("1.", 1), ("1.00", 1), ("0.000", 0), ("+1", 1), ("+1.00", 1), ("1.000000", 1), ("0.", 0)],
    ],
)
def test_target_spellings(write, written, value):
    path = write(f"patient_id,image_id,laterality,cancer\n1,1,L,{written}\n")
    assert read_table(path).labels.tolist() == [[value]]


@pytest.mark.parametrize("written", ["1.01", "-1", "-0", "01", "10", "1e0", ".0", ".", "+", "1..0", "1 0", "\u0661"])
def test_no_other_number_is_a_label(write, written):
    message = message_of(write(f"patient_id,image_id,laterality,cancer\n1,1,L,{written}\n"))
    assert f"line 2, column 'cancer': {written!r} is not a label" in message


@pytest.mark.parametrize("written", ["", "nan", "NaN", "NA", "None", "<NA>"])
def test_missing_auxiliary_targets_are_nan(write, written):
    path = write(f"patient_id,image_id,laterality,cancer,biopsy\n1,1,L,1,{written}\n")
    labels = read_table(path, targets=("cancer", "biopsy")).labels
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, [[1, math.nan]])


def test_optional_labels_may_be_missing(write):
    path = write("patient_id,image_id,laterality,cancer\n1,1,L,\n2,2,L,1\n")
    table = read_table(path, targets=("cancer", "biopsy"), labels="optional")
    np.testing.assert_array_equal(table.labels, [[math.nan, math.nan], [1, math.nan]])
    assert len(table.warnings) == 1
    assert "'biopsy'" in table.warnings[0]


@pytest.mark.parametrize(
    "dress",
    [
        pytest.param(lambda text: b"\xef\xbb\xbf" + text.encode(), id="byte-order mark"),
        pytest.param(lambda text: text.replace("\n", "\r\n").encode(), id="CRLF"),
        pytest.param(lambda text: text.replace("\n", "\r").encode(), id="CR"),
        pytest.param(lambda text: text.replace(",", ";").encode(), id="semicolons"),
        pytest.param(lambda text: text.replace(",", "\t").encode(), id="tabs"),
        pytest.param(lambda text: b"\xef\xbb\xbfsep=;\r\n" + text.replace(",", ";").encode(), id="sep="),
        pytest.param(lambda text: b'"sep=^"\n' + text.replace(",", "^").encode(), id="sep= in quotation marks"),
        pytest.param(lambda text: text.replace("\n", "\n\n").encode(), id="blank lines"),
        pytest.param(lambda text: ("\n  \n" + text).encode(), id="blank lines first"),
        pytest.param(lambda text: text.replace("10011", ",,,\n10011").encode(), id="rows of nothing"),
        pytest.param(lambda text: text.replace("10006", '"10006"').encode(), id="quotation marks"),
        pytest.param(lambda text: text.replace("\n", ",\n").replace("r,\n", "r\n").encode(), id="commas left over"),
        pytest.param(lambda text: text.rstrip("\n").encode(), id="no newline at the end"),
        pytest.param(lambda text: text.replace(",", " , ").encode(), id="spaces"),
    ],
)
def test_dialects_read_the_same(write, dress):
    plain = read_table(write(SMALL))
    assert read_table(write(dress(SMALL))).rows == plain.rows


def test_only_the_header_decides_the_separator(write):
    path = write("patient_id,image_id,laterality,cancer,note\n1,1,L,0,a;b;c;d;e;f\n")
    assert read_table(path).rows[0].image_id == "1"


def test_quoted_fields_may_hold_separators_and_newlines(write):
    path = write('patient_id,image_id,laterality,cancer,note\n1,1,L,0,"a, ""b"",\nc"\n2,2,L,maybe,\n')
    assert "line 4" in message_of(path)


@pytest.mark.parametrize(
    ("rows", "where", "value"),
    [
        ("10006,1,L,0\n10006,2,R,2\n", "line 3, column 'cancer'", "'2'"),
        ("10006,1,L,0\n\n10006,2,R,yes\n", "line 4, column 'cancer'", "'yes'"),
        ("10006,1,L,0.5\n", "line 2, column 'cancer'", "'0.5'"),
        ("10006,1,L,\n", "line 2, column 'cancer'", "missing"),
        ("10006,1,L,nan\n", "line 2, column 'cancer'", "missing"),
        ("10006,1,B,0\n", "line 2, column 'laterality'", "'B'"),
        ("10006,1,,0\n", "line 2, column 'laterality'", "''"),
        (",1,L,0\n", "line 2, column 'patient_id'", "missing"),
        ("nan,1,L,0\n", "line 2, column 'patient_id'", "missing"),
        ("10006,,L,0\n", "line 2, column 'image_id'", "missing"),
        ("../x,1,L,0\n", "line 2, column 'patient_id'", "file name"),
        ("..,1,L,0\n", "line 2, column 'patient_id'", "file name"),
        (".,1,L,0\n", "line 2, column 'patient_id'", "file name"),
        ("1,/etc/passwd,L,0\n", "line 2, column 'image_id'", "file name"),
        ("1,a\\b,L,0\n", "line 2, column 'image_id'", "file name"),
        ('1,"a\nb",L,0\n', "line 2, column 'image_id'", "file name"),
        ("1,1.45954E+09,L,0\n", "line 2, column 'image_id'", "spreadsheet"),
        ('"1,45954E+09",1,L,0\n', "line 2, column 'patient_id'", "spreadsheet"),
        ('1,1,L,0\n1,"462,822,612",L,0\n', "line 3, column 'image_id'", "spreadsheet"),
        ("NA,1,L,0\n", "line 2, column 'patient_id'", "missing"),
        ("10006,1,L,0\n10006,2,R\n", "line 3", "3 fields for 4 columns"),
        ("10006,1,L,0,1\n", "line 2", "5 fields for 4 columns"),
        ("10006,1,L,0\n10007,1,L,0\n10006,1,R,0\n", "line 4", "line 2"),
        ('10006,1,L,0\n10006,"2,L,0\n10006,3,L,0\n', "line 3", "unclosed quotation mark"),
    ],
)
def test_a_bad_row_is_named_by_line_column_and_value(write, rows, where, value):
    message = message_of(write("patient_id,image_id,laterality,cancer\n" + rows))
    assert where in message
    assert value in message


@pytest.mark.parametrize(
    ("age", "years"),
    [("61", 61), ("61.5", 61.5), ("061Y", 61), ("61y", 61), ("018M", 1.5), ("052W", 0.9966), ("0", 0), ("NA", None)],
)
def test_ages_are_years_or_of_the_form_of_dicom(write, age, years):
    path = write(f"patient_id,image_id,laterality,cancer,age\n1,1,L,0,{age}\n")
    table = read_table(path)
    assert table.rows[0].age == (years if years is None else pytest.approx(years, abs=1e-4))
    assert table.warnings == ()


def test_ages_with_a_decimal_comma_are_read(write):
    assert read_table(write("patient_id;image_id;laterality;cancer;age\n1;1;L;0;61,0\n")).rows[0].age == 61


@pytest.mark.parametrize("age", ["61 years", "-1", "inf"])
def test_values_of_an_optional_column_that_cannot_be_read_are_missing_and_counted_in_a_line(write, age):
    table = read_table(write(f"patient_id,image_id,laterality,cancer,age\n1,1,L,0,50\n2,2,L,0,{age}\n3,3,L,0,x\n"))
    assert [row.age for row in table.rows] == [50, None, None]
    assert len(table.warnings) == 1
    assert f"line 3, column 'age': {age!r}" in table.warnings[0] and "2 of 3" in table.warnings[0]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param("1,1,L,a\n1,2,R,a\n", id="two breasts, one prediction_id"),
        pytest.param("1,1,L,a\n1,2,L,b\n", id="one breast, two prediction_ids"),
        pytest.param("1,1,L,2_L\n2,2,L,\n", id="a prediction_id that another patient's breast has by default"),
    ],
)
def test_prediction_ids_and_breasts_go_together(write, rows):
    message = message_of(write("patient_id,image_id,laterality,prediction_id\n" + rows), labels="none")
    assert "line 3" in message
    assert "line 2" in message


def test_missing_columns_are_named_with_those_that_are_there(write):
    path = write("patient_id,image,laterality,malignant\n1,1,L,0\n")
    message = message_of(path)
    assert "'image_id', 'cancer'" in message
    assert "patient_id, image, laterality, malignant" in message
    assert "--columns image_id=" in message


def test_missing_auxiliary_column_is_an_error_when_labels_are_required(write):
    assert "'biopsy'" in message_of(write(SMALL), targets=("cancer", "biopsy"))


def test_repeated_column_is_an_error_only_where_it_is_read(write):
    assert "2 columns 'cancer'" in message_of(write("patient_id,image_id,laterality,cancer,cancer\n1,1,L,0,1\n"))
    assert read_table(write("patient_id,image_id,laterality,cancer,note,note\n1,1,L,0,a,b\n")).rows


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"patient_id,image_id,laterality,cancer\n", "a header but no rows"),
        (b"PK\x03\x04\x00\x00", "not a text file"),
        (SMALL.encode("utf-16"), "UTF-16"),
        (SMALL.encode() + b"10012,4\xe9,L,0\n", "line 5, is not UTF-8".replace(",", ":")),
        (b"<!DOCTYPE html><html>" + b"x" * 10_000, "no column"),
        (b"patient_id,image_id,laterality,cancer\n1,1,L,0" + b"0" * 200_000, "line 2"),
    ],
)
def test_what_is_no_table_is_refused(write, content, said):
    message = message_of(write(content))
    assert said in message
    if len(content) < 100_000:
        assert len(message) < 1000


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    assert "No such file" in message_of(tmp_path / "nowhere.csv")
    assert "is a folder" in message_of(tmp_path)


@pytest.mark.parametrize(
    "arguments",
    [{"labels": "maybe"}, {"targets": ()}, {"targets": "cancer"}, {"targets": ("a", "a")}, {"targets": ("view",)}],
)
def test_impossible_arguments_are_value_errors(write, arguments):
    with pytest.raises(ValueError):
        read_table(write(SMALL), **arguments)


def test_columns_by_other_names_are_read(write):
    path = write("case,image_id,side,malignant,cancer\n1,1,left,1,0\n")
    columns = parse_column_mapping("patient_id=case, laterality=side,cancer=malignant")
    assert columns == {"patient_id": "case", "laterality": "side", "cancer": "malignant"}
    row = read_table(path, columns=columns).rows[0]
    assert (row.patient_id, row.laterality, row.targets) == ("1", "L", (1.0,))


def test_errors_use_the_name_in_the_file(write):
    path = write("patient_id,image_id,laterality,malignant\n1,1,L,2\n")
    assert "column 'malignant'" in message_of(path, columns={"cancer": "malignant"})


@pytest.mark.parametrize("labels", ["required", "optional"])
def test_a_mapped_column_must_be_there(write, labels):
    assert "no column 'seite'" in message_of(write(SMALL), columns={"laterality": "seite"}, labels=labels)
    assert "no column 'age_years'" in message_of(write(SMALL), columns={"age": "age_years"}, labels=labels)
    assert "no column 'krebs'" in message_of(write(SMALL), columns={"cancer": "krebs"}, labels=labels)


@pytest.mark.parametrize("labels", ["required", "optional"])
@pytest.mark.parametrize("name", ["biopsy", "BIRADS", "density"])
def test_a_mapped_column_must_be_there_even_if_it_is_not_read(write, name, labels):
    message = message_of(write("\n" + SMALL), columns={name: "other"}, labels=labels)
    assert f"line 2: no column 'other' (--columns {name}=other)" in message
    assert "patient_id, image_id, laterality, cancer" in message


def test_a_mapping_of_labels_does_no_harm_where_labels_are_not_read(write):
    path, mapping = write(SMALL), {"cancer": "krebs", "BIRADS": "birads"}
    assert read_table(path, columns=mapping, labels="none").rows
    with pytest.raises(TableError, match="'krebs'"):
        check_columns(path, mapping)
    assert present_columns(path, {**mapping, "laterality": "seite"}, needed=FIELDS) == {"laterality": "seite"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cancer", "'cancer' must have the form"),
        ("cancer=", "must have the form"),
        ("=x", "must have the form"),
        ("cancer=a,cancer=b", "given twice"),
        ("lateralty=side", "laterality"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(text, said):
    with pytest.raises(TableError, match="--columns") as caught:
        parse_column_mapping(text)
    assert said in str(caught.value)


def test_a_published_layout_is_a_mapping_of_its_own():
    assert parse_column_mapping("vindr") == {"layout": "vindr"}
    assert parse_column_mapping(" cbis ") == {"layout": "cbis"}
    for text, said in (("layout=inbreast", "unknown layout 'inbreast'"), ("layout=vindr,age=a", "cannot be combined")):
        with pytest.raises(TableError, match=said):
            parse_column_mapping(text)


def test_an_empty_mapping_is_empty():
    assert parse_column_mapping("") == {}


def test_the_default_targets_are_cancer_and_what_has_different_values(write):
    rows = ("0,1,0,0,1,A,CC,1,20,61", "1,1,1,,,B,MLO,2,20.0,nan", "0,1,0,1,1, ,mlo,x,,061Y")
    header = "cancer,biopsy,invasive,implant,BIRADS,density,view,site_id,machine_id,age\n"
    path = write(header + "\n".join(rows) + "\n")
    assert default_targets(path) == ("cancer", "invasive", "implant", "density", "view", "site_id")
    assert default_targets(path, {"biopsy": "invasive", "age": "site_id"})[:3] == ("cancer", "biopsy", "invasive")
    assert default_targets(write(header)) == default_targets(write(TEST_HEADER)) == ("cancer",)


def test_a_category_of_very_many_values_is_no_default_target(write):
    def targets(count):
        rows = "".join(f"{number},{number}\n" for number in range(count))
        return default_targets(write("machine_id,age\n" + rows.replace(",1\n", ",1 year\n")))

    assert targets(50) == ("cancer", "machine_id", "age")
    assert targets(51) == ("cancer", "age")


AUXILIARY = "patient_id,image_id,laterality,cancer,BIRADS,density,view,site_id,age,implant\n"


def test_categories_are_numbered_and_numbers_standardised(write):
    path = write(
        AUXILIARY + "1,1,L,0,2,C,CC,10,40,0\n1,2,R,1,,A,mlo,9,060Y,1\n2,3,L,0,10.0,,CC,,,\n2,4,R,0,0,C,,10,50,nan\n"
    )
    names = ("cancer", "BIRADS", "density", "view", "site_id", "age", "implant")
    table = read_table(path, names)
    assert table.target_names == names
    assert [target.kind for target in table.targets] == ["binary", *["category"] * 4, "number", "binary"]
    assert [t.values for t in table.targets[1:5]] == [("0", "2", "10"), ("A", "C"), ("CC", "MLO"), ("9", "10")]
    age = table.targets[5]
    assert (age.mean, age.std) == (50, pytest.approx(math.sqrt(200 / 3)))
    unit = 10 / age.std
    expected = [
        [0, 1, 1, 0, 1, -unit, 0],
        [1, math.nan, 0, 1, 0, unit, 1],
        [0, 2, math.nan, 0, math.nan, math.nan, math.nan],
        [0, 0, 1, math.nan, 1, 0, math.nan],
    ]
    np.testing.assert_allclose(table.labels, expected, rtol=1e-6)
    assert [row.age for row in table.rows] == [40, 60, None, 50]
    assert [(row.implant, row.density) for row in table.rows] == [(0, "C"), (1, "A"), (None, None), (None, "C")]
    assert table.warnings == ()


def test_given_targets_keep_their_categories_and_mean(write):
    targets = (Target("cancer"), Target("view", "category", ("MLO", "CC")), Target("age", "number", mean=50, std=10))
    table = read_table(write(AUXILIARY + "1,1,L,0,,,CC,,60,\n1,2,L,0,,,LM,,nan,\n"), targets)
    assert table.targets == targets
    np.testing.assert_array_equal(table.labels, [[0, 1, 1], [0, math.nan, math.nan]])
    assert (table.rows[1].view, table.rows[0].age) == ("LM", 60)


def test_only_a_binary_target_can_be_scored(write):
    for targets in (("age",), ("BIRADS", "cancer"), (Target("view", "category", ("CC",)),)):
        with pytest.raises(ValueError, match="cannot be scored"):
            read_table(write(SMALL), targets)
    for targets in (("cancer", "patient_id"), ("cancer", "laterality"), ("cancer", "prediction_id")):
        with pytest.raises(ValueError, match="reserved"):
            read_table(write(SMALL), targets)


def test_the_implant_may_be_scored_and_is_then_required(write):
    path = write(AUXILIARY + "1,1,L,0,,,,,,1\n1,2,L,0,,,,,,\n")
    assert "line 3, column 'implant': '' is missing" in message_of(path, targets=("implant",))
    assert "line 3, column 'implant'" in message_of(write(path.read_text()[:-1] + "2\n"), targets=("implant",))


def test_a_target_without_a_known_value_is_refused_and_one_value_is_enough(write):
    path = write(AUXILIARY + "1,1,L,0,,B,,,,\n")
    assert "'BIRADS' has no known value; omit it" in message_of(path, targets=("cancer", "BIRADS"))
    assert read_table(path, ("cancer", "density")).labels.tolist() == [[0, 0]]
    assert math.isnan(read_table(path, ("cancer", "age")).labels[0, 1])


def test_an_unreadable_value_that_is_also_a_target_is_said_once(write):
    table = read_table(write(AUXILIARY + "1,1,L,0,,,,,old,2\n1,2,R,0,,,,,50,1\n"), ("cancer", "age", "implant"))
    np.testing.assert_array_equal(table.labels, [[0, math.nan, math.nan], [0, 0, 1]])
    assert len(table.warnings) == 2
    assert "line 2, column 'age': 'old'" in table.warnings[0] and "1 of 2" in table.warnings[0]


def test_the_labels_of_a_breast_are_the_greatest_or_the_first_known(write):
    path = write(AUXILIARY + "1,1,L,0,,,CC,,,\n1,2,L,1,2,,MLO,,50,\n2,3,L,0,1,,,,60,\n1,4,L,0,1,,CC,,70,\n")
    table = read_table(path, (Target("cancer"), "BIRADS", Target("age", "number"), "view"))
    np.testing.assert_array_equal(table.breast_labels, [[1, 1, 50, 0], [0, 0, 60, math.nan]])


def test_a_table_without_cancer_is_refused_with_both_ways_out(write):
    path = write("patient_id,image_id,laterality,malignant,biopsy\n1,1,L,0,0\n")
    message = message_of(path, targets=default_targets(path))
    assert "no column 'cancer'; the columns are: patient_id, image_id, laterality, malignant, biopsy" in message
    assert "--columns cancer=NAME_IN_FILE" in message and "--targets" in message


def test_breasts_stand_in_order_of_first_appearance(write):
    path = write("patient_id,image_id,laterality,cancer\n2,1,R,0\n1,2,L,1\n2,3,L,0\n1,4,L,1\n2,5,R,0\n")
    table = read_table(path)
    assert table.breasts == (
        Breast("2_R", "2", "R", (0, 4), 0.0),
        Breast("1_L", "1", "L", (1, 3), 1.0),
        Breast("2_L", "2", "L", (2,), 0.0),
    )
    assert table.patients == ("2", "1")
    assert table.counts == Counts(images=5, breasts=3, patients=2)
    assert table.positive_counts == Counts(images=2, breasts=1, patients=1)


def test_images_that_disagree_make_a_positive_breast_and_a_warning(write):
    table = read_table(write("patient_id,image_id,laterality,cancer\n1,1,L,0\n2,2,L,0\n1,3,L,1\n"))
    assert [breast.label for breast in table.breasts] == [1.0, 0.0]
    assert len(table.warnings) == 1
    assert "1_L, lines 2, 4" in table.warnings[0]


def test_missing_labels_do_not_hide_known_ones(write):
    path = write("patient_id,image_id,laterality,cancer\n1,1,L,\n1,2,L,1\n2,3,L,\n3,4,L,0\n3,5,L,\n")
    table = read_table(path, labels="optional")
    labels = [breast.label for breast in table.breasts]
    np.testing.assert_array_equal(labels, [1, math.nan, 0])
    assert table.warnings == ()


def test_a_part_of_the_patients_is_a_table_of_its_own(write):
    table = read_table(write(SMALL)).of_patients({"10011"})
    assert table.breasts == (Breast("10011_L", "10011", "L", (0,), 0.0),)
    assert table.labels.shape == (1, 1)
    assert table.of_patients(()).labels.shape == (0, 1)
