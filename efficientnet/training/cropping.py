"""The random part of an image that a training step sees."""

from __future__ import annotations

import math

import numpy as np


def random_crop_box(
    height: int,
    width: int,
    generator: np.random.Generator,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> tuple[int, int, int, int]:
    """A random box (top, left, rows, columns) in an image, to be resized to the size of the network's input.

    scale: least and largest share of the image's area.  ratio: least and largest width / height.
    If no such box fits in ten attempts, it is the largest centred one of such proportions.
    Source: Szegedy et al. (2014), "Going deeper with convolutions", section 6; torchvision's RandomResizedCrop.
    """
    for _ in range(10):
        area = height * width * generator.uniform(*scale)
        proportion = math.exp(generator.uniform(*map(math.log, ratio)))
        rows, columns = round(math.sqrt(area / proportion)), round(math.sqrt(area * proportion))
        if 0 < rows <= height and 0 < columns <= width:
            top, left = generator.integers(0, height - rows + 1), generator.integers(0, width - columns + 1)
            return int(top), int(left), rows, columns
    rows, columns = min(height, round(width / ratio[0])), min(width, round(height * ratio[1]))
    return (height - rows) // 2, (width - columns) // 2, rows, columns
