"""Bilinear resizing with antialiasing as products of small matrices.

The result is that of Pillow's BILINEAR and of torch's `interpolate(mode="bilinear", antialias=True)`: a pixel is the
average under a triangle that is two pixels wide, in the coarser of the two grids. For some neighbouring pixels together
such averages are a matrix product, which the linear algebra of numpy does at several times the speed of a loop; and
what a value stands for can be worked out for some rows in the cache, not in a pass of its own over the image.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Output pixels of one product along each side: in a larger one most weights are zero, and a smaller one does not fill
# the vector units.  And how many products of rows are worked out together, so that what `numbers` gives for them is
# still in the second-level cache when the columns are done as well.
ROWS, COLUMNS, TOGETHER = 4, 16, 16
# Multiplications in one product: OpenBLAS shares larger ones out among threads, and every core has its process here.
MOST_MULTIPLICATIONS = 2**18

Numbers = NDArray[np.float32]


def resample(
    values: NDArray[Any], size: tuple[int, int], numbers: Callable[[NDArray[Any], Numbers], object]
) -> Numbers:
    """The numbers that an array (H, W) of values stands for, resized to `size` (height, width).

    `numbers(values, out)` writes those of some rows into `out`, float32 of the same shape.
    """
    width = values.shape[1]
    row_starts, row_weights = _triangles(values.shape[0], size[0], ROWS)
    column_starts, column_weights = _triangles(width, size[1], COLUMNS)
    column_weights = np.ascontiguousarray(column_weights.transpose(0, 2, 1))
    length, column_length = row_weights.shape[2], column_weights.shape[1]
    most_columns = max(1, MOST_MULTIPLICATIONS // (ROWS * length))
    most_rows = max(1, MOST_MULTIPLICATIONS // (COLUMNS * column_length))

    resized = np.empty((len(row_starts) * ROWS, len(column_starts) * COLUMNS), np.float32)
    groups = [row_starts[first : first + TOGETHER] for first in range(0, len(row_starts), TOGETHER)]
    # The same memory for every group: new pages cost more than the arithmetic.
    all_rows = np.empty((max(group[-1] - group[0] for group in groups) + length, width), np.float32)
    narrowed = np.empty((TOGETHER * ROWS, width), np.float32)
    for number, group in enumerate(groups):
        rows = all_rows[: group[-1] - group[0] + length]
        numbers(values[group[0] : group[-1] + length], rows)
        for place, start in enumerate(group):
            block, above = narrowed[place * ROWS : (place + 1) * ROWS], start - group[0]
            for column in range(0, width, most_columns):
                columns = slice(column, column + most_columns)
                weights = row_weights[number * TOGETHER + place]
                np.matmul(weights, rows[above : above + length, columns], out=block[:, columns])
        done = resized[number * TOGETHER * ROWS :][: len(group) * ROWS]
        for row in range(0, len(done), most_rows):
            block, part = narrowed[row : min(row + most_rows, len(done))], done[row : row + most_rows]
            for place, start in enumerate(column_starts):
                columns = slice(place * COLUMNS, (place + 1) * COLUMNS)
                np.matmul(block[:, start : start + column_length], column_weights[place], out=part[:, columns])
    return resized[: size[0], : size[1]]


def _triangles(length: int, size: int, block: int) -> tuple[list[int], Numbers]:
    """For each `block` output pixels the first input pixel, and the weights (blocks, block, inputs) from there on.

    The last block may go on beyond `size`.
    """
    scale = length / size
    reach = max(scale, 1.0)  # of a triangle, to either side
    blocks = -(-size // block)
    centres = scale * (np.arange(blocks * block).reshape(blocks, block, 1) + 0.5)
    inputs = min(length, int(np.ceil(scale * (block - 1) + 2 * reach)) + 1)
    starts = np.clip((centres[:, :1] - reach).astype(int), 0, length - inputs)
    weights = np.maximum(1 - np.abs(starts + np.arange(inputs) + 0.5 - centres) / reach, 0)
    weights /= np.maximum(weights.sum(axis=2, keepdims=True), 1e-9)
    return starts.reshape(-1).tolist(), weights.astype(np.float32)
