"""Image folders that are small and easily learned, for tests of the commands: the class is the colour of a disc."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 70), "red": (220, 40, 50)}


def photograph(colour: Sequence[int], generator: np.random.Generator, size: tuple[int, int] = (40, 48)) -> Image.Image:
    """A disc of the colour on a noisy grey ground; size: (height, width)."""
    y, x = np.mgrid[: size[0], : size[1]]
    top, left = generator.uniform(0.4, 0.6, 2) * size
    pixels = generator.integers(90, 150, (*size, 1)).repeat(3, axis=2)
    pixels[(y - top) ** 2 + (x - left) ** 2 < (0.3 * min(size)) ** 2] = colour
    return Image.fromarray(pixels.astype(np.uint8))


def write_classes(root: Path, count: int, seed: int = 0, classes: Sequence[str] = tuple(COLOURS)) -> Path:
    """`count` images for each class, in a folder for each: JPEG and, every fourth, PNG."""
    generator = np.random.default_rng(seed)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            path = root / name / f"{number}.{'png' if number % 4 == 0 else 'jpg'}"
            photograph(COLOURS[name], generator).save(path, quality=95)
    return root


def write_photographs(root: Path, train: int = 16, validation: int = 4) -> Path:
    """Folders train/ and val/ with so many images for each class."""
    write_classes(root / "train", train, seed=0)
    write_classes(root / "val", validation, seed=1)
    return root
