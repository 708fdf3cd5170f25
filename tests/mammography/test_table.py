"""The table: what is read from it, what is refused and where, and how its patients are split."""

import csv
import math
import random
from dataclasses import replace
from itertools import cycle

import numpy as np
import pytest

from efficientnet.mammography.table import (
    RSNA_TARGETS,
    Breast,
    Counts,
    Row,
    Table,
    TableError,
    assign_folds,
    available_targets,
    parse_column_mapping,
    read_table,
)

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
        Row("10006", "462822612", "L", "CC", "2", "29", 61.0, (0.0, 0.0, 0.0, 0.0), "10006_L"),
        Row("10006", "1459541791", "R", "MLO", "1", "21", None, (1.0, 1.0, 0.0, 1.0), "10006_R"),
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
    path = write("patient_id,image_id,laterality,cancer\n10006.0,0042.00,L,0\n007,a.0,R,0\nv1.5,1.50,R,0\n")
    rows = read_table(path).rows
    assert [(row.patient_id, row.image_id) for row in rows] == [("10006", "0042"), ("007", "a.0"), ("v1.5", "1.50")]


@pytest.mark.parametrize("written", ["L", "l", "left", "Left", "LEFT", " L "])
def test_left_is_left_however_it_is_written(write, written):
    path = write(f"patient_id,image_id,laterality,cancer\n1,1,{written},0\n")
    assert read_table(path).rows[0].laterality == "L"


@pytest.mark.parametrize(
    ("written", "value"),
    [("0", 0), ("1", 1), ("0.0", 0), ("1.0", 1), ("True", 1), ("FALSE", 0), ("false", 0), (" 1 ", 1)],
)
def test_target_spellings(write, written, value):
    path = write(f"patient_id,image_id,laterality,cancer\n1,1,L,{written}\n")
    assert read_table(path).labels.tolist() == [[value]]


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
        ("10006,1,L,0\n10006,2,R\n", "line 3", "3 fields under 4 columns"),
        ("10006,1,L,0,1\n", "line 2", "5 fields under 4 columns"),
        ("10006,1,L,0\n10007,1,L,0\n10006,1,R,0\n", "line 4", "line 2"),
        ('10006,1,L,0\n10006,"2,L,0\n10006,3,L,0\n', "line 3", "mark that is not closed"),
    ],
)
def test_a_bad_row_is_named_by_line_column_and_value(write, rows, where, value):
    message = message_of(write("patient_id,image_id,laterality,cancer\n" + rows))
    assert where in message
    assert value in message


@pytest.mark.parametrize("age", ["061Y", "-1", "inf"])
def test_a_bad_age_is_named(write, age):
    path = write(f"patient_id,image_id,laterality,cancer,age\n1,1,L,0,{age}\n")
    assert f"line 2, column 'age': {age!r}" in message_of(path)


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
        (b"patient_id,image_id,laterality,cancer\n", "not one row"),
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


def test_a_mapping_of_what_is_not_read_does_no_harm(write):
    assert read_table(write(SMALL), columns={"cancer": "krebs"}, labels="none").rows
    assert read_table(write(SMALL), columns={"biopsy": "biopsie"}).rows


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cancer", "'cancer' is not of the form"),
        ("cancer=", "is not of the form"),
        ("=x", "is not of the form"),
        ("cancer=a,cancer=b", "given twice"),
        ("lateralty=side", "laterality"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(text, said):
    with pytest.raises(TableError, match="--columns") as caught:
        parse_column_mapping(text)
    assert said in str(caught.value)


def test_an_empty_mapping_is_empty():
    assert parse_column_mapping("") == {}


def test_available_targets_come_cancer_first(write):
    header = "invasive,patient_id,difficult_negative_case,cancer\n"
    assert available_targets(write(header)) == ("cancer", "invasive", "difficult_negative_case")
    assert available_targets(write(TRAIN_HEADER)) == RSNA_TARGETS
    assert available_targets(write(TEST_HEADER)) == ()
    assert available_targets(write("a,b\n"), columns={"biopsy": "b"}) == ("biopsy",)


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


def write_simulated_rsna(path):
    """A train.csv of the published sizes: 54,706 images of 11,913 patients at two sites, 23,826 breasts of which
    18,384 have two images and no other more than four; 486 patients with cancer, 6 of them on both sides."""
    image = 0
    views = cycle(("CC", "MLO", "MLO"))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(TRAIN_HEADER.split(","))
        for breast in range(23_826):
            patient, side = divmod(breast, 2)
            cancer = int(patient % 24 == 0 and patient // 24 < 486 and (side == 0 or patient // 24 < 6))
            scattered = breast * 7919 % 23_826  # each number once, since 7919 is prime
            for _ in range(2 + (scattered < 5442) + (scattered < 1612)):
                image += 1
                site, case, name = 1 + patient % 7 % 2, 10_000 + 3 * patient, 7919 * image
                row = [site, case, name, "LR"[side], next(views), "61.0", cancer, cancer, 0, "", 0, "", 20 + site]
                writer.writerow([*row, patient % 6 == 1])


@pytest.fixture(scope="module")
def rsna(tmp_path_factory):
    path = tmp_path_factory.mktemp("rsna") / "train.csv"
    write_simulated_rsna(path)
    return read_table(path, targets=RSNA_TARGETS)


def test_a_table_of_the_size_of_rsna_is_read(rsna):
    assert rsna.counts == Counts(images=54_706, breasts=23_826, patients=11_913)
    assert (rsna.positive_counts.breasts, rsna.positive_counts.patients) == (492, 486)
    assert rsna.labels.shape == (54_706, 4)
    assert sum(len(breast.rows) == 2 for breast in rsna.breasts) == 18_384
    assert rsna.labels[:, 0].sum() == rsna.positive_counts.images
    assert rsna.labels[:, 3].sum() > 7_000
    assert rsna.warnings == ()


def table_of(patients: dict[str, int], cancer: set[str] = frozenset(), sites: dict[str, str] | None = None) -> Table:
    """A table with so many images for each patient."""
    rows = [
        Row(patient, f"{patient}-{i}", "L", None, (sites or {}).get(patient), None, None, (label,), f"{patient}_L")
        for patient, images in patients.items()
        for label in (float(patient in cancer),)
        for i in range(images)
    ]
    return Table(tuple(rows), ("cancer",), "table.csv")


def spread(counts) -> int:
    return max(counts) - min(counts)


@pytest.mark.parametrize("folds", [2, 4, 5])
def test_folds_of_rsna_are_balanced(rsna, folds):
    fold_of = assign_folds(rsna, folds)
    assert tuple(fold_of) == rsna.patients
    assert set(fold_of.values()) == set(range(folds))
    cancer = {breast.patient_id for breast in rsna.breasts if breast.label == 1}
    patients, positive, images, images_at_site_1 = ([0] * folds for _ in range(4))
    for patient, fold in fold_of.items():
        patients[fold] += 1
        positive[fold] += patient in cancer
    for row in rsna.rows:
        images[fold_of[row.patient_id]] += 1
        images_at_site_1[fold_of[row.patient_id]] += row.site_id == "1"
    assert spread(patients) <= 1
    assert spread(positive) <= 1
    # Each of the four blocks in the line (cancer or not, site 1 or 2) contributes at most the difference between its
    # patients with most and with fewest images, which is 4, and one patient of 8 images by which lengths may differ.
    assert spread(images) <= 4 * (4 + 8)
    assert spread(images_at_site_1) <= 2 * (4 + 8)


def test_folds_are_stratified_within_one_for_any_table():
    generator = random.Random(0)
    for seed in range(100):
        patients = {str(patient): generator.randint(1, 14) for patient in range(generator.randint(5, 120))}
        cancer = set(generator.sample(sorted(patients), generator.randint(0, len(patients))))
        sites = {patient: generator.choice("123") for patient in patients}
        folds = generator.randint(2, 5)
        fold_of = assign_folds(table_of(patients, cancer, sites), folds, seed)
        assert set(fold_of) == set(patients)
        for stratum in (set(patients), cancer, set(patients) - cancer):
            counts = [sum(fold_of[patient] == fold for patient in stratum) for fold in range(folds)]
            assert spread(counts) <= 1
        for site in "123":
            counts = [
                sum(fold_of[patient] == fold for patient in cancer if sites[patient] == site) for fold in range(folds)
            ]
            assert spread(counts) <= 1


def test_folds_do_not_depend_on_the_order_of_rows(rsna):
    rows = list(rsna.rows)
    random.Random(1).shuffle(rows)
    assert assign_folds(replace(rsna, rows=tuple(rows)), 4) == assign_folds(rsna, 4)


def test_a_patient_at_two_sites_has_one_place_in_line_whatever_row_comes_first():
    table = table_of({str(patient): 2 for patient in range(40)})
    rows = [replace(row, site_id=str(1 + place % 2)) for place, row in enumerate(table.rows[:40])]
    rows += [replace(row, site_id="2") for row in table.rows[40:]]
    backwards = replace(table, rows=tuple(reversed(rows)))
    assert assign_folds(replace(table, rows=tuple(rows)), 4) == assign_folds(backwards, 4)


def test_folds_depend_on_the_seed(rsna):
    first, second = assign_folds(rsna, 4, seed=0), assign_folds(rsna, 4, seed=1)
    same = sum(first[patient] == second[patient] for patient in first)
    assert 0.15 < same / len(first) < 0.35  # one in four by chance


def test_folds_are_the_ones_they_have_always_been():
    """A change of these is a change of every published split: scores before and after cannot be compared."""
    table = table_of(
        {"10006": 4, "10011": 4, "10025": 4, "10038": 5, "10042": 4, "10048": 4, "10049": 6, "10050": 4},
        cancer={"10025", "10042", "10049"},
        sites={"10006": "2", "10011": "1", "10048": "2"},
    )
    assert assign_folds(table, 3, seed=0) == dict(zip(table.patients, [0, 2, 1, 1, 0, 1, 2, 0], strict=True))
    assert assign_folds(table, 3, seed=1) == dict(zip(table.patients, [1, 2, 1, 1, 0, 0, 2, 0], strict=True))


@pytest.mark.parametrize("folds", [-1, 0, 1, 4])
def test_impossible_numbers_of_folds_are_refused(folds):
    table = table_of({"a": 1, "b": 1, "c": 1})
    with pytest.raises(ValueError, match="3 patients"):
        assign_folds(table, folds)
    assert sorted(assign_folds(table, 3).values()) == [0, 1, 2]
