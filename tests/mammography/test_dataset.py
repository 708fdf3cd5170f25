"""Rows and files -> tensors: where images are found, what they become, and what happens to broken ones."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_data import write_tiny_data

from efficientnet.mammography.dataset import BreastDataset, MammogramDataset, to_tensor
from efficientnet.mammography.image_files import every_image, find_images
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.table import TableError, read_table
from efficientnet.training.sampler import Draw
from efficientnet.training.task import collate

PREPROCESSING = Preprocessing((32, 32), crop=False, side="as-is", mean=0.0, std=1.0)


@pytest.fixture
def folder(tmp_path):
    """Six images of three patients, flat; the pixel value names the image."""
    lines = ["patient_id,image_id,laterality,cancer,biopsy"]
    for number in range(6):
        patient, side = number // 2, "LR"[number % 2]
        lines.append(f"{patient},{number},{side},{int(number < 2)},{'' if number == 3 else 0}")
        pixels = np.full((32, 32), 40 * number, np.uint8)
        pixels[0] = 7  # a picture of one value shows nothing
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    (tmp_path / "train.csv").write_text("\n".join(lines))
    return tmp_path


def test_links_are_followed_within_the_data_folder_and_for_the_image_folder_itself(tmp_path):
    """A table's row must not show a file of somewhere else; but images may lie on another disk."""
    elsewhere, folder = tmp_path / "elsewhere", tmp_path / "data"
    write_tiny_data(elsewhere, patients=3)
    folder.mkdir()
    (folder / "train.csv").write_text((elsewhere / "train.csv").read_text())
    (folder / "train_images").symlink_to(elsewhere / "train_images")
    table = table_of(folder)
    assert None not in find_images(table, folder)

    images = elsewhere / "train_images"
    secret = tmp_path / "secret.png"
    (images / "100" / "10000.png").rename(secret)
    (images / "100" / "10000.png").symlink_to(secret)  # out of it
    (images / "100" / "10001.png").rename(images / "moved.png")
    (images / "100" / "10001.png").symlink_to("../moved.png")  # within it
    (images / "101").rename(tmp_path / "101")
    (images / "101").symlink_to(tmp_path / "101")
    (images / "102").rename(folder / "102")
    (images / "102").symlink_to(folder / "102")  # to the data folder
    found = dict(zip((row.image_id for row in table.rows), find_images(table, folder), strict=True))
    without = {image for image, file in found.items() if file is None}
    assert without == {"10000", *(row.image_id for row in table.rows if row.patient_id == "101")}
    _, left_out = every_image(folder, "train_images", [file for file in found.values() if file])
    assert sorted(map(os.path.basename, left_out)) == ["10000.png", "101"]


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


def test_community_copies_are_found_under_their_own_folders_and_names(folder):
    table = table_of(folder)
    copies = folder / "train_images_512"
    for number in range(6):
        place = copies / str(number // 2) / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").rename(place)
    (folder / "docs").mkdir()
    assert [path.parent.parent.name for path in find_images(table, folder)] == ["train_images_512"] * 6
    for number in range(6):
        (copies / str(number // 2) / f"{number}.png").rename(copies / f"{number // 2}_{number}.png")
    assert [path.name for path in find_images(table, folder)] == [f"{n // 2}_{n}.png" for n in range(6)]
    (folder / "train_images_1024").mkdir()
    assert None not in find_images(table, folder)
    Image.new("L", (8, 8)).save(folder / "train_images_1024" / "3.png")
    with pytest.raises(TableError, match=r"train_images_1024 and in .*train_images_512"):
        find_images(table, folder)


def test_dicom_goes_before_its_copies(folder):
    (folder / "0.dcm").write_bytes(b"")
    assert find_images(table_of(folder), folder)[0].suffix == ".dcm"


def test_the_patients_folder_goes_before_a_flat_file(folder):
    (folder / "0").mkdir()
    Image.new("L", (8, 8)).save(folder / "0" / "0.png")
    assert find_images(table_of(folder), folder)[0].parent.name == "0"


def test_an_item_is_image_targets_and_row(folder):
    table = table_of(folder)
    dataset = MammogramDataset(table, find_images(table, folder), PREPROCESSING)
    item = dataset[3]
    assert item.image.shape == (1, 32, 32) and item.image.max().item() == pytest.approx(120 / 255)
    assert item.target[0] == 0 and item.target[1].isnan()
    assert (item.index, item.name, item.failures, item.readable) == (3, "3", [], True)


def test_in_training_a_broken_image_is_replaced_by_one_of_its_label(folder):
    (folder / "0.png").write_bytes(b"broken")
    (folder / "5.png").unlink()
    table = table_of(folder)
    dataset = MammogramDataset(table, find_images(table, folder), PREPROCESSING, replace_broken=True)
    item = dataset[0]
    assert (item.index, item.readable, item.target[0].item()) == (1, True, 1.0)
    assert item.image.max().item() == pytest.approx(40 / 255) and "0.png" in item.failures[0]
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


def test_the_tensor_is_normalised_and_replicated():
    picture = np.random.default_rng(0).random((64, 32)).astype(np.float32)
    settings = Preprocessing((64, 32), in_channels=3, mean=0.25, std=0.5)
    tensor = to_tensor(picture, settings)
    assert tensor.shape == (3, 64, 32)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    for channel in tensor:
        np.testing.assert_allclose(channel.numpy(), (picture - 0.25) / 0.5, rtol=1e-6)


def test_each_row_may_be_read_in_its_own_way(folder):
    pixels = np.full((32, 32), 2048, np.uint16)
    pixels[0] = 0
    Image.fromarray(pixels).save(folder / "1.png")
    table = table_of(folder)
    readings = [PREPROCESSING] * 6
    readings[1] = replace(PREPROCESSING, bits=12)
    images = (table, find_images(table, folder), PREPROCESSING)
    plain, each = MammogramDataset(*images), MammogramDataset(*images, readings=readings)
    for place in range(6):
        assert torch.equal(plain[place].image, each[place].image) == (place != 1)
    torch.testing.assert_close(each[1].image * 4095, plain[1].image * 65535)


@pytest.fixture
def breasts(tmp_path):
    """Images 0 to 9 of five breasts, with 4, 2, 2, 1 and 1 images; the brightest pixel names the image."""
    lines = ["patient_id,image_id,laterality,view,cancer,BIRADS"]
    views = ("CC", "MLO", "CC", "MLO", "CC", "CC", "", "MLO", "CC", "CC")
    for number, (breast, view) in enumerate(zip((0, 0, 0, 0, 1, 1, 2, 2, 3, 4), views, strict=True)):
        cancer = int(breast in (1, 4) and number != 4)
        lines.append(f"{breast},{number},L,{view},{cancer},{'' if number in (0, 4) else number}")
        Image.fromarray(np.pad(np.full((30, 30), 20 * number + 20, np.uint8), 1)).save(tmp_path / f"{number}.png")
    (tmp_path / "train.csv").write_text("\n".join(lines))
    return tmp_path


def breast_data(root, transform=None, replace_broken=False, **arguments) -> BreastDataset:
    table = read_table(root / "train.csv", ("cancer", "BIRADS"))
    files = find_images(table, root)
    return BreastDataset(MammogramDataset(table, files, PREPROCESSING, transform, replace_broken), **arguments)


def numbers(images) -> list[int | None]:
    """The images of an item by their brightest pixels; None for an absent one."""
    return [None if image.isnan().all() else round(image.max().item() * 255 / 20) - 1 for image in images]


def test_in_evaluation_a_breast_has_all_of_its_images(breasts):
    data = breast_data(breasts)
    assert len(data) == 5 and data.labels.shape == (5, 2)
    items = [data[place] for place in range(5)]
    assert [numbers(item.image) for item in items] == [
        *([0, 1, 2, 3], [4, 5], [6, 7], [8], [9]),
    ]
    assert [item.name for item in items] == [f"{patient}_L" for patient in range(5)]
    assert [item.index for item in items] == list(range(5))
    assert [item.target[0].item() for item in items] == [0, 1, 0, 0, 1]
    values = data.images.table.targets[1].values
    assert [values[int(item.target[1])] for item in items] == ["1", "5", "6", "8", "9"]
    assert torch.equal(torch.stack([item.target for item in items]), torch.from_numpy(data.labels))
    together = collate(items).images
    assert together.shape == (5, 4, 1, 32, 32)
    assert numbers(together[1]) == [4, 5, None, None] and numbers(together[3]) == [8, None, None, None]
    assert all(item.readable and not item.failures for item in items)


def test_in_training_two_images_of_different_views_are_drawn(breasts):
    data = breast_data(breasts, seed=3)
    drawn = [numbers(data[Draw(0, 0, position)].image) for position in range(60)]
    assert {frozenset(pair) for pair in drawn} == {frozenset((c, m)) for c in (0, 2) for m in (1, 3)}
    assert {pair[0] for pair in drawn} == {0, 1, 2, 3}
    assert sorted(numbers(data[Draw(1, 0, 0)].image)) == [4, 5]  # both CC
    assert sorted(numbers(data[Draw(2, 0, 0)].image)) == [6, 7]
    assert numbers(data[Draw(3, 0, 0)].image) == [8, None]
    assert drawn == [numbers(data[Draw(0, 0, position)].image) for position in range(60)]
    assert drawn != [numbers(data[Draw(0, 1, position)].image) for position in range(60)]
    assert drawn != [numbers(breast_data(breasts, seed=4)[Draw(0, 0, position)].image) for position in range(60)]


def test_each_image_of_a_breast_is_varied_with_numbers_of_its_own(breasts):
    def noise(picture, key):
        return key.generator(0).random(picture.shape).astype(np.float32)

    data = breast_data(breasts, noise)
    first, again, other = (data[Draw(0, 2, position)].image for position in (5, 5, 6))
    assert torch.equal(first, again)
    everything = [*first, *other, data[Draw(3, 2, 5)].image[0]]
    pairs = [(i, k) for i in range(5) for k in range(i)]
    equal = [(i, k) for i, k in pairs if torch.equal(everything[i], everything[k])]
    assert equal == [(4, 0)]  # the first of another breast, had it been drawn in the same place
    order = Draw(0, 2, 5).generator(0).random((32, 32)).astype(np.float32)
    assert not any(np.array_equal(order, image[0].numpy()) for image in first)


def test_unreadable_images_of_a_breast_are_left_out(breasts):
    for number in (1, 3, 5, 8):
        (breasts / f"{number}.png").write_bytes(b"broken")
    data = breast_data(breasts, replace_broken=True)
    item = data[0]
    assert numbers(item.image) == [0, 2] and len(item.failures) == 2 and item.readable
    for position in range(8):
        assert sorted(numbers(data[Draw(0, 0, position)].image)) == [0, 2]
        assert numbers(data[Draw(1, 0, position)].image) == [4, None]
    # Of the breasts without cancer, 0, 2 and 3, the first follows the last.
    item = data[Draw(3, 0, 0)]
    assert (item.index, item.name, item.target[0].item()) == (0, "0_L", 0)
    assert "8.png" in item.failures[0] and item.readable


def test_a_breast_without_a_readable_image_is_blank_in_evaluation(breasts):
    (breasts / "8.png").unlink()
    item = breast_data(breasts)[3]
    assert (item.index, item.name, item.readable) == (3, "3_L", False)
    assert item.target.isnan().all() and len(item.failures) == 1
    assert item.image.shape == (1, 1, 32, 32) and not item.image.any()


def test_a_breast_without_a_label_is_replaced_by_another_without(breasts):
    text = (breasts / "train.csv").read_text().replace("3,8,L,CC,0", "3,8,L,CC,").replace("4,9,L,CC,1", "4,9,L,CC,")
    (breasts / "train.csv").write_text(text)
    (breasts / "8.png").unlink()
    table = read_table(breasts / "train.csv", labels="optional")
    images = MammogramDataset(table, find_images(table, breasts), PREPROCESSING, replace_broken=True)
    item = BreastDataset(images)[Draw(3, 0, 0)]
    assert item.index == 4 and math.isnan(item.target[0])
    assert images[8].index == 9
