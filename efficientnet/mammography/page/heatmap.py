"""Class activation drawn over a picture, with NumPy and Pillow alone."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Five colours of matplotlib's "inferno", at 0, 1/4, ..., 1: its lightness rises evenly, so that equal steps of
# activation look equal, also to the colour-blind and in grey.
STOPS = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float64)
OPACITY = 0.5  # of the greatest activation; tissue must remain visible below it
BOX = (255, 190, 0)


def heat_colors(heat: NDArray[Any]) -> NDArray[np.uint8]:
    """Red, green, blue and opacity (H, W, 4) of an activation (H, W) in [0, 1]; where it is 0, nothing is drawn."""
    heat = np.clip(np.nan_to_num(heat), 0, 1).astype(np.float64)
    places = np.linspace(0, 1, len(STOPS))
    channels = [np.interp(heat, places, stops) for stops in STOPS.T]
    return np.rint(np.stack([*channels, 255 * OPACITY * heat], axis=-1)).astype(np.uint8)


def as_levels(picture: NDArray[Any]) -> NDArray[np.uint8]:
    """A picture in [0, 1] as grey levels."""
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)


def overlaid(picture: NDArray[Any], heat: NDArray[Any] | None) -> Image.Image:
    """The picture (H, W) in [0, 1] in grey, with the activation, of any size, drawn over it."""
    image = Image.fromarray(as_levels(picture)).convert("RGBA")
    if heat is not None:
        # Resize the activation, not its colours, which would mix with those of transparent pixels.
        values = Image.fromarray(np.asarray(heat, np.float32)).resize(image.size, Image.Resampling.BILINEAR)
        image.alpha_composite(Image.fromarray(heat_colors(np.asarray(values))))
    return image.convert("RGB")


def heatmap_png(picture: NDArray[Any], heat: NDArray[Any]) -> bytes:
    """`overlaid` as a PNG file."""
    return png(overlaid(picture, heat))


def png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """The image, reduced to fit into (height, width) if it is larger."""
    factor = min(1.0, size[0] / image.height, size[1] / image.width)
    if factor == 1:
        return image
    return image.resize(
        (max(1, round(image.width * factor)), max(1, round(image.height * factor))), Image.Resampling.BOX
    )
