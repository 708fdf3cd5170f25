"""Augmentation of one gray picture, determined by (seed, epoch, position) alone."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from efficientnet.mammography.crops import random_resized_crop
from efficientnet.training.sampler import Draw


def augment_draw(
    picture: np.ndarray, draw: Draw, seed: int, strength: float, crop_size: tuple[int, int] | None = None
) -> np.ndarray:
    """`augment` with the random numbers of this draw: the same in every worker, on every rank and in every rerun.

    crop_size: first take a `random_resized_crop` of this size, mirrored half of the time.
    """
    generator = draw.generator(seed)
    if crop_size is not None:
        picture = random_resized_crop(picture, generator, crop_size)
    return augment(picture, generator, strength)


def augment(picture: np.ndarray, generator: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """Return a random variation of `picture`, float32 (H, W) in [0, 1] with background 0, in the same shape and range.

    Mirror (evaluate.py --flip relies on it), rotate within 15 degrees, zoom within 15 %, shear and shift within 5 %,
    change contrast and brightness as another machine would, and apply coarse dropout (rectangles set to 0), so that the
    network does not rely on a single spot. `strength` scales all but the mirroring; 0 returns the picture unchanged.
    """
    if strength == 0:
        return picture
    picture = random_affine(picture, generator, strength)
    gain, exponent = np.exp(generator.uniform(-0.2, 0.2, 2) * strength)
    picture = np.clip(gain * picture, 0, 1) ** np.float32(exponent)
    return coarse_dropout(picture, generator, strength).astype(np.float32, copy=False)


def random_affine(picture: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    """Mirror, rotate, zoom, shear and shift in a single resampling. Pixels outside the picture are background."""
    height, width = picture.shape
    angle = math.radians(15) * strength * generator.uniform(-1, 1)
    zoom = math.exp(math.log(1.15) * strength * generator.uniform(-1, 1))
    shear, down, right = 0.05 * strength * generator.uniform(-1, 1, 3)
    mirror = -1.0 if generator.random() < 0.5 else 1.0
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    # In normalised coordinates, a rotation must be corrected for the aspect ratio, or it would shear a tall picture.
    aspect = height / width
    matrix = torch.tensor(
        [
            [mirror * cos, mirror * (shear - sin * aspect), 2 * right],
            [sin / aspect, cos, 2 * down],
        ],
        dtype=torch.float32,
    )
    grid = F.affine_grid(matrix[None], (1, 1, height, width), align_corners=False)
    image = torch.from_numpy(np.ascontiguousarray(picture))[None, None]
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0, 0].numpy()


def coarse_dropout(picture: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    """With probability min(1, strength) / 2, set up to four rectangles, of at most 10 % of each side, to background."""
    if generator.random() >= 0.5 * min(1.0, strength):
        return picture
    picture = picture.copy()
    height, width = picture.shape
    for _ in range(generator.integers(1, 5)):
        h, w = (generator.uniform(0.03, 0.1, 2) * (height, width)).astype(int) + 1
        top, left = generator.integers(0, height - h + 1), generator.integers(0, width - w + 1)
        picture[top : top + h, left : left + w] = 0
    return picture
