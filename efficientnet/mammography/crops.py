"""The part of a picture that the network reads, where that is not all of it: a random crop, or the centre."""

from __future__ import annotations

import math

import numpy as np

from efficientnet.mammography.preprocessing import Image, Preprocessing
from efficientnet.mammography.resample import resample


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

    Its area is 8 to 100 % of the picture's, its aspect ratio 3/4 to 4/3, as in Szegedy et al. (2014) and
    torchvision's RandomResizedCrop. If no such part fits in ten attempts, the whole picture is resized.
    """
    height, width = picture.shape
    for _ in range(10):
        area = height * width * generator.uniform(0.08, 1.0)
        ratio = math.exp(generator.uniform(math.log(3 / 4), math.log(4 / 3)))
        rows, columns = round(math.sqrt(area / ratio)), round(math.sqrt(area * ratio))
        if 0 < rows <= height and 0 < columns <= width:
            top, left = generator.integers(0, height - rows + 1), generator.integers(0, width - columns + 1)
            picture = picture[top : top + rows, left : left + columns]
            break
    picture = rescaled(picture, size)
    return picture[:, ::-1].copy() if generator.random() < 0.5 else picture
