"""Augmentation of one gray picture, decided by (seed, epoch, position) and nothing else."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional as F

from efficientnet.training.sampler import Draw


def augment_draw(picture: np.ndarray, draw: Draw, seed: int, strength: float) -> np.ndarray:
    """`augment` with the random numbers of this draw: the same in every worker, rank and repetition."""
    return augment(picture, draw.generator(seed), strength)


def augment(picture: np.ndarray, generator: np.random.Generator, strength: float = 1.0) -> np.ndarray:
    """A random variation of `picture`, float32 (H, W) in [0, 1] with background 0; the same shape and range.

    Mirror image (which evaluate.py --flip relies on), rotation within 15 degrees, zoom within 15 %, shear and shift
    within 5 %, contrast and brightness of another machine, and coarse dropout (rectangles set to 0), so that no single
    spot decides. `strength` scales all but the mirror image.
    """
    if strength == 0:
        return picture
    picture = random_affine(picture, generator, strength)
    gain, exponent = np.exp(generator.uniform(-0.2, 0.2, 2) * strength)
    picture = np.clip(gain * picture, 0, 1) ** np.float32(exponent)
    return coarse_dropout(picture, generator, strength).astype(np.float32, copy=False)


def random_affine(picture: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    """Mirror image, rotation, zoom, shear and shift in one resampling; the outside is background."""
    height, width = picture.shape
    angle = math.radians(15) * strength * generator.uniform(-1, 1)
    zoom = math.exp(math.log(1.15) * strength * generator.uniform(-1, 1))
    shear, down, right = 0.05 * strength * generator.uniform(-1, 1, 3)
    mirror = -1.0 if generator.random() < 0.5 else 1.0
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    # In normalised coordinates a rotation has to be corrected for the aspect, or it would shear a tall picture.
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
    """In half of the pictures, up to four rectangles of at most a tenth of each side are set to background."""
    if generator.random() >= 0.5 * min(1.0, strength):
        return picture
    picture = picture.copy()
    height, width = picture.shape
    for _ in range(generator.integers(1, 5)):
        h, w = (generator.uniform(0.03, 0.1, 2) * (height, width)).astype(int) + 1
        top, left = generator.integers(0, height - h + 1), generator.integers(0, width - w + 1)
        picture[top : top + h, left : left + w] = 0
    return picture
