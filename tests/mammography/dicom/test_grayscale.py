"""A window gives the same picture before and after resizing, and padding is black."""

import numpy as np
import pytest
from dicom_files import make

from efficientnet.mammography.dicom.grayscale import ShownImage, shown_image
from efficientnet.mammography.preprocessing import Preprocessing, preprocess

VALUES = np.arange(2**16)


def line(black: float, white: float) -> np.ndarray:
    return np.clip((VALUES - black) / (white - black), 0, 1)


def changed(brightness: np.ndarray, first: int, last: int, value: float) -> np.ndarray:
    brightness = brightness.copy()
    brightness[first : last + 1] = value
    return brightness


TABLES = {
    "straight": (line(100, 4000), True),
    "inverted": (line(4000, 100), True),
    "inverted, black beyond all values": (line(70000, 10000), True),
    "straight, white beyond all values": (line(-500, 80000), True),
    "padding outside the window": (changed(line(100, 4000), 0, 50, 0), True),
    "padding at the lowest value, in the window": (changed(line(-500, 1500), 0, 0, 0), False),
    "padding at the highest value, in the window": (changed(line(70000, 10000), 65535, 65535, 0), False),
    "a range of padding in the window": (changed(line(0, 4000), 0, 500, 0), False),
    "white before the line ends": (changed(line(0, 4000), 3000, 65535, 1), False),
    "black again after white": (changed(line(0, 4000), 60000, 65535, 0), False),
    "a step": (line(999.5, 999.6), False),
    "one value between black and white": (line(999, 1001), False),
    "black": (np.zeros(2**16), False),
    "a curve": (1 / (1 + np.exp((2000 - VALUES) / 300)), False),
}


@pytest.mark.parametrize("name", TABLES)
def test_numbers_are_linear_in_brightness(name):
    brightness, straight = TABLES[name]
    values = np.random.default_rng(0).permutation(2**16).astype(np.uint16).reshape(256, 256)
    image = ShownImage(values, brightness.astype(np.float32))
    numbers = np.empty(values.shape, np.float32)
    image.numbers(values, numbers)
    black, white = image.ramp
    assert bool(image.straight_line) == straight
    np.testing.assert_allclose((numbers - black) / (white - black), brightness[values], atol=2e-5)


@pytest.mark.parametrize(
    ("padding", "tissue", "elements"),
    [
        (0, 900, {"WindowCenter": 500, "WindowWidth": 2000, "PixelPaddingValue": 0}),
        (
            65535,
            30000,
            {
                "PhotometricInterpretation": "MONOCHROME1",
                "WindowCenter": 40000,
                "WindowWidth": 60000,
                "VOILUTFunction": "LINEAR_EXACT",
                "PixelPaddingValue": 65535,
            },
        ),
        (400, 3000, {"WindowCenter": 2000, "WindowWidth": 4000, "PixelPaddingValue": 0, "PixelPaddingRangeLimit": 500}),
    ],
    ids=["lowest", "highest", "range"],
)
def test_padding_within_the_window_is_black_in_the_picture(padding, tissue, elements):
    pixels = np.full((64, 64), padding, np.uint16)
    pixels[:, :32] = tissue + np.arange(32) * 8
    picture = preprocess(shown_image(pixels, make(pixels, **elements), 0), Preprocessing((64, 64), crop=False))
    assert (picture[:, 40:] == 0).all() and (picture[:, :30] > 0.3).all()
