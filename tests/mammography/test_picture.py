"""One file -> one picture, and prepared pictures."""

import numpy as np
import pytest
from PIL import Image

from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.picture import encode_picture, is_prepared, read_picture, read_raster
from efficientnet.mammography.preprocessing import Preprocessing

SETTINGS = Preprocessing((64, 48))


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_eight_bits_are_over_255_and_sixteen_over_65535(tmp_path, suffix):
    Image.fromarray(np.full((4, 4), 51, np.uint8)).save(tmp_path / f"a.{suffix}")
    assert read_raster(tmp_path / f"a.{suffix}")[0] == pytest.approx(0.2, abs=0.005)
    Image.fromarray(np.full((4, 4), 13107, np.uint16)).save(tmp_path / "b.png")
    assert read_raster(tmp_path / "b.png")[0] == pytest.approx(0.2, abs=1e-6)
    assert read_raster(tmp_path / "b.png")[0].dtype == np.float32
    Image.new("RGB", (4, 4), (255, 255, 255)).save(tmp_path / f"c.{suffix}")
    assert read_raster(tmp_path / f"c.{suffix}")[0] == pytest.approx(1.0)


def test_an_unreadable_image_is_one_line_that_names_it(tmp_path):
    (tmp_path / "a.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(ImageError) as caught:
        read_raster(tmp_path / "a.png")
    assert "a.png" in str(caught.value) and "\n" not in str(caught.value)


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
