"""Resizing gives the result of Pillow and torch at every size."""

import numpy as np
import pytest
import torch
from PIL import Image

from efficientnet.mammography.resample import resample


def as_float(values: np.ndarray, out: np.ndarray) -> None:
    np.copyto(out, values)


@pytest.mark.parametrize("seed", range(30))
def test_the_result_is_that_of_pillow_and_torch(seed):
    generator = np.random.default_rng(seed)
    shape, size = generator.integers(1, [700, 700]), generator.integers(2, [300, 300])
    image = generator.random(shape).astype(np.float32)
    found = resample(image, tuple(size), as_float)
    assert found.dtype == np.float32 and found.shape == tuple(size)
    pillow = np.asarray(Image.fromarray(image).resize(tuple(size)[::-1], Image.Resampling.BILINEAR))
    np.testing.assert_allclose(found, pillow, atol=1e-5)
    batch = torch.from_numpy(image)[None, None]
    expected = torch.nn.functional.interpolate(batch, tuple(size.tolist()), mode="bilinear", antialias=True)
    np.testing.assert_allclose(found, expected[0, 0], atol=1e-4)


def test_a_constant_stays_constant_and_the_average_is_kept():
    np.testing.assert_allclose(resample(np.full((310, 200), 7, np.uint16), (64, 48), as_float), 7, rtol=1e-6)
    image = np.random.default_rng(0).random((640, 480)).astype(np.float32)
    assert resample(image, (64, 48), as_float).mean() == pytest.approx(image.mean(), abs=1e-3)


def test_values_are_looked_up_before_they_are_averaged():
    image = np.random.default_rng(0).integers(0, 100, (330, 250)).astype(np.uint16)
    table = np.sqrt(np.arange(100)).astype(np.float32)
    found = resample(image[::2, 3:], (40, 30), lambda values, out: np.take(table, values, out=out))
    np.testing.assert_allclose(found, resample(table[image[::2, 3:]], (40, 30), as_float), rtol=1e-5)
