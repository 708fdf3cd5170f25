"""Recipes by name, and the crops of clshub's."""

import json

import numpy as np
import pytest
import torch
from commands import assert_one_line_error, run
from tiny_runs import SMALL

from efficientnet.mammography.augment import augment_draw
from efficientnet.mammography.crops import centre, random_resized_crop
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.settings import RECIPES
from efficientnet.mammography.table_columns import RSNA_TARGETS
from efficientnet.training.sampler import Draw


def dry(*arguments):
    process = run("train.py", *arguments, "--dry-run")
    assert process.returncode == 0, process.stderr
    return " ".join(process.stdout.split())


def test_clshubs_recipe_is_the_model_cards(tiny_data):
    text = dry("--recipe", "clshub", "--variant", "b0", "--data", tiny_data, "--targets", "cancer,biopsy")
    assert RECIPES["clshub"]["targets"] == RSNA_TARGETS
    for flag in (
        *("--image-size 224 224", "--picture-size 512 512", "--short-edge 256", "--learning-rate 0.0001"),
        *("--epochs 100", "--warmup-epochs 5.0", "--weight-decay 0.0005", "--clip 20.0", "--batch-size 8"),
        *("--targets cancer,biopsy", "--ema-decay 0.0", "--in-channels 3", "--no-crop", "--side as-is"),
    ):
        assert flag in text, flag


def test_screening_is_the_default_with_data_and_its_rate_follows_the_start(tiny_data):
    text = dry("--variant", "b0", "--data", tiny_data)
    assert "recipe screening" in text and "--image-size 1024 512" in text and "--learning-rate 0.001" in text
    assert "--positive-share 0.25" in text and "--ema-decay" in text and "--warmup-epochs 1.0" in text


def test_every_value_has_a_flag_and_config_holds_all(tiny_data, tmp_path):
    flags = (
        "--recipe",
        "clshub",
        *SMALL,
        "--image-size",
        32,
        "--picture-size",
        64,
        48,
        "--short-edge",
        40,
        "--targets",
        "cancer",
    )
    process = run(
        "train.py", *flags, "--data", tiny_data, "--epochs", 1, "--in-channels", 1, "--output", tmp_path / "r"
    )
    assert process.returncode == 0, process.stderr
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["recipe_name"] == "clshub" and config["settings"]["select"] == "clshub_pf1"
    assert config["settings"]["picture_size"] == [64, 48] and config["recipe"]["epochs"] == 1
    content = torch.load(tmp_path / "r" / "best.pt", weights_only=True)
    assert content["preprocessing"]["image_size"] == [64, 48] and content["preprocessing"]["input_size"] == [32, 32]
    resumed = run("train.py", "--resume", tmp_path / "r", "--recipe", "screening")
    assert_one_line_error(resumed, 2, "--recipe screening", "clshub")
    scored = run("evaluate.py", "--checkpoint", tmp_path / "r" / "best.pt", "--json", tmp_path / "m.json")
    assert scored.returncode == 0, scored.stderr
    logged = json.loads((tmp_path / "r" / "metrics.jsonl").read_text().splitlines()[0])
    found = json.loads((tmp_path / "m.json").read_text())
    for name in ("pf1", "clshub_pf1"):
        assert found[name] == pytest.approx(logged[name], abs=1e-4)


def test_the_input_must_fit_into_the_picture(tiny_data):
    process = run("train.py", *SMALL, "--data", tiny_data, "--image-size", 96, "--picture-size", 64)
    assert_one_line_error(process, 2, "96x96", "64x64")
    assert_one_line_error(run("train.py", *SMALL, "--data", tiny_data, "--short-edge", 64), 2, "--picture-size")


def test_the_centre_is_that_of_the_resized_picture():
    y, x = np.mgrid[:80, :120].astype(np.float32)
    settings = Preprocessing((80, 120), crop=False, input_size=(32, 32), short_edge=40)
    found = centre((y + 1000 * x), settings)
    assert found.shape == (32, 32)
    # Halved, the picture is 40 x 60: rows 4 to 35, columns 14 to 45, each the mean of two.
    assert found[0, 0] == pytest.approx((2 * 4 + 0.5) + 1000 * (2 * 14 + 0.5), rel=1e-3)
    assert centre(y, Preprocessing((80, 120))) is y


def test_a_random_resized_crop_keeps_range_and_covers_the_stated_areas():
    """Of a picture whose pixels are their column, a crop's slope is its width over the size."""
    x = np.tile(np.arange(200, dtype=np.float32), (100, 1))
    areas, mirrored = [], 0
    for seed in range(300):
        crop = random_resized_crop(x, np.random.default_rng(seed), (32, 32))
        assert crop.shape == (32, 32) and crop.min() >= 0 and crop.max() <= 199
        mirrored += crop[0, 0] > crop[0, -1]
        areas.append(abs(crop[0, 16] - crop[0, 15]) * 32 / 200)
    assert 100 < mirrored < 200
    assert min(areas) < 0.3 and max(areas) <= 1.001


def test_a_draw_decides_the_crop():
    picture = np.random.default_rng(0).random((64, 64), dtype=np.float32)
    first = augment_draw(picture, Draw(0, 1, 2), seed=3, strength=0.0, crop_size=(32, 32))
    assert np.array_equal(first, augment_draw(picture, Draw(5, 1, 2), seed=3, strength=0.0, crop_size=(32, 32)))
    assert not np.array_equal(first, augment_draw(picture, Draw(0, 1, 3), seed=3, strength=0.0, crop_size=(32, 32)))
