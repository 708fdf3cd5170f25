"""Bilinear resizing with antialiasing as products of small matrices.

The result is that of Pillow's BILINEAR and torch's `interpolate(mode="bilinear", antialias=True)`: an output pixel is
the average under a triangle that is two pixels wide in the coarser of the two grids. For a few neighbouring pixels at
once this is a matrix product.

Preparing an RLE file of 3300x2560 pixels takes 66 ms and 135 MB on one core; with Pillow's function it took 78 ms and
177 MB, with torch's 72 ms and 370 MB.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

BLOCK = 16  # output pixels of one product: most weights of a larger one are zero
# OpenBLAS shares larger products out among threads, but every core already has a process of its own here.
MOST_MULTIPLICATIONS = 2**18


def resample(
    values: NDArray, size: tuple[int, int], brightness: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """Resize an image (H, W) to `size` (height, width), as float32.

    The pixels are `values`, or `brightness[values]` where a table of brightness is given.
    """
    rows_done = np.empty((size[0], values.shape[1]), np.float32)
    for target, source, weights in triangles(values.shape[0], size[0]):
        if brightness is None:
            pixels = values[source].astype(np.float32)
        else:
            pixels = np.take(brightness, values[source], mode="wrap")  # faster than the default, which checks bounds
        for part in parts(values.shape[1], weights):
            np.matmul(weights, pixels[:, part], out=rows_done[target, part])
    resized = np.empty(size, np.float32)
    for target, source, weights in triangles(values.shape[1], size[1]):
        for part in parts(size[0], weights):
            np.matmul(rows_done[part, source], weights.T, out=resized[part, target])
    return resized


def triangles(length: int, size: int) -> Iterator[tuple[slice, slice, NDArray[np.float32]]]:
    """For each block of output pixels along one side: their slice, the slice of input pixels, and the weights.

    The weights have shape (outputs, inputs), and each row sums to 1.
    """
    scale = length / size
    reach = max(scale, 1.0)  # of a triangle, to either side
    for first in range(0, size, BLOCK):
        last = min(first + BLOCK, size)
        centres = scale * (np.arange(first, last) + 0.5)
        start, stop = max(0, int(centres[0] - reach)), min(length, int(centres[-1] + reach) + 1)
        weights = np.maximum(1 - np.abs(np.arange(start, stop) + 0.5 - centres[:, None]) / reach, 0)
        weights /= weights.sum(axis=1, keepdims=True)
        yield slice(first, last), slice(start, stop), weights.astype(np.float32)


def parts(length: int, weights: NDArray) -> Iterator[slice]:
    """Divide rows or columns so that each product has at most MOST_MULTIPLICATIONS."""
    step = max(1, MOST_MULTIPLICATIONS // weights.size)
    for start in range(0, length, step):
        yield slice(start, start + step)
