"""An image file -> the crop that the network reads, upright and resized.

The EXIF orientation is applied, transparent pixels become white, and of several frames the first is read. ICC profiles
are ignored, as in torchvision and timm. A file that is damaged or incomplete is refused, never read in part, although
no decoder notices every changed byte.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

# (left, top, right, bottom) in pixels of the upright picture; fractions are allowed.
Box = tuple[float, float, float, float]

# Recognised by content, not by name. Other formats of Pillow are not tried: for EPS, it would start Ghostscript.
Image.init()
FORMATS = [
    name
    for name in ("JPEG", "PNG", "BMP", "GIF", "WEBP", "AVIF", "TIFF", "PPM", "JPEG2000")
    if name in Image.OPEN  # AVIF is not in all versions
]
BITS_PER_SAMPLE, PHOTOMETRIC_INTERPRETATION, WHITE_IS_ZERO = 258, 262, 0  # TIFF tags and a value of the latter
END_OF_CODESTREAM = b"\xff\xd9"  # of JPEG 2000; its decoder accepts a file that ends before a tile
# How a picture is turned to be upright, by its EXIF orientation.
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow logs some defects of TIFF files, and without any handler Python would print them.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class PictureError(Exception):
    """A file cannot be read as a picture; str() is one line: "path: reason"."""


def read_training_crop(
    path: Path,
    mode: str,
    size: tuple[int, int],
    choose_box: Callable[[int, int], Box],
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """The part of a picture that `choose_box` returns for its upright height and width, resized to `size`.

    A JPEG is decoded at 1/2, 1/4 or 1/8 of its size if the box still has `size` pixels or more in both directions.
    libjpeg then uses a smaller inverse DCT, which saves most of the time for photographs of a camera.

    mode: "RGB" or "L".  size: (height, width).  Raises PictureError.
    """
    return read_crop(path, mode, size, choose_box, resample, reduce=True)


def read_centre_crop(
    path: Path,
    mode: str,
    size: tuple[int, int],
    fraction: float,
    resample: Image.Resampling = Image.Resampling.BICUBIC,
) -> Image.Image:
    """The centre of a picture, decoded at full size and resized to `size`. Raises PictureError.

    mode: "RGB" or "L".  size: (height, width).
    fraction: sides of the box as a share of the largest centred box with the proportions of `size`, in (0, 1]; .875 in
    the released code, size / (size + 32) in its older releases.
    """
    return read_crop(path, mode, size, partial(centre_box, size=size, fraction=fraction), resample, reduce=False)


def centre_box(height: int, width: int, size: tuple[int, int], fraction: float) -> Box:
    """The box of `read_centre_crop` in a picture of this height and width."""
    rows, columns = size
    scale = fraction * min(height / rows, width / columns)
    rows, columns = min(height, scale * rows), min(width, scale * columns)
    return (width - columns) / 2, (height - rows) / 2, (width + columns) / 2, (height + rows) / 2


def read_crop(
    path: Path,
    mode: str,
    size: tuple[int, int],
    choose_box: Callable[[int, int], Box],
    resample: Image.Resampling,
    reduce: bool,
) -> Image.Image:
    """See `read_training_crop`.  reduce: whether a JPEG may be decoded at a fraction of its size."""
    with explained(path):
        image = opened(path)
        orientation = orientation_of(image)
    width, height = image.size if orientation < 5 else image.size[::-1]
    box = choose_box(height, width)
    with explained(path):
        # Turn the crop instead of the picture, which is larger.
        box = stored_box(box, orientation, image.size)
        size = size if orientation < 5 else size[::-1]
        if reduce:
            scale = draft(image, mode, box, size)
            box = tuple(edge / scale for edge in box)
        crop = plain(image, mode).resize(size[::-1], resample, box).convert(mode)
        return crop.transpose(TURNS[orientation]) if orientation in TURNS else crop


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Raise PictureError in place of any error, and suppress warnings about defects that Pillow tolerates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except Exception as error:  # Pillow raises nearly anything for a damaged file
            raise PictureError(f"{path}: {reason(error)}") from None


def reason(error: Exception) -> str:
    """One line on an error."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image, damaged, or in an unknown format"
    if isinstance(error, Image.DecompressionBombError):
        return f"has more than {2 * Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels"
    if isinstance(error, MemoryError):  # usually a damaged file
        return "claims more memory than is available"
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(text.split()) or type(error).__name__


def opened(path: Path) -> Image.Image:
    """Read a file, and decode it unless it is a JPEG, which can still be decoded at a fraction of its size."""
    ImageFile.LOAD_TRUNCATED_IMAGES = False  # another package may have set it
    data = path.read_bytes()
    if not data:
        raise ValueError("is empty")
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.format not in ("JPEG", "MPO"):
        image.load()  # this also turns a TIFF upright
    if image.format == "JPEG2000" and END_OF_CODESTREAM not in data:
        raise ValueError("image file is truncated")
    return image


def orientation_of(image: Image.Image) -> int:
    """The EXIF orientation, from 1 to 8; 1 (as stored) if the EXIF data are damaged."""
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation)
        return orientation if orientation in TURNS else 1
    except Exception:  # Pillow raises nearly anything
        return 1


def stored_box(box: Box, orientation: int, size: tuple[int, int]) -> Box:
    """A box of the upright picture in the picture as stored.  size: (width, height) as stored."""
    left, top, right, bottom = box
    width, height = size
    if orientation in (5, 6, 7, 8):
        left, top, right, bottom = top, left, bottom, right
    if orientation in (2, 3, 7, 8):
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return left, top, right, bottom


def draft(image: Image.Image, mode: str, box: Box, size: tuple[int, int]) -> int:
    """Make a JPEG be decoded at the smallest scale at which the box has at least `size` (height, width) pixels.

    Returns the denominator of the scale: 1, 2, 4 or 8. With mode "L", only luminance is decoded.
    """
    left, top, right, bottom = box
    limit = min((right - left) / size[1], (bottom - top) / size[0])
    scale = next((scale for scale in (8, 4, 2) if scale <= limit), 1)
    width, height = image.size
    return scale if image.draft(mode, (width // scale, height // scale)) else 1


def plain(image: Image.Image, mode: str) -> Image.Image:
    """The picture in mode L or RGB, without transparency. Raises ValueError for values out of range."""
    if image.mode == "F":
        raise ValueError("has floating-point pixels; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        return eight_bits(image)
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image if image.mode in ("L", "RGB") else image.convert(mode)


def eight_bits(image: Image.Image) -> Image.Image:
    """Grey values of 12 or 16 bits scaled to 8. Raises ValueError for values out of range."""
    tags = getattr(image, "tag_v2", {})
    white = 4095 if tags.get(BITS_PER_SAMPLE) == (12,) else 65535
    values = np.asarray(image)
    if values.min() < 0 or values.max() > white:
        raise ValueError(f"has values from {values.min()} to {values.max()}; save it with 8 or 16 bits")
    if tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO:
        values = white - values
    grey = ((values.astype(np.uint32) * 255 + white // 2) // white).astype(np.uint8)
    transparent = image.info.get("transparency")
    return Image.fromarray(grey if transparent is None else np.where(values == transparent, np.uint8(255), grey))
