"""Published layouts: VinDr-Mammo and CBIS-DDSM are recognised, and read as RSNA's table."""

import math
import os

import numpy as np
import pytest
from commands import run
from layouts import VINDR_HEADER, cbis_row, write_cbis, write_dicom, write_png, write_table, write_vindr

from efficientnet.mammography.dataset import MammogramDataset
from efficientnet.mammography.image_files import data_folder, find_images, folder_of, name_hint
from efficientnet.mammography.layouts import LAYOUTS, converted_table, find_layout, find_table
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.table import Table, TableError, read_table
from efficientnet.mammography.table_columns import (
    FIELDS,
    check_columns,
    default_targets,
    present_columns,
)

CC, MLO = "Mass-Training_P_00001_LEFT_CC", "Mass-Training_P_00001_LEFT_MLO"
RIGHT, CALC = "Mass-Test_P_00016_RIGHT_CC", "Calc-Test_P_00016_RIGHT_CC"
PREPROCESSING = Preprocessing((32, 32))


def read(root, targets=("cancer", "BIRADS", "density")) -> Table:
    source = find_table(data_folder(root))
    return read_table(source.path, targets, source.columns, source.labels)


def write_vindr_row(root, **cells):
    row = {"study_id": "s", "image_id": "i", "laterality": "L", "view_position": "CC", "breast_birads": "BI-RADS 1"}
    row |= {"breast_density": "DENSITY A"} | cells
    return write_table(
        root / "breast-level_annotations.csv", VINDR_HEADER, [[row.get(name, "") for name in VINDR_HEADER]]
    )


def test_vindr_is_recognised_and_read(tmp_path):
    root = write_vindr(tmp_path)
    assert data_folder(root / "breast-level_annotations.csv") == folder_of(root) == root
    assert find_layout(root) == "vindr" and find_table(root).columns == {"layout": "vindr"}
    table = read(root)
    assert (table.counts.patients, table.counts.breasts, table.counts.images) == (2, 4, 8)
    assert table.layout == "vindr" and table.warnings == ()
    first = table.rows[0]
    assert (first.patient_id, first.image_id, first.laterality, first.view) == ("s1", "s1lcc", "L", "CC")
    assert (first.density, first.prediction_id, first.site_id, first.age) == ("C", "s1_L", None, None)
    files = find_images(table, root)
    assert files[0] == root / "images" / "s1" / "s1lcc.dicom" and None not in files
    assert all(MammogramDataset(table, files, PREPROCESSING)[place].readable for place in range(8))
    assert default_targets(*find_table(root)[:2]) == ("cancer", "BIRADS", "view")


@pytest.mark.parametrize(
    ("assessment", "cancer", "birads"),
    [
        ("BI-RADS 1", 0, "1"),
        ("BI-RADS 2", 0, "2"),
        ("BI-RADS 3", math.nan, "0"),
        ("BI-RADS 4", math.nan, "0"),
        ("BI-RADS 5", 1, "0"),
        ("bi-rads 5", 1, "0"),
        ("2", 0, "2"),
    ],
)
def test_only_the_plain_assessments_of_vindr_are_labels(tmp_path, assessment, cancer, birads):
    write_vindr_row(tmp_path, breast_birads=assessment)
    table = read(tmp_path, ("cancer", "BIRADS"))
    np.testing.assert_array_equal(table.labels[:, 0], [cancer])
    assert table.targets[1].values == (birads,)


def test_what_vindr_does_not_say_is_missing(tmp_path):
    write_vindr_row(tmp_path, breast_birads="", breast_density="")
    table = read(tmp_path, ("cancer",))
    assert math.isnan(table.labels[0, 0]) and table.rows[0].density is None


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        ({"breast_birads": "BI-RADS 6"}, "column 'breast_birads': 'BI-RADS 6' is not a category from BI-RADS 1"),
        ({"laterality": "B"}, "column 'laterality': 'B' is not a side"),
        ({"study_id": ""}, "column 'study_id': '' is missing"),
        ({"image_id": "../x"}, "column 'image_id': '../x' cannot be part of a file name"),
    ],
)
def test_a_wrong_cell_is_named_as_in_the_published_table(tmp_path, cells, said):
    path = write_vindr_row(tmp_path, **cells)
    with pytest.raises(TableError) as caught:
        read(tmp_path)
    assert f"{path}, line 2, {said}" in str(caught.value)


def test_an_image_of_vindr_stands_in_one_line(tmp_path):
    row = ["s", "", "i", "L", "CC", 1, 1, "BI-RADS 1", "DENSITY A", "training"]
    path = write_table(tmp_path / "breast-level_annotations.csv", VINDR_HEADER, [row, row])
    with pytest.raises(TableError, match=r"line 3: image 'i' of patient 's' is already in line 2"):
        read_table(path, columns={"layout": "vindr"}, labels="optional")


def test_a_layout_that_is_named_must_fit(tmp_path):
    (tmp_path / "breast-level_annotations.csv").write_text("study_id,image_id\ns,i\n")
    assert find_layout(tmp_path) is None
    with pytest.raises(TableError, match=r"has no train\.csv"):
        data_folder(tmp_path)
    source = find_table(tmp_path, {"layout": "vindr"})
    with pytest.raises(
        TableError, match=r"no column 'laterality', .* which VinDr-Mammo has; the columns are: study_id"
    ):
        read_table(source.path, columns=source.columns)


def test_the_tables_of_cbis_are_one_and_lines_of_an_image_are_merged(tmp_path):
    write_cbis(
        tmp_path,
        "mass_train",
        [
            cbis_row(CC, "BENIGN", 1, assessment=2),
            cbis_row(CC, "MALIGNANT", 2, assessment=5),
            cbis_row(MLO, "BENIGN_WITHOUT_CALLBACK", 1, assessment=2, density=0),
            cbis_row(CC, "BENIGN", 3, assessment=1),
        ],
    )
    write_cbis(tmp_path, "mass_test", [cbis_row(RIGHT, "BENIGN", assessment=3, density=4)])
    write_cbis(tmp_path, "calc_test", [cbis_row(CALC, "MALIGNANT", assessment=1, density=1)])
    assert find_layout(tmp_path) == "cbis" and find_table(tmp_path).columns == {"layout": "cbis"}
    table = read(tmp_path)
    assert [row.image_id for row in table.rows] == [CC, MLO, RIGHT, CALC]
    assert [row.targets[0] for row in table.rows] == [1, 0, 0, 1]
    assert table.targets[1].values == ("0", "1", "2") and table.labels[:, 1].tolist() == [0, 2, 0, 1]
    assert [row.density for row in table.rows] == ["B", None, "D", "A"]
    assert [(b.prediction_id, b.label) for b in table.breasts] == [("P_00001_L", 1), ("P_00016_R", 1)]
    assert [row.view for row in table.rows] == ["CC", "MLO", "CC", "CC"]
    (warning,) = table.warnings
    assert f"images of 2 breasts have different labels for 'cancer' (first: P_00001_L, images {CC}, {MLO})" in warning


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({9: "MALIGN"}, "line 2, column 'pathology': 'MALIGN' is not MALIGNANT, BENIGN or"),
        ({11: "x/000000.dcm"}, "line 2, column 'image file path': 'x/000000.dcm' does not hold the name of an image"),
        ({2: "BOTH"}, "line 2, column 'left or right breast': 'BOTH' is not a side"),
        ({0: "nan"}, "line 2, column 'patient_id': 'nan' is missing"),
    ],
)
def test_a_wrong_cell_of_cbis_is_named_in_its_own_table(tmp_path, change, said):
    write_cbis(tmp_path, "mass_train", [cbis_row(CC, "BENIGN")])
    row = cbis_row(CALC, "BENIGN")
    for place, text in change.items():
        row[place] = text
    path = write_cbis(tmp_path, "calc_test", [row])
    with pytest.raises(TableError) as caught:
        read(tmp_path)
    assert f"{path}, {said}" in str(caught.value)


def test_films_are_found_in_folders_of_their_names_at_any_depth(tmp_path):
    write_cbis(tmp_path, "mass_train", [cbis_row(CC, "BENIGN"), cbis_row(MLO, "BENIGN")])
    write_cbis(tmp_path, "calc_test", [cbis_row(CALC, "BENIGN"), cbis_row(RIGHT, "BENIGN")])
    downloaded = tmp_path / "manifest" / "CBIS-DDSM"
    write_dicom(downloaded / CC / "07-20-2016-DDSM-30104" / "1.000000-full mammogram images-24515" / "1-1.dcm")
    write_dicom(downloaded / f"{CC}_1" / "07-20-2016" / "cropped images" / "1-1.dcm")
    write_dicom(downloaded / f"{CC}_1" / "07-20-2016" / "cropped images" / "1-2.dcm")
    write_png(tmp_path / "png" / f"{MLO}.png")
    write_png(tmp_path / CALC / "1.jpeg")
    (tmp_path / CALC / "notes.txt").write_text("")
    table = read(tmp_path, ("cancer",))
    files = dict(zip((row.image_id for row in table.rows), find_images(table, tmp_path), strict=True))
    assert [files[image] and files[image].name for image in (CC, MLO, CALC, RIGHT)] == [
        *("1-1.dcm", f"{MLO}.png", "1.jpeg", None),
    ]
    assert files[CC].is_relative_to(downloaded / CC)
    assert MammogramDataset(table, list(files.values()), PREPROCESSING)[0].readable
    assert name_hint(table, list(files.values()), tmp_path, "train_images") is None
    write_png(downloaded / CC / "converted.png")  # DICOM goes first
    assert find_images(table, tmp_path)[0] == files[CC]
    write_dicom(downloaded / CC / "2-1.dcm")
    with pytest.raises(TableError, match=rf"1-1.dcm and .*2-1.dcm: either could be the image {CC}; keep one"):
        find_images(table, tmp_path)


def test_links_out_of_the_folder_of_cbis_are_not_followed(tmp_path):
    root = tmp_path / "data"
    write_cbis(root, "mass_train", [cbis_row(CC, "BENIGN"), cbis_row(MLO, "BENIGN")])
    write_dicom(tmp_path / "elsewhere" / CC / "1.dcm")
    write_dicom(root / "inside" / "2.dcm")
    os.symlink(tmp_path / "elsewhere", root / "link")
    (root / MLO).mkdir()
    os.symlink(root / "inside" / "2.dcm", root / MLO / "2.dcm")
    table = read(root, ("cancer",))
    assert find_images(table, root) == [None, root / MLO / "2.dcm"]


def test_without_any_image_the_hint_is_that_of_the_layout(tmp_path):
    write_vindr_row(tmp_path)
    table = read(tmp_path, ("cancer",))
    assert "images/<study_id>/<image_id>.dicom" in name_hint(table, [None], tmp_path, "train_images")
    write_dicom(tmp_path / "images" / "s" / "I.dicom")
    assert "upper/lower case" in name_hint(table, [None], tmp_path, "train_images")
    write_cbis(tmp_path / "cbis", "mass_test", [cbis_row(RIGHT, "BENIGN")])
    table = read(tmp_path / "cbis", ("cancer",))
    assert "a folder named like Mass-" in name_hint(table, [None], tmp_path / "cbis", "train_images")


def test_a_table_of_rsna_goes_before_a_recognised_one_and_after_a_named_one(tmp_path):
    write_vindr_row(tmp_path)
    (tmp_path / "train.csv").write_text("patient_id,image_id,laterality,malignant\n1,1,L,0\n")
    mapping = {"cancer": "malignant"}
    assert find_table(tmp_path, mapping) == (tmp_path / "train.csv", mapping, "required")
    assert find_table(tmp_path, {"layout": "vindr"}).path.name == "breast-level_annotations.csv"
    assert find_table(tmp_path, {"layout": "vindr"}, "test.csv") == (tmp_path / "test.csv", {}, "required")
    (tmp_path / "train.csv").unlink()
    assert find_table(tmp_path, mapping).columns == {"layout": "vindr"}
    (tmp_path / "breast-level_annotations.csv").unlink()
    assert find_table(tmp_path, mapping).path == tmp_path / "train.csv"


def test_checks_of_the_mapping_leave_a_layout_alone(tmp_path):
    path, mapping = write_vindr_row(tmp_path), {"layout": "vindr"}
    check_columns(path, mapping)
    assert present_columns(path, mapping, needed=FIELDS) == present_columns(path, mapping) == mapping
    assert list(LAYOUTS) == ["vindr", "cbis"]


@pytest.mark.parametrize("name", ["vindr", "cbis"])
def test_a_converted_table_reads_the_same(tmp_path, name):
    if name == "vindr":
        write_vindr(tmp_path)
    else:
        write_cbis(tmp_path, "mass_train", [cbis_row(CC, "BENIGN"), cbis_row(MLO, "")])
    table, prepared = read(tmp_path), tmp_path / "prepared"
    prepared.mkdir()
    (prepared / "train.csv").write_bytes(converted_table(table.path, name))
    for columns in ({}, {"layout": name}):  # as given to the run that was trained on the original
        source = find_table(prepared, columns)
        assert (source.path.name, source.columns, source.labels) == ("train.csv", {}, "optional")
        again = read_table(source.path, table.targets, source.columns, source.labels)
        np.testing.assert_array_equal(again.labels, table.labels)
        assert again.breasts[0] == table.breasts[0] and again.layout is None
        assert [row.density for row in again.rows] == [row.density for row in table.rows]


@pytest.mark.parametrize("name", ["vindr", "cbis"])
def test_a_prepared_folder_holds_the_pictures_and_the_converted_table(tmp_path, name):
    root, cache = tmp_path / "original", tmp_path / "cache"
    if name == "vindr":
        write_vindr(root, breasts=(("s1", "L", 5), ("s1", "R", 3)))
    else:
        write_cbis(root, "calc_train", [cbis_row(CC, "MALIGNANT"), cbis_row(MLO, "BENIGN")])
        for image in (CC, MLO):
            write_dicom(root / "CBIS-DDSM" / image / "date" / "series" / "1-1.dcm")
    command = ("efficientnet.mammography.prepare", "--data", root, "--workers", 1)
    checked = run(*command, "--check")
    assert checked.returncode == 0, checked.stderr + checked.stdout
    assert f"layout {LAYOUTS[name].title}" in " ".join(checked.stdout.split())
    for columns in ((), ("--columns", name)):  # the second time, nothing is left to do
        prepared = run(*command, "--image-size", 32, "--output", cache, *columns)
        assert prepared.returncode == 0, prepared.stderr + prepared.stdout
    table, again = read(root), read(cache)
    files = find_images(again, data_folder(cache))
    assert [row.image_id for row in again.rows] == [row.image_id for row in table.rows]
    assert [file.relative_to(cache).parts for file in files] == [
        ("train_images", row.patient_id, f"{row.image_id}.png") for row in table.rows
    ]
    np.testing.assert_array_equal(again.labels, table.labels)
    one = MammogramDataset(table, find_images(table, root), PREPROCESSING)[0]
    assert (one.image - MammogramDataset(again, files, PREPROCESSING)[0].image).abs().max() <= 0.51 / 255 / 0.2


def test_a_recognised_folder_needs_no_columns_and_takes_none(tmp_path):
    root = write_vindr(tmp_path / "vindr")
    arguments = ("train.py", "--data", root, "--variant", "b0", "--image-size", 32, "--folds", 2, "--dry-run")
    process = run(*arguments)
    assert process.returncode == 0, process.stderr
    assert "recognised as VinDr-Mammo" in process.stdout
    refused = run(*arguments, "--columns", "cancer=malignant")
    assert refused.returncode == 1 and "omit --columns" in refused.stderr
