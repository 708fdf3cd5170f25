"""PNG, JPEG and TIFF files -> brightness, and a survey of a sample of a folder's files.

These files are copies of mammograms that have lost two properties: how many of 16 bits are used (a 12-bit image saved
without rescaling is nearly black), and whether MONOCHROME1 was inverted. One picture cannot settle either, so the depth
is decided once per folder, and bright backgrounds are counted, and inverted on request.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from efficientnet.common.isolated import Failure
from efficientnet.mammography.dicom.grayscale import ShownImage
from efficientnet.mammography.dicom.reading import ImageError
from efficientnet.mammography.image_files import is_dicom
from efficientnet.mammography.preprocessing import EVEN, FRAME_WIDTH, MOST_BITS, Preprocessing, reduce, without_padding
from efficientnet.mammography.preprocessing import Image as Brightness

SETTINGS_KEY = "Prepared-By"  # in the header of a prepared picture: the key of its settings

DEPTHS = (8, 10, 12, 14, MOST_BITS)
MIXED_SHARE = 0.25  # share of the sample: if more files hold fewer bits than the folder, they are from other machines
LOOKED_AT, PROBED = 32, 256  # files of a folder: pixels read, and headers read to find those of more than 8 bits
PHOTOMETRIC_INTERPRETATION, WHITE_IS_ZERO = 262, 0  # a TIFF tag and one of its values

# A bright background is detected on bands of rows. The evidence for it must exceed BRIGHT_MARGIN times the evidence for
# a dark one by LEAST_EXCESS of the contrast. Of 4,000 drawn breasts with labels, frames, noise or implants, 2 counted
# as bright, and 96 of their inverses did not: small ones under many labels, and ones saturated nearly everywhere.
BANDS, BRIGHT_MARGIN, LEAST_EXCESS = 8, 2.0, 0.01
DARK_HALF = 0.1  # share of the contrast: if the median is no brighter, half of the picture is black


@dataclass(frozen=True)
class Raster:
    """The pixels of a file, upright and without colour.

    values    (H, W): uint8 with white at 255, integers of more bits, or brightness in floating point
    inverted  whether white is 0
    key       the key of the settings if this is a prepared picture, else None
    """

    values: NDArray[Any]
    inverted: bool = False
    key: str | None = None


def read_raster(path: Path) -> Raster:
    """Read a file: colour becomes luminance, transparency black, and the EXIF orientation is applied.

    Raises ImageError.
    """
    try:
        with opened(path) as image:
            if reason := reason_to_refuse(image):
                raise ImageError(f"{path}: {reason}")
            ImageOps.exif_transpose(image, in_place=True)
            tags = getattr(image, "tag_v2", {})
            values = pixels(image)
            inverted = values.dtype != np.uint8 and tags.get(PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO
            return Raster(values, inverted, image.info.get(SETTINGS_KEY))
    except MemoryError:  # usually a damaged file
        raise ImageError(f"{path}: cannot be read as an image (it claims more memory than is available)") from None


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a file and read its header, without Pillow's warnings about defects that it tolerates.

    Raises ImageError, also for errors inside the `with` block.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            # Given a path, Pillow would memory-map an uncompressed TIFF and get the size of a rotated one wrong.
            with open(path, "rb") as file, Image.open(file) as image:
                yield image
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # Pillow raises nearly anything for a damaged file
            is_other = isinstance(error, UnidentifiedImageError)
            reason = "unknown format" if is_other else " ".join(str(error).split())
            raise ImageError(f"{path}: cannot be read as an image ({reason}); replace or remove it") from None


def reason_to_refuse(image: Image.Image) -> str | None:
    """Why an opened file, before its pixels are read, cannot be used, and what to do about it; None if it can."""
    if (frames := getattr(image, "n_frames", 1)) > 1:
        return f"it contains {frames} pictures; save each to its own file"
    # Pillow would read the upper byte of each value.
    if ";16" in str(image.tile) and not image.mode.startswith("I"):
        return "16-bit colour or transparency is not supported; save it as grey without transparency"
    return None


def pixels(image: Image.Image) -> NDArray[Any]:
    """The values (H, W) of an image of any mode, as uint8 if it has 8 bits or fewer."""
    transparent = image.info.get("transparency")
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)
        return values if transparent is None else np.where(values == transparent, 0, values)
    if transparent is None and image.getbands()[-1] not in ("A", "a"):
        return np.asarray(image.convert("L"))
    gray, alpha = (np.asarray(band, np.uint16) for band in image.convert("RGBA").convert("LA").split())
    return ((gray * alpha + 127) // 255).astype(np.uint8)


def brightness(raster: Raster, bits: int, path: Path) -> Brightness:
    """Brightness, float32 (H, W) in [0, 1]; above 8 bits, white is 2^bits - 1. Raises ImageError for other values."""
    values = raster.values
    if values.dtype == np.uint8:
        return values.astype(np.float32) / np.float32(255)
    lowest, highest = values.min(), values.max()
    white = 1 if values.dtype.kind == "f" else 2**bits - 1
    if not (lowest >= 0 and highest <= white):  # also true for nan
        held = f"holds values from {lowest:g} to {highest:g}"
        if values.dtype.kind == "f":
            raise ImageError(f"{path}: {held} in floating point; write brightness from 0 to 1, or 16-bit integers")
        if lowest < 0 or highest >= 2**MOST_BITS:
            raise ImageError(f"{path}: {held}; write integers from 0 to {2**MOST_BITS - 1}")
        raise ImageError(
            f"{path}: {held}, but the maximum for {bits} bits is {white}; use --bits {depth(highest)} for this folder"
        )
    picture = values.astype(np.float32) / np.float32(white)
    return 1 - picture if raster.inverted else picture


def depth(highest: int) -> int:
    """The smallest bit depth of mammography machines (DEPTHS) that holds this value."""
    return next((bits for bits in DEPTHS if highest < 2**bits), MOST_BITS)


def has_bright_background(reduced: Brightness) -> bool:
    """Whether air is brighter than tissue, as in copies of MONOCHROME1 that were never inverted.

    A breast has air above and below it, so the middle of each column is compared with both ends. The background is
    bright if, over all columns, the ends exceed the middle by clearly more than the middle exceeds the ends. The chest
    wall, a pectoral muscle, a label or an implant does not have air on two sides. If half of the picture is black, as
    around a small breast, labels above each other could decide, so it does not count as bright. Neither does an
    undecided picture.

    reduced: the result of `preprocessing.reduce`, of any contrast.
    """
    darkest, half, brightest = np.percentile(reduced, (1, 50, 99))
    inner = reduced[without_padding(reduced, -np.inf)]  # without uniform lines along the edges, bright or dark
    rows, columns = (round(FRAME_WIDTH * length) for length in inner.shape)
    inner = inner[rows : inner.shape[0] - rows, columns : inner.shape[1] - columns]
    if len(inner) < BANDS or np.ptp(inner) <= EVEN or half <= darkest + DARK_HALF * (brightest - darkest):
        return False
    bands = np.stack([np.median(band, axis=0) for band in np.array_split(inner, BANDS)])
    ends, middle = bands[[0, -1]], bands[2:-2].mean(axis=0)
    bright = np.maximum(ends.min(axis=0) - middle, 0).mean()
    dark = np.maximum(middle - ends.max(axis=0), 0).mean()
    return bool(bright > BRIGHT_MARGIN * dark + LEAST_EXCESS * np.ptp(inner))


@dataclass(frozen=True)
class Look:
    """Findings on one file: its highest value if it has more than 8 bits, and whether its background is bright."""

    highest: int | None
    is_bright: bool


def look(path: Path) -> Look | Failure | None:
    """Look at one file. None for a prepared picture, since its source is no longer in question."""
    try:
        raster = read_raster(path)
        has_more_bits = raster.values.dtype.kind in "iu" and raster.values.dtype != np.uint8
        highest = int(raster.values.max()) if has_more_bits else None
        picture = brightness(raster, depth(highest or 0), path)
    except ImageError as error:
        return Failure(str(error).removeprefix(f"{path}: "))
    return None if raster.key else Look(highest, has_bright_background(reduce(ShownImage(picture))))


def is_deep(path: Path) -> bool:
    """Whether the header declares integers of more than 8 bits."""
    try:
        with opened(path) as image:
            return image.mode.startswith("I")
    except ImageError:  # `read_raster` reports it
        return False


def sample(files: Iterable[Path | None]) -> tuple[list[Path], list[Path]]:
    """Up to LOOKED_AT files of more than 8 bits and up to LOOKED_AT others, evenly spaced over the sorted names."""
    found = spread(sorted({file for file in files if file is not None and not is_dicom(file)}), PROBED)
    deep = {file for file in found if is_deep(file)}
    return spread(sorted(deep), LOOKED_AT), spread([file for file in found if file not in deep], LOOKED_AT)


def spread(items: Sequence[Path], count: int) -> list[Path]:
    return [items[place * len(items) // count] for place in range(count)] if len(items) > count else list(items)


@dataclass(frozen=True)
class Survey:
    """Findings on a sample of a folder's PNG, JPEG and TIFF files."""

    looks: Mapping[Path, Look]
    unreadable: Mapping[Path, Failure]

    @classmethod
    def of(cls, seen: Mapping[Path, Look | Failure | None]) -> Survey:
        by_name = sorted(seen.items())
        looks = {path: result for path, result in by_name if isinstance(result, Look)}
        return cls(looks, {path: result for path, result in by_name if isinstance(result, Failure)})

    @property
    def bits(self) -> int | None:
        """The depth that holds all values of the files of more than 8 bits; None without such files."""
        highest = [seen.highest for seen in self.looks.values() if seen.highest is not None]
        return depth(max(highest)) if highest else None

    def lines(self, settings: Preprocessing) -> list[tuple[str, str]]:
        """(name, text) lines to print; the name is "pictures" or "warning"."""
        lines, count = [], len(self.looks) + len(self.unreadable)
        if self.bits is not None:
            deep = [path for path, seen in self.looks.items() if seen.highest is not None]
            kinds = " and ".join(sorted({"TIFF" if "tif" in path.suffix.lower() else "PNG" for path in deep}))
            if self.bits == settings.bits:
                lines.append(("pictures", f"16-bit {kinds} holding {self.bits} bits (override with --bits)"))
            else:
                text = f"16-bit {kinds} read as {settings.bits} bits, but the sampled files hold {self.bits} (--bits)"
                lines.append(("warning", text))
            fewer = sum(depth(self.looks[path].highest) < self.bits for path in deep)
            if fewer > MIXED_SHARE * len(deep):
                text = f"{fewer} of {len(deep)} sampled 16-bit pictures hold fewer than {self.bits} bits"
                lines.append(("warning", f"{text}: if they come from other machines, they will look dark"))
        if bright := sum(seen.is_bright for seen in self.looks.values()):
            text = f"{bright} of {count} sampled pictures have a bright background"
            lines.append(
                ("pictures", f"{text} and are inverted")
                if settings.invert_bright
                else ("warning", f"{text}: use --invert-bright to invert them")
            )
        if self.unreadable:
            path, failure = next(iter(self.unreadable.items()))
            text = f"{len(self.unreadable)} of {count} sampled pictures cannot be read; the first: {path}"
            lines.append(("warning", f"{text}: {failure.reason}"))
        return lines


def survey(files: Iterable[Path | None]) -> Survey:
    """Look at a sample of these files."""
    return Survey.of({path: look(path) for part in sample(files) for path in part})
