"""Further data folders: their patients are their own, and their labels follow the main table's targets."""

import math

import numpy as np
import pytest
from layouts import write_png, write_vindr

from efficientnet.mammography.extra import joined, read_extra
from efficientnet.mammography.table import TableError, read_table
from efficientnet.mammography.targets import Target

HEADER = "patient_id,image_id,laterality,{cancer},view,site_id,age,BIRADS"
TARGETS = (
    Target("cancer"),
    Target("view", "category", ("MLO", "CC")),
    Target("site_id", "category", ("1", "2")),
    Target("age", "number", mean=50, std=10),
    Target("BIRADS", "category", ("0", "1", "2")),
)


def write_folder(root, cancer="cancer", rows=("1,10,L,1,CC,1,60,0", "1,11,R,,LM,2,,7", "2,20,L,0,MLO,1,40,")):
    for row in rows:
        patient, image, *_ = row.split(",")
        write_png(root / "train_images" / patient / f"{image}.png")
    (root / "train.csv").write_text("\n".join([HEADER.format(cancer=cancer), *rows]) + "\n")
    return root


def test_an_extra_folder_has_the_labels_of_the_given_targets(tmp_path):
    root = write_folder(tmp_path / "clinic")
    (root / "train_images" / "2" / "20.png").unlink()
    (extra,) = read_extra([root], TARGETS)
    assert (extra.name, extra.root, extra.table.counts.images, extra.table.counts.patients) == ("clinic", root, 2, 1)
    assert extra.table.patients == ("clinic:1",)
    assert [breast.prediction_id for breast in extra.table.breasts] == ["clinic:1_L", "clinic:1_R"]
    assert [path.name for path in extra.files] == ["10.png", "11.png"]
    assert extra.table.targets == TARGETS
    nan = math.nan  # its sites are not those of the main table
    np.testing.assert_array_equal(extra.table.labels, [[1, 1, nan, 1, 0], [nan, nan, nan, nan, nan]])
    assert "1 rows of train.csv have no image file" in extra.warnings[-1]


def test_columns_apply_where_a_table_has_them(tmp_path):
    folders = [write_folder(tmp_path / "a", "malignant"), write_folder(tmp_path / "b")]
    for columns in ({"cancer": "malignant", "age": "years"}, {"cancer": "malignant", "view": "projection"}):
        one, other = read_extra(folders, TARGETS[:1], columns)
        assert one.table.labels[0] == other.table.labels[0] == 1


def test_a_published_layout_is_recognised(tmp_path):
    (extra,) = read_extra([write_vindr(tmp_path / "vindr")], TARGETS, {"cancer": "malignant"})
    assert extra.table.layout == "vindr" and extra.table.counts.images == 8
    assert extra.table.patients == ("vindr:s1", "vindr:s2")
    cancer, view, site, age, birads = extra.table.labels.T
    np.testing.assert_array_equal(cancer, [0, 0, 1, 1, 0, 0, math.nan, math.nan])
    assert view.tolist() == [1, 0] * 4 and birads.tolist() == [1, 1, 0, 0, 2, 2, 0, 0]
    assert np.isnan(site).all() and np.isnan(age).all()
    assert not any("no column" in warning for warning in extra.warnings)


def test_folders_of_one_name_stay_apart_and_the_tables_are_joined(tmp_path):
    main = read_table(write_folder(tmp_path / "data", rows=("1,10,L,1,CC,1,60,0",)) / "train.csv", TARGETS)
    extras = read_extra([write_folder(tmp_path / name / "data") for name in "ab"], TARGETS)
    assert [extra.name for extra in extras] == ["1-data", "2-data"]
    table = joined(main, extras)
    assert table.counts.images == 1 + 3 + 3
    assert table.patients == ("1", "1-data:1", "1-data:2", "2-data:1", "2-data:2")
    np.testing.assert_array_equal(table.labels, np.concatenate([main.labels, *(e.table.labels for e in extras)]))
    assert table.path == main.path and table.counts.breasts == 7
    assert joined(main, []).rows == main.rows


def test_a_folder_without_images_a_table_or_a_second_mention_is_refused(tmp_path):
    root = write_folder(tmp_path / "data")
    with pytest.raises(TableError, match="given twice"):
        read_extra([root, tmp_path / "data" / "train.csv"], TARGETS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(TableError, match=r"has no train\.csv"):
        read_extra([tmp_path / "empty"], TARGETS)
    (root / "elsewhere").mkdir()
    (root / "train_images").rename(root / "elsewhere" / "deeper")
    with pytest.raises(TableError, match=r"no images found for the rows of train\.csv; put images in"):
        read_extra([root], TARGETS)


def test_a_folder_that_knows_nothing_of_the_scored_target_is_refused(tmp_path):
    with pytest.raises(TableError, match="no label of cancer"):
        read_extra([write_folder(tmp_path / "a", "malignant")], TARGETS)
