"""AutoAugment (Cubuk et al. 2019) and RandAugment (Cubuk et al. 2020), as in the released EfficientNet code.

Both compose the sixteen operations below on a PIL image of mode "RGB" or "L". Size and mode stay the same, and the
image passed in is never modified. Each operation computes its argument from a level, which is 0 to 10 in AutoAugment.
All random numbers come from the `numpy.random.Generator` passed in.

The released code has some surprising properties. They are kept, because the published results depend on them:

- Posterize and Solarize have less effect at a higher level, and the four enhancements have none at level 5.
- Solarize at level 10 inverts the whole image: its threshold, 256, overflows to 0 in a uint8.
- Posterize to 0 bits keeps 1 bit, because TensorFlow shifts a uint8 by 7 bits at most.
- Contrast blends with a grey that depends on the size of the image, not on its mean.
- TranslateY in AutoAugment moves by 225 pixels, which turns an image of 224 pixels plain grey, in 3.2 % of all draws.
- RandAugment always applies its operations: the code draws a probability in [0.2, 0.8] and does not use it.

Images of 224 pixels or more get the released code's distances in pixels (Translate, Cutout), whatever their size. One
departure: in smaller images they shrink in proportion to the shorter side, or nothing of a small image would remain.

Values equal those of the released code, with two exceptions. Color and Sharpness round differently, by one grey level
up to level 10. Rotate and Shear may choose the other pixel where a point lies midway between two.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

Operation = Callable[[Image.Image, float, np.random.Generator], Image.Image]

MAX_LEVEL = 10
GREY = 128  # fills what an operation leaves empty
FULL_SIZE = 224  # below this image side, lengths in pixels shrink with it


def auto_augment(image: Image.Image, generator: np.random.Generator) -> Image.Image:
    """Apply one of the 25 sub-policies of `AUTO_AUGMENT`, chosen uniformly: each operation with its probability."""
    for operation, probability, level in AUTO_AUGMENT[generator.integers(len(AUTO_AUGMENT))]:
        if generator.random() < probability:
            image = operation(image, level, generator)
    return image


def rand_augment(
    image: Image.Image, generator: np.random.Generator, layers: int = 2, magnitude: float = 10
) -> Image.Image:
    """Apply `layers` operations of `RAND_AUGMENT`, each chosen uniformly, all at level `magnitude`.

    The magnitude is at least 0 and may exceed 10, the highest level of AutoAugment: the paper goes up to 28.
    """
    for _ in range(layers):
        operation = RAND_AUGMENT[generator.integers(len(RAND_AUGMENT))]
        image = operation(image, magnitude, generator)
    return image


# Operations on values. Each channel is treated on its own, except in Color. The first three ignore the level.


def auto_contrast(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """Stretch each channel to 0..255: 255 (x - min) / (max - min). A constant channel stays as it is."""
    return ImageOps.autocontrast(image)


def equalize(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """Flatten the histogram of each channel: (n(x) + s // 2) // s, at most 255, with n(x) the pixels darker than x.

    The step s is a 255th of the pixels that are not of the channel's highest value; if it is 0, nothing changes.
    """
    return ImageOps.equalize(image)


def invert(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """255 - x."""
    return ImageOps.invert(image)


def posterize(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """Keep the highest int(0.4 level) bits, 4 at level 10, and set the rest to 0."""
    shift = (8 - int(level / MAX_LEVEL * 4)) % 256  # a uint8 in the released code
    return ImageOps.posterize(image, 8 - min(shift, 7))


def solarize(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """Invert the values from the threshold int(25.6 level) up: x if x < threshold else 255 - x."""
    threshold = int(level / MAX_LEVEL * 256) % 256  # a uint8 in the released code
    return ImageOps.solarize(image, threshold)


def solarize_add(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """Add int(11 level) to the values below 128; the sum is at most 255."""
    addition = int(level / MAX_LEVEL * 110)
    table = [min(255, x + addition) if x < 128 else x for x in range(256)]
    return image.point(table * len(image.getbands()))


def enhancement_factor(level: float) -> float:
    """The factor f in degenerate + f (image - degenerate), clipped to 0..255: 1 is the image, above 1 exaggerates."""
    return level / MAX_LEVEL * 1.8 + 0.1


def color(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """Blend with the image in shades of grey. An "L" image is its own degenerate image, so it does not change."""
    return ImageEnhance.Color(image).enhance(enhancement_factor(level))


def contrast(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """Blend with a constant grey of (width * height) / 256, at most 255: 196 at 224 x 224, white from 256 x 256 up.

    The mean grey of the image was meant: the released code sums its histogram, which gives the number of pixels.
    """
    grey = min(255, image.width * image.height // 256)
    degenerate = Image.new(image.mode, image.size, (grey,) * len(image.getbands()))
    return Image.blend(degenerate, image, enhancement_factor(level))


def brightness(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """Blend with black."""
    return ImageEnhance.Brightness(image).enhance(enhancement_factor(level))


def sharpness(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """Blend with a smoothed image: 3 x 3 weights of 1/13, 5/13 in the centre. Pixels at the border do not change."""
    return ImageEnhance.Sharpness(image).enhance(enhancement_factor(level))


# Geometric operations. Each goes in one of two directions, at even odds, and takes the nearest pixel.


def either_sign(generator: np.random.Generator) -> int:
    return 1 if generator.random() < 0.5 else -1


def rotate(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """Rotate about the image's centre by (3 level) degrees."""
    degrees = either_sign(generator) * level / MAX_LEVEL * 30
    return image.rotate(degrees, Image.Resampling.NEAREST, fillcolor=fill(image))


def shear_x(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """out(x, y) = in(x + s y, y), s = 0.03 level: the top row stays where it is."""
    s = either_sign(generator) * level / MAX_LEVEL * 0.3
    return affine(image, (1, s, 0), (0, 1, 0))


def shear_y(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """out(x, y) = in(x, y + s x), s = 0.03 level: the left column stays where it is."""
    s = either_sign(generator) * level / MAX_LEVEL * 0.3
    return affine(image, (1, 0, 0), (s, 1, 0))


def translate_x(image: Image.Image, level: float, generator: np.random.Generator, at_10: float = 100) -> Image.Image:
    """out(x, y) = in(x + d, y), where d is `at_10` pixels at level 10: 100 in RandAugment, 250 in AutoAugment."""
    d = either_sign(generator) * level / MAX_LEVEL * at_10 * pixel_scale(image)
    return affine(image, (1, 0, d), (0, 1, 0))


def translate_y(image: Image.Image, level: float, generator: np.random.Generator, at_10: float = 100) -> Image.Image:
    """out(x, y) = in(x, y + d), where d is `at_10` pixels at level 10: 100 in RandAugment, 250 in AutoAugment."""
    d = either_sign(generator) * level / MAX_LEVEL * at_10 * pixel_scale(image)
    return affine(image, (1, 0, 0), (0, 1, d))


def cutout(image: Image.Image, level: float, generator: np.random.Generator) -> Image.Image:
    """Fill a square of 2 * int(4 level) pixels with grey. Its centre is any pixel, which cuts off what lies outside."""
    pad = int(level / MAX_LEVEL * 40 * pixel_scale(image))
    x, y = (int(generator.integers(side)) for side in image.size)
    result = image.copy()
    result.paste(fill(image), (max(0, x - pad), max(0, y - pad), min(image.width, x + pad), min(image.height, y + pad)))
    return result


def affine(image: Image.Image, x: tuple[float, float, float], y: tuple[float, float, float]) -> Image.Image:
    """out(p) = in(x0 px + x1 py + x2, y0 px + y1 py + y2), to the nearest pixel; grey where that is outside the image.

    Coordinates are pixel indices, as in TensorFlow: (0, 0) is the centre of the first pixel. In Pillow, whose matrix
    applies to corners, that point is (0.5, 0.5).
    """
    matrix = (x[0], x[1], x[2] + (1 - x[0] - x[1]) / 2, y[0], y[1], y[2] + (1 - y[0] - y[1]) / 2)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=fill(image))


def fill(image: Image.Image) -> tuple[int, ...]:
    return (GREY,) * len(image.getbands())


def pixel_scale(image: Image.Image) -> float:
    return min(1.0, min(image.size) / FULL_SIZE)


# The ImageNet policy (v0) that was found by search: 25 sub-policies of (operation, probability, level).
AUTO_AUGMENT: tuple[tuple[tuple[Operation, float, float], ...], ...] = (
    ((equalize, 0.8, 1), (shear_y, 0.8, 4)),
    ((color, 0.4, 9), (equalize, 0.6, 3)),
    ((color, 0.4, 1), (rotate, 0.6, 8)),
    ((solarize, 0.8, 3), (equalize, 0.4, 7)),
    ((solarize, 0.4, 2), (solarize, 0.6, 2)),
    ((color, 0.2, 0), (equalize, 0.8, 8)),
    ((equalize, 0.4, 8), (solarize_add, 0.8, 3)),
    ((shear_x, 0.2, 9), (rotate, 0.6, 8)),
    ((color, 0.6, 1), (equalize, 1.0, 2)),
    ((invert, 0.4, 9), (rotate, 0.6, 0)),
    ((equalize, 1.0, 9), (shear_y, 0.6, 3)),
    ((color, 0.4, 7), (equalize, 0.6, 0)),
    ((posterize, 0.4, 6), (auto_contrast, 0.4, 7)),
    ((solarize, 0.6, 8), (color, 0.6, 9)),
    ((solarize, 0.2, 4), (rotate, 0.8, 9)),
    ((rotate, 1.0, 7), (partial(translate_y, at_10=250), 0.8, 9)),
    ((shear_x, 0.0, 0), (solarize, 0.8, 4)),
    ((shear_y, 0.8, 0), (color, 0.6, 4)),
    ((color, 1.0, 0), (rotate, 0.6, 2)),
    ((equalize, 0.8, 4), (equalize, 0.0, 8)),
    ((equalize, 1.0, 4), (auto_contrast, 0.6, 2)),
    ((shear_y, 0.4, 7), (solarize_add, 0.6, 7)),
    ((posterize, 0.8, 2), (solarize, 0.6, 10)),
    ((solarize, 0.6, 8), (equalize, 0.6, 1)),
    ((color, 0.8, 6), (rotate, 0.4, 5)),
)

RAND_AUGMENT: tuple[Operation, ...] = (
    auto_contrast,
    equalize,
    invert,
    rotate,
    posterize,
    solarize,
    color,
    contrast,
    brightness,
    sharpness,
    shear_x,
    shear_y,
    translate_x,
    translate_y,
    cutout,
    solarize_add,
)
