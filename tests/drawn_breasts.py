"""Drawn breasts with a known outline, to test the crop with."""

import numpy as np

from efficientnet.mammography.preprocessing import SEARCH_SIZE


def half_ellipse(height: int, width: int, centre: float, half_height: float, depth: float) -> np.ndarray:
    """Where a breast is, chest wall on the left: 0 outside, rising from its outline to 1 at the chest wall."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    distance = ((y - centre * height) / (half_height * height)) ** 2 + (x / (depth * width)) ** 2
    return np.sqrt(np.clip(1 - distance, 0, 1))


def draw(
    height: int = 1000,
    width: int = 800,
    side: str = "left",
    centre: float = 0.5,
    half_height: float = 0.35,
    depth: float = 0.5,
    background: float = 0.0,
    noise: float = 0.0,
    frame: float = 0.0,
    label: bool = False,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A mammogram (H, W), the mask of its breast and the mask of its label. The frame is in parts of a side."""
    rng = np.random.default_rng(seed)
    profile = half_ellipse(height, width, centre, half_height, depth)
    texture = rng.random((height // 20 + 1, width // 20 + 1)).repeat(20, 0).repeat(20, 1)[:height, :width]
    breast = profile > 0
    image = background + breast * (0.05 + (0.4 + 0.3 * texture) * profile) * (1 - background)
    image += noise * rng.standard_normal(image.shape)
    stamp = np.zeros_like(breast)
    if label:
        stamp[height // 20 : height // 10, -width // 5 : -width // 20] = True
    rows, columns = round(frame * height), round(frame * width)
    border = np.ones_like(breast)
    border[rows : height - rows, columns : width - columns] = False
    image[stamp | border] = 1
    if frame:  # what it covers is lost, and so may be the next row and column of the reduced copy
        cell = -(-max(height, width) // SEARCH_SIZE)
        border[: rows + cell] = border[height - rows - cell :] = True
        border[:, : columns + cell] = border[:, width - columns - cell :] = True
        breast &= ~border
    image = np.clip(image, 0, 1).astype(np.float32)
    if side == "right":
        image, breast, stamp = (np.ascontiguousarray(array[:, ::-1]) for array in (image, breast, stamp))
    return image, breast, stamp


def cells(box: tuple[int, int, int, int]) -> tuple[slice, slice]:
    return slice(box[0], box[1]), slice(box[2], box[3])
