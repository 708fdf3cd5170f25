"""The data folder and the file of each row: by name, never one file for two rows, and a hint where a name is near."""

import itertools
from pathlib import Path

import pytest

from efficientnet.mammography.image_files import data_folder, every_image, find_images, is_dicom, name_hint
from efficientnet.mammography.table import Table, TableError, read_table


def table_of(root: Path, *images: str) -> Table:
    """A table of images named `patient/image`."""
    lines = [f"{image.replace('/', ',')},L,0" for image in images]
    (root / "train.csv").write_text("\n".join(["patient_id,image_id,laterality,cancer", *lines]) + "\n")
    return read_table(root / "train.csv")


def write(root: Path, *names: str) -> None:
    for name in names:
        path = root / "train_images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def found(root: Path, table: Table) -> list[str | None]:
    files = find_images(table, root)
    return [None if file is None else str(file.relative_to(root / "train_images")) for file in files]


NAMES = ("p1/1.png", "p1_1.png", "1.png")


@pytest.mark.parametrize("names", [c for n in (1, 2, 3) for c in itertools.combinations(NAMES, n)], ids="+".join)
def test_the_most_particular_name_wins(tmp_path, names):
    write(tmp_path, *names)
    assert found(tmp_path, table_of(tmp_path, "p1/1", "p2/2")) == [names[0], None]


def test_where_images_are_numbered_in_each_patient_a_flat_file_is_nobodys(tmp_path):
    table = table_of(tmp_path, *(f"p{patient}/{image}" for patient in range(4) for image in (1, 2)))
    own = [f"p{patient}_{image}.png" for patient in range(4) for image in (1, 2)]
    write(tmp_path, "1.png", "2.png")
    with pytest.raises(TableError, match=r"train_images/1.png: matches both image '1' of patient 'p0' and .* 'p1'"):
        find_images(table, tmp_path)
    write(tmp_path, *own)
    assert found(tmp_path, table) == own
    # One patient without files of her own: the stray file may still be that of others.
    (tmp_path / "train_images" / "p2_1.png").unlink()
    with pytest.raises(TableError, match=r"1.png: matches both image '1' of patient 'p2' and .* patient 'p0'"):
        find_images(table, tmp_path)
    (tmp_path / "train_images" / "1.png").unlink()
    assert found(tmp_path, table) == [None if name == "p2_1.png" else name for name in own]


@pytest.mark.parametrize(
    ("images", "file"),
    [
        (("a/b_c", "a_b/c"), "a_b_c.png"),  # two patients
        (("p/1", "p/p_1"), "p_1.png"),  # two images of one patient
        (("p1/5", "x/p1_5"), "p1_5.png"),
    ],
)
def test_one_file_is_never_that_of_two_rows(tmp_path, images, file):
    write(tmp_path, file)
    with pytest.raises(TableError, match=file):
        find_images(table_of(tmp_path, *images), tmp_path)


def test_a_patients_folder_is_not_searched_for_others(tmp_path):
    write(tmp_path, "p2/1.png")
    assert found(tmp_path, table_of(tmp_path, "p1/1", "p2/2")) == [None, None]


def test_folders_of_patients_under_other_names_are_said(tmp_path):
    write(tmp_path, "007/10.png", "008/11.png", "009/12.png")
    with pytest.raises(TableError, match=r"007: its name nearly matches patient '7' of train\.csv, .*a spreadsheet"):
        find_images(table_of(tmp_path, "7/10", "8/11", "9/12"), tmp_path)
    with pytest.raises(TableError, match=r"007 and in .*008 and 1 others; .* name them by patient_id"):
        find_images(table_of(tmp_path, "a/10", "b/11", "c/12"), tmp_path)


def test_folders_whose_numbers_a_spreadsheet_has_grouped_are_said(tmp_path):
    write(tmp_path, "45737/1.png", "46100/2.png")
    with pytest.raises(TableError, match=r"45737: its name nearly matches patient '45\.737' of .*a spreadsheet"):
        find_images(table_of(tmp_path, "45.737/1", "46.100/2"), tmp_path)


def test_names_differ_by_capitals_and_zeros(tmp_path):
    write(tmp_path, "a/7.png", "A/007.png")
    assert found(tmp_path, table_of(tmp_path, "a/7", "A/007", "a/007", "A/7")) == ["a/7.png", "A/007.png", None, None]


def test_suffixes_are_read_in_capitals_and_files_without_one_are_dicom(tmp_path):
    names = ("1/10.DCM", "1/1.2.840.113619.2.1", "1/12", "1_13", "1/IM.0007")
    write(tmp_path, *names, "1/14.dcm.gz", "1/.DS_Store", "1/._10.dcm", "DICOMDIR")
    images = ("1/10", "1/1.2.840.113619.2.1", "1/12", "1/13", "1/IM.0007", "1/14")
    table = table_of(tmp_path, *images)
    assert found(tmp_path, table) == [*names, None]
    assert all(map(is_dicom, filter(None, find_images(table, tmp_path))))
    assert not is_dicom(Path("1.PNG")) and not is_dicom(Path("1.jpeg"))
    images, left_out = every_image(tmp_path, "train_images", [])
    assert [Path(image).name for image in images] == ["10.DCM"] and left_out == []


def test_a_file_of_the_full_name_goes_before_a_picture_of_it(tmp_path):
    write(tmp_path, "1/10", "1/10.png")
    assert found(tmp_path, table_of(tmp_path, "1/10")) == ["1/10"]


@pytest.mark.parametrize(
    ("image", "file", "said"),
    [
        ("1/10.png", "1/10.png", "image_id must not include the suffix: 10"),
        ("1/10.dcm", "10.png", "image_id must not include the suffix: 10"),
        ("1/10", "1/10.dcm.gz", "files must end in .dcm"),
        ("1/10", "1_10.jp2", "files must end in .dcm"),
        ("1/abc", "1/ABC.dcm", "upper/lower case"),
        ("7/10", "007/0010.dcm", "zeros"),
    ],
)
def test_a_name_that_is_nearly_right_is_explained(tmp_path, image, file, said):
    write(tmp_path, file, "2/20.png")
    table = table_of(tmp_path, "2/20", image)
    files = find_images(table, tmp_path)
    assert files[1] is None
    hint = name_hint(table, files, tmp_path, "train_images")
    assert image in hint and file in hint and said in hint and "\n" not in hint


def test_where_no_name_is_near_the_hint_is_where_images_belong_or_none(tmp_path):
    write(tmp_path, "1/series/10.dcm", "2/series/20.dcm")
    table = table_of(tmp_path, "2/20", "1/10")
    assert "deeper folders" in name_hint(table, find_images(table, tmp_path), tmp_path, "train_images")
    write(tmp_path, "2/20.dcm")
    assert name_hint(table, find_images(table, tmp_path), tmp_path, "train_images") is None


def test_the_data_folder_may_be_named_by_its_table(tmp_path, monkeypatch):
    table_of(tmp_path, "1/1")
    assert data_folder(tmp_path) == data_folder(tmp_path / "train.csv") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert data_folder(Path("train.csv")) == Path(".")


def test_what_is_no_data_folder_is_refused_with_what_one_holds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tree" / "benign").mkdir(parents=True)
    (tmp_path / "labels.csv").write_text("")
    (tmp_path / "test.csv").write_text("")
    for data, said in (
        (Path("absent"), f"absent: no such folder in {tmp_path}; --data"),
        (tmp_path / "absent", "absent: no such folder; --data"),
        (tmp_path / "labels.csv", "labels.csv: is a file; --data names the folder with train.csv"),
        (tmp_path / "test.csv", "test.csv: is a file; --data names the folder with train.csv"),
        (tmp_path / "tree", "tree: has no train.csv"),
    ):
        with pytest.raises(TableError) as caught:
            data_folder(data)
        assert said in str(caught.value)
    assert "photographs need a folder for each class" in str(caught.value)
    assert data_folder(tmp_path / "test.csv", ("train.csv", "test.csv")) == tmp_path
