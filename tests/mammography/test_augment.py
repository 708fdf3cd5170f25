"""Augmentation is a function of (seed, epoch, position), and keeps what a picture is."""

import numpy as np
import pytest

from efficientnet.mammography.augment import augment, augment_draw, coarse_dropout, random_affine
from efficientnet.training.sampler import Draw


@pytest.fixture
def picture():
    y, x = np.mgrid[:96, :64] / np.array([96, 64]).reshape(2, 1, 1)
    return (np.exp(-8 * ((y - 0.5) ** 2 + (x - 0.3) ** 2)) * (x < 0.8)).astype(np.float32)


def test_the_same_draw_gives_the_same_picture_and_others_differ(picture):
    first = augment_draw(picture, Draw(3, 1, 17), seed=5, strength=1.0)
    assert np.array_equal(first, augment_draw(picture, Draw(3, 1, 17), seed=5, strength=1.0))
    for draw, seed in ((Draw(3, 2, 17), 5), (Draw(3, 1, 18), 5), (Draw(3, 1, 17), 6)):
        assert not np.array_equal(first, augment_draw(picture, draw, seed=seed, strength=1.0))


def test_shape_type_and_range_are_kept(picture):
    original = picture.copy()
    for position in range(50):
        result = augment_draw(picture, Draw(0, 0, position), seed=0, strength=2.0)
        assert result.shape == picture.shape and result.dtype == np.float32
        assert result.min() >= 0 and result.max() <= 1
    assert np.array_equal(picture, original)


def test_strength_zero_is_the_picture_itself(picture):
    assert augment(picture, np.random.default_rng(0), 0.0) is picture


def test_the_affine_map_is_the_identity_or_the_mirror_image_at_strength_zero(picture):
    seen = set()
    for seed in range(10):
        result = random_affine(picture, np.random.default_rng(seed), 0.0)
        for name, expected in (("same", picture), ("mirror", picture[:, ::-1])):
            if np.allclose(result, expected, atol=1e-5):
                seen.add(name)
                break
        else:
            pytest.fail("neither the picture nor its mirror image")
    assert seen == {"same", "mirror"}


class NoShearNoShift:
    """A generator whose triple of shear and shifts is zero."""

    def __init__(self, generator):
        self.generator = generator
        self.random = generator.random

    def uniform(self, low, high, size=None):
        return self.generator.uniform(low, high) if size is None else np.zeros(size)


def test_a_rotation_does_not_shear_a_tall_picture():
    """A disc stays a disc: its extent along both axes is the same in pixels after any rotation and zoom."""
    y, x = np.mgrid[:200, :100]
    disc = (((y - 100) ** 2 + (x - 50) ** 2) < 20**2).astype(np.float32)
    for seed in range(20):
        generator = NoShearNoShift(np.random.default_rng(seed))
        rows, columns = np.nonzero(random_affine(disc, generator, 1.0) > 0.5)
        assert abs(np.ptp(rows) - np.ptp(columns)) <= 2


def test_half_of_the_pictures_lose_a_few_small_rectangles():
    ones = np.ones((100, 100), np.float32)
    lost = [1 - coarse_dropout(ones, np.random.default_rng(seed), 1.0).mean() for seed in range(400)]
    assert 0.4 < np.mean(np.array(lost) > 0) < 0.6
    assert max(lost) <= 4 * 0.12**2
