"""Rows and files -> tensors: where images are found, what they become, and what happens to broken ones."""

import numpy as np
import pytest
import torch
from PIL import Image

from efficientnet.mammography.dataset import MammogramDataset, collate, find_images, read_any_image
from efficientnet.mammography.dicom import ImageError
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.table import read_table

PREPROCESSING = Preprocessing((32, 32), crop=False, side="as-is", mean=0.0, std=1.0)


@pytest.fixture
def folder(tmp_path):
    """Six images of three patients, flat; the pixel value names the image."""
    lines = ["patient_id,image_id,laterality,cancer,biopsy"]
    for number in range(6):
        patient, side = number // 2, "LR"[number % 2]
        lines.append(f"{patient},{number},{side},{int(number < 2)},{'' if number == 3 else 0}")
        Image.fromarray(np.full((32, 32), 40 * number, np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "train.csv").write_text("\n".join(lines))
    return tmp_path


def table_of(folder):
    return read_table(folder / "train.csv", ("cancer", "biopsy"))


def test_images_are_found_flat_nested_and_under_train_images(folder):
    table = table_of(folder)
    assert [path.name for path in find_images(table, folder)] == [f"{n}.png" for n in range(6)]
    nested = folder / "train_images" / "1"
    nested.mkdir(parents=True)
    (folder / "2.png").rename(nested / "2.PNG")
    (folder / "3.png").rename(folder / "train_images" / "3.png")
    found = find_images(table, folder)
    assert [path and path.name for path in found] == [None, None, "2.PNG", "3.png", None, None]


def test_dicom_goes_before_its_copies(folder):
    (folder / "0.dcm").write_bytes(b"")
    assert find_images(table_of(folder), folder)[0].suffix == ".dcm"


def test_the_patients_folder_goes_before_a_flat_file(folder):
    (folder / "0").mkdir()
    Image.new("L", (8, 8)).save(folder / "0" / "0.png")
    assert find_images(table_of(folder), folder)[0].parent.name == "0"


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_eight_bits_are_over_255_and_sixteen_over_65535(tmp_path, suffix):
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(tmp_path / f"a.{suffix}")
    assert read_any_image(tmp_path / f"a.{suffix}") == pytest.approx(0.2, abs=0.005)
    Image.fromarray(np.full((4, 4), 13107, np.uint16)).save(tmp_path / "b.png")
    assert read_any_image(tmp_path / "b.png") == pytest.approx(0.2, abs=1e-6)
    assert read_any_image(tmp_path / "b.png").dtype == np.float32
    Image.new("RGB", (4, 4), (255, 255, 255)).save(tmp_path / f"c.{suffix}")
    assert read_any_image(tmp_path / f"c.{suffix}") == pytest.approx(1.0)


def test_an_unreadable_image_is_one_line_that_names_it(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(ImageError) as caught:
        read_any_image(tmp_path / "a.png")
    assert "a.png" in str(caught.value) and "\n" not in str(caught.value)


def test_an_item_is_image_targets_and_row(folder):
    table = table_of(folder)
    dataset = MammogramDataset(table, find_images(table, folder), PREPROCESSING)
    image, targets, index, failures, blank = dataset[3]
    assert image.shape == (1, 32, 32) and image.max().item() == pytest.approx(120 / 255)
    assert targets[0] == 0 and targets[1].isnan()
    assert (index, failures, blank) == (3, [], False)


def test_in_training_a_broken_image_is_replaced_by_one_of_its_label(folder):
    (folder / "0.png").write_bytes(b"broken")
    (folder / "5.png").unlink()
    table = table_of(folder)
    dataset = MammogramDataset(table, find_images(table, folder), PREPROCESSING, replace_broken=True)
    image, targets, index, failures, blank = dataset[0]
    assert (index, blank, targets[0].item()) == (1, False, 1.0)
    assert image.max().item() == pytest.approx(40 / 255) and "0.png" in failures[0]
    assert dataset[5][2] == 2  # the negatives are 2 to 5, and the last is followed by the first


def test_in_evaluation_a_broken_image_is_blank_and_marked(folder):
    (folder / "1.png").write_bytes(b"broken")
    table = table_of(folder)
    dataset = MammogramDataset(table, find_images(table, folder), PREPROCESSING)
    batch = collate([dataset[i] for i in range(3)])
    assert batch.images.shape == (3, 1, 32, 32) and batch.readable == [0, 2]
    assert batch.targets[1].isnan().all() and len(batch.failures) == 1


def test_a_transform_sees_the_draw(folder):
    table = table_of(folder)

    class Key:
        index = 4

    def transform(picture, key):
        assert key.index == 4
        return picture * 0

    dataset = MammogramDataset(table, find_images(table, folder), PREPROCESSING, transform)
    assert torch.equal(dataset[Key()][0], torch.zeros(1, 32, 32))
