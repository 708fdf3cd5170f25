"""Random crops: their shares, proportions and places, and what is taken if none fits."""

import numpy as np
import pytest

from efficientnet.training.cropping import random_crop_box


@pytest.mark.parametrize("size", [(100, 100), (60, 100), (333, 500)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.35, 1.0), (0.5, 0.6)])
def test_boxes_have_the_shares_and_proportions_that_are_asked_for(size, scale):
    (height, width), generator = size, np.random.default_rng(0)
    boxes = [random_crop_box(height, width, generator, scale) for _ in range(500)]
    for top, left, rows, columns in boxes:
        assert top >= 0 and left >= 0 and top + rows <= height and left + columns <= width
        assert scale[0] * 0.96 <= rows * columns / (height * width) <= scale[1] * 1.04
        assert 3 / 4 * 0.97 <= columns / rows <= 4 / 3 * 1.03
    assert len({(top, left) for top, left, _, _ in boxes}) > 100


@pytest.mark.parametrize("size", [(100, 1000), (1000, 100), (64, 256)])
def test_where_none_fits_it_is_the_largest_centred_one_of_such_proportions(size):
    """As in torchvision: the whole of a wide picture, squashed, would have proportions that evaluation never has."""
    height, width = size
    top, left, rows, columns = random_crop_box(height, width, np.random.default_rng(0), (0.9, 1.0))
    wanted = (height, round(height * 4 / 3)) if width > height else (round(width * 4 / 3), width)
    assert (rows, columns) == wanted
    assert abs(2 * top + rows - height) <= 1 and abs(2 * left + columns - width) <= 1


def test_it_is_torchvisions():
    """The fallback does not depend on random numbers, so it can be compared."""
    transforms = pytest.importorskip("torchvision.transforms")
    torch = pytest.importorskip("torch")
    for height, width in ((100, 1000), (1000, 90), (77, 400)):
        theirs = transforms.RandomResizedCrop.get_params(torch.zeros(1, height, width), (0.95, 1.0), (3 / 4, 4 / 3))
        assert random_crop_box(height, width, np.random.default_rng(0), (0.95, 1.0)) == tuple(map(int, theirs))
