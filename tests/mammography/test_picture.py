"""One file -> one picture, and prepared pictures."""

import numpy as np
import pytest
from dicom_files import make
from drawn_breasts import draw
from PIL import Image

from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.picture import encode_picture, is_prepared, read_noted_picture, read_picture
from efficientnet.mammography.preprocessing import Preprocessing

SETTINGS = Preprocessing((64, 48))


def test_a_prepared_picture_is_off_by_half_a_level_at_most_and_black_stays_black(tmp_path):
    picture = np.random.default_rng(0).random((64, 48)).astype(np.float32)
    picture[:10] = 0
    (tmp_path / "a.png").write_bytes(encode_picture(picture, SETTINGS, "here"))
    again = read_picture(tmp_path / "a.png", SETTINGS)
    assert again.dtype == np.float32 and np.abs(again - picture).max() <= 0.5 / 255 + 1e-7
    assert not again[:10].any()


def test_a_prepared_picture_is_not_prepared_again(tmp_path):
    picture = np.zeros((64, 48), np.float32)
    picture[20:30, 20:30] = 1  # what a crop would enlarge
    (tmp_path / "a.png").write_bytes(encode_picture(picture, SETTINGS, "here"))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png", SETTINGS), picture)
    Image.fromarray((picture * 255).astype(np.uint8)).save(tmp_path / "b.png")
    assert read_picture(tmp_path / "b.png", SETTINGS).mean() > 2 * picture.mean()


@pytest.mark.parametrize(
    "change", [{"image_size": (32, 48)}, {"crop": False}, {"side": "right"}, {"window": 1}], ids=str
)
def test_a_picture_by_other_settings_is_refused_and_not_known_again(tmp_path, change):
    settings = {"image_size": (64, 48)} | change
    path = tmp_path / "a.png"
    path.write_bytes(encode_picture(np.zeros((64, 48), np.float32), SETTINGS, "here"))
    with pytest.raises(ImageError, match=r"a\.png.*other settings.*again"):
        read_picture(path, Preprocessing(**settings))
    assert is_prepared(path, SETTINGS, "here") and not is_prepared(path, Preprocessing(**settings), "here")
    assert not is_prepared(path, SETTINGS, "there")


def test_channels_and_normalisation_do_not_change_the_key():
    assert Preprocessing((64, 48), in_channels=3, mean=0.2, std=0.5).key == SETTINGS.key


def test_a_half_written_picture_is_not_taken_for_a_whole_one(tmp_path):
    content = encode_picture(np.random.default_rng(0).random((64, 48)).astype(np.float32), SETTINGS, "here")
    for size in [*range(0, len(content), 97), len(content) - 1]:
        (tmp_path / "a.png").write_bytes(content[:size])
        assert not is_prepared(tmp_path / "a.png", SETTINGS, "here")
    assert not is_prepared(tmp_path / "missing.png", SETTINGS, "here")


@pytest.mark.parametrize("crop", [True, False])
@pytest.mark.parametrize("value", [0, 90, 255])
@pytest.mark.parametrize("suffix", ["png", "dcm"])
def test_a_picture_of_one_value_is_unreadable(tmp_path, suffix, value, crop):
    path, pixels = tmp_path / f"a.{suffix}", np.full((80, 90), value, np.uint8)  # which is padded to the image size
    if suffix == "dcm":
        make(pixels, WindowCenter=128, WindowWidth=256).save_as(path, enforce_file_format=True)
    else:
        Image.fromarray(pixels).save(path)
    with pytest.raises(ImageError, match=r"a\.\w+: is blank: all pixels have the same value"):
        read_picture(path, Preprocessing((64, 48), crop=crop))


def test_a_window_that_leaves_one_value_shows_nothing(tmp_path):
    pixels = np.linspace(100, 200, 6000).reshape(60, 100).astype(np.uint16)
    make(pixels, WindowCenter=3000, WindowWidth=10).save_as(tmp_path / "a.dcm", enforce_file_format=True)
    with pytest.raises(ImageError, match="is blank"):
        read_picture(tmp_path / "a.dcm", SETTINGS)


def test_a_prepared_picture_of_one_value_is_unreadable(tmp_path):
    (tmp_path / "a.png").write_bytes(encode_picture(np.zeros((64, 48), np.float32), SETTINGS, "here"))
    with pytest.raises(ImageError, match="is blank"):
        read_picture(tmp_path / "a.png", SETTINGS)


def test_how_the_files_of_a_folder_are_read_does_not_change_what_a_picture_means():
    assert Preprocessing((64, 48), bits=12, invert_bright=True, accept_raw=True).key == SETTINGS.key


def test_the_key_is_that_of_folders_and_checkpoints_that_exist():
    assert SETTINGS.key == "32494b094a365eb4"


def test_a_bright_background_is_inverted_by_request_and_noted(tmp_path):
    image, _, _ = draw(300, 240, noise=0.01)
    levels = np.rint(255 * image).astype(np.uint8)
    Image.fromarray(levels).save(tmp_path / "dark.png")
    Image.fromarray(255 - levels).save(tmp_path / "bright.png")
    inverting = Preprocessing((64, 48), invert_bright=True)
    dark, notes = read_noted_picture(tmp_path / "dark.png", inverting)
    assert notes == ()
    bright, notes = read_noted_picture(tmp_path / "bright.png", inverting)
    assert notes == ("bright background inverted",)
    np.testing.assert_allclose(bright, dark, atol=1e-6)
    np.testing.assert_array_equal(read_picture(tmp_path / "dark.png", SETTINGS), dark)
    assert np.abs(read_picture(tmp_path / "bright.png", SETTINGS) - dark).mean() > 0.2
