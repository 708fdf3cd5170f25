"""The part of a picture that the network reads, where that is not all of it: a random crop, or the centre."""

from __future__ import annotations

import numpy as np

from efficientnet.mammography.preprocessing import Image, Preprocessing
from efficientnet.mammography.resample import resample
from efficientnet.training.cropping import random_crop_box


def centre(picture: Image, settings: Preprocessing) -> Image:
    """What the network reads of a picture in evaluation: all of it or, with `input_size`, its resized centre."""
    if settings.input_size is None:
        return picture
    picture = rescaled(picture, settings.resized_size)
    (height, width), (rows, columns) = picture.shape, settings.input_size
    top, left = (height - rows) // 2, (width - columns) // 2
    return picture[top : top + rows, left : left + columns]


def rescaled(picture: Image, size: tuple[int, int]) -> Image:
    """A picture resized to (height, width), bilinear with antialiasing."""
    if picture.shape == size:
        return picture
    return resample(picture, size, lambda values, out: np.copyto(out, values))


def random_resized_crop(picture: np.ndarray, generator: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A random part of the picture, mirrored half of the time, resized to `size` (height, width).

    Its area is 8 to 100 % of the picture's; see `random_crop_box`.
    """
    top, left, rows, columns = random_crop_box(*picture.shape, generator)
    picture = rescaled(picture[top : top + rows, left : left + columns], size)
    return picture[:, ::-1].copy() if generator.random() < 0.5 else picture
