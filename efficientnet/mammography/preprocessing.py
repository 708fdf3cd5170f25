"""The brightness of an image -> a picture of the network's input size: the breast alone, its chest wall on one side.

At least half of a mammogram is background. Cropping it away gains about as much resolution as the next larger network
would, and orienting every breast the same way removes a symmetry that the network would have to learn.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from efficientnet.mammography.dicom.grayscale import ShownImage
from efficientnet.mammography.resample import resample

Image = NDArray[np.float32]  # (H, W), in [0, 1], tissue bright
Box = tuple[int, int, int, int]  # top, bottom, left, right; half-open
Side = Literal["left", "right"]

SIDES = ("left", "right", "as-is")

MOST_BITS = 16  # per pixel of a PNG or TIFF file

VERSION = 1  # increment it when the same file and settings give a different picture
# The settings that determine the picture. Channels and normalisation are applied later, in `dataset.to_tensor`.
PICTURE_SETTINGS = ("image_size", "crop", "side", "window", "reduce_jpeg2000")
# How to read the files of a data folder. A picture means the same whatever file it came from, so the key excludes these
# settings. They are compared when a folder is prepared and when a run starts on a prepared folder.
SOURCE_SETTINGS = ("bits", "invert_bright", "accept_raw")
COMPARED_SETTINGS = (*PICTURE_SETTINGS, *SOURCE_SETTINGS)

SEARCH_SIZE = 352  # longest side of the reduced copy on which the breast is located
FRAME_WIDTH = 0.03  # share of a side: the bright borders of scanned film are narrower than this, a breast is wider
FRAME_SHARE = 0.2  # a row or column with at least this share of frame is left out of the box
EVEN = 1e-3  # brightness varies by less than this within a row or column of padding, and by more within a breast
MINIMUM_AREA = 0.01  # share of the picture: anything smaller is not taken for a breast
MARGIN = 0.01  # share of each side, added around the breast, since nipple and skin are its faintest parts
# The least contrast between tissue and background, on a scale of 0 to 1 and in standard deviations of the background.
# Skin and nipple are often no more than two per cent brighter than air.
CONTRAST, CONTRAST_DEVIATIONS = 0.01, 4.0
GLOW_WIDTH = 0.25  # share of the breast's width: the glow that scanners leave along an edge of the film is narrower
UNDECIDED = 0.02  # if the tissue of both halves differs by no more than this share, the chest wall's side is unknown


@dataclass(frozen=True)
class Preprocessing:
    """The preprocessing settings of a model, stored in its checkpoint.

    `image_size` is (height, width). `side` says where the chest wall goes: "left", "right" or "as-is". `window` selects
    one of the windows of a DICOM file. `mean` and `std` are those of pixels in [0, 1]; the defaults are the averages
    over ImageNet's three channels. `reduce_jpeg2000` decodes JPEG 2000 at a lower resolution if the image size is
    small. For a file of 3300x2560 pixels on a Zen 3, it cut the time from 1,082 ms to 298 ms at 768x384 and to 246 ms
    at 512x256; the pictures differ on average by 0.15 and 0.6 of 255 grey levels.

    With `input_size`, the network reads only the centre of the picture: its short edge is first resized to
    `short_edge`, if that is given.

    The last three are properties of the data folder. `bits` sets the value of white in PNG and TIFF files of more than
    8 bits: 2^bits - 1. `invert_bright` inverts PNG, JPEG and TIFF pictures whose background is bright. `accept_raw`
    accepts DICOM files marked FOR PROCESSING.
    """

    image_size: tuple[int, int]
    in_channels: int = 1
    crop: bool = True
    side: str = "left"
    window: int = 0
    mean: float = 0.449
    std: float = 0.226
    reduce_jpeg2000: bool = False
    bits: int = MOST_BITS
    invert_bright: bool = False
    accept_raw: bool = False
    input_size: tuple[int, int] | None = None
    short_edge: int | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "input_size") if self.input_size else ("image_size",):
            size = tuple(getattr(self, name))
            if len(size) != 2 or not all(isinstance(length, int) and length >= 32 for length in size):
                raise ValueError(
                    f"{name.replace('_', ' ')} must be (height, width), integers of at least 32, not {size}"
                )
            object.__setattr__(self, name, size)  # JSON has no tuples, and lists do not compare equal to them
        if self.input_size and any(
            wanted > there for wanted, there in zip(self.input_size, self.resized_size, strict=True)
        ):
            raise ValueError(
                f"the input of {self.input_size[0]}x{self.input_size[1]} pixels must fit into the resized picture of "
                f"{self.resized_size[0]}x{self.resized_size[1]}"
            )
        if self.in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, not {self.in_channels}")
        if self.side not in SIDES:
            raise ValueError(f"side must be one of {', '.join(SIDES)}, not {self.side!r}")
        if self.window < 0:
            raise ValueError(f"window, the index of a window in the file, must be 0 or more, not {self.window}")
        if not self.std > 0:
            raise ValueError(f"std must be above 0, not {self.std}")
        if not 1 <= self.bits <= MOST_BITS:
            raise ValueError(f"bits must be between 1 and {MOST_BITS}, not {self.bits}")

    @property
    def resized_size(self) -> tuple[int, int]:
        """(height, width) of the picture from which `centre` takes the network's input."""
        if self.short_edge is None:
            return self.image_size
        factor = self.short_edge / min(self.image_size)
        return round(self.image_size[0] * factor), round(self.image_size[1] * factor)

    @property
    def key(self) -> str:
        """16 hexadecimal digits, equal for settings that give the same picture and different for all others."""
        picture = {"version": VERSION} | {name: getattr(self, name) for name in PICTURE_SETTINGS}
        return hashlib.sha256(json.dumps(picture, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The settings as a dict of JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> Preprocessing:
        """The inverse of `to_dict`. Raises ValueError with the names of missing and unknown keys."""
        defaults = {field.name: field.default for field in fields(cls)}
        # Older checkpoints lack these.
        later = ("reduce_jpeg2000", *SOURCE_SETTINGS, "input_size", "short_edge")
        settings = {name: defaults[name] for name in later} | dict(settings)
        names = set(defaults)
        missing, unknown = sorted(names - set(settings)), sorted(set(settings) - names)
        if missing or unknown:
            problems = [
                f"{', '.join(keys)} {what}" for keys, what in ((missing, "missing"), (unknown, "unknown")) if keys
            ]
            raise ValueError(f"the preprocessing settings do not fit this version: {'; '.join(problems)}")
        return cls(**settings)


def preprocess(image: Image | ShownImage, settings: Preprocessing, laterality: str | None = None) -> Image:
    """Crop, orient and resize: (H, W) of any size -> float32 `settings.image_size`, in [0, 1].

    The aspect ratio is kept: the picture is padded with 0 opposite the chest wall, or evenly above and below.
    """
    return pad(*fit(image, settings, laterality), settings.image_size)


def fit(image: Image | ShownImage, settings: Preprocessing, laterality: str | None = None) -> tuple[Image, Side]:
    """Crop, orient and resize to the largest size that fits: float32 in [0, 1], and the side of its chest wall.

    If the picture does not show where the chest wall is, `laterality` ("L" or "R") decides: by convention a left breast
    is stored with the chest wall on the left.
    """
    image = as_shown(image)
    height, width = image.values.shape
    reduced = reduce(image)
    box = find_breast(reduced, (height, width)) if settings.crop else (0, height, 0, width)
    chest_wall = chest_wall_side(cells_of(box, reduced, (height, width)))
    chest_wall = chest_wall or ("right" if laterality == "R" else "left")
    top, bottom, left, right = box
    scale = min(settings.image_size[0] / (bottom - top), settings.image_size[1] / (right - left))
    size = tuple(
        min(most, max(1, round(length * scale)))
        for most, length in zip(settings.image_size, (bottom - top, right - left), strict=True)
    )
    picture = resize(image, image.values[top:bottom, left:right], size)
    if settings.side not in ("as-is", chest_wall):
        picture, chest_wall = picture[:, ::-1], settings.side
    return picture, chest_wall


def breast_box(image: Image | ShownImage) -> Box:
    """The box of the breast in pixels: top, bottom, left, right, half-open; the whole image if no breast is found.

    Pixels brighter than the background form connected parts, after the frame of a scanned film has been removed. The
    breast is the largest part; the area of a part that touches neither side counts half. A glow along the film's edge
    above or below the breast is left out.
    """
    image = as_shown(image)
    return find_breast(reduce(image), image.values.shape)


def as_shown(image: Image | ShownImage) -> ShownImage:
    return image if isinstance(image, ShownImage) else ShownImage(image)


def resize(image: ShownImage, values: NDArray[Any], size: tuple[int, int]) -> Image:
    """The brightness of `values`, which are some of the image's, resized to `size` (height, width)."""
    black, white = image.ramp
    picture = resample(values, size, image.numbers)
    picture -= np.float32(black)
    picture *= np.float32(1 / (white - black))
    return np.clip(picture, 0, 1, out=picture)


def pad(picture: Image, chest_wall: Side, size: tuple[int, int]) -> Image:
    padded = np.zeros(size, np.float32)
    height, width = picture.shape
    top, left = (size[0] - height) // 2, 0 if chest_wall == "left" else size[1] - width
    padded[top : top + height, left : left + width] = picture
    return padded


def reduce(image: ShownImage) -> Image:
    """The image's brightness on a grid of at most SEARCH_SIZE cells per side, on which the breast is located.

    Averaging over the pixels of a cell removes most of the noise. One row of pixels per cell is enough.
    """
    factor = max(1.0, max(image.values.shape) / SEARCH_SIZE)
    height, width = (max(1, round(length / factor)) for length in image.values.shape)
    step = int(factor)
    return resize(image, image.values[(image.values.shape[0] - 1) % step // 2 :: step], (height, width))


def cells_of(box: Box, reduced: Image, shape: tuple[int, int]) -> Image:
    """The cells of the grid that a box of an image of this shape covers, at least one."""
    (height, width), (rows, columns) = shape, reduced.shape
    top, left = box[0] * rows // height, box[2] * columns // width
    return reduced[top : max(top + 1, box[1] * rows // height), left : max(left + 1, box[3] * columns // width)]


def find_breast(reduced: Image, shape: tuple[int, int]) -> Box:
    """`breast_box` for an image of this shape, found on its grid of cells."""
    threshold = tissue_threshold(reduced)
    rows, columns = without_padding(reduced, threshold)
    first_row, last_row = in_pixels(rows.start, rows.stop, reduced.shape[0], shape[0])
    first_column, last_column = in_pixels(columns.start, columns.stop, reduced.shape[1], shape[1])
    inner, height, width = reduced[rows, columns], last_row - first_row, last_column - first_column
    mask = inner > (threshold if inner.shape == reduced.shape else tissue_threshold(inner))
    inside = without_frame(mask)
    part = breast_part(opened(inside))
    if part is None:
        return 0, shape[0], 0, shape[1]
    frame = mask & ~inside
    top, bottom = enlarge(rows_without_glow(part), frame.mean(axis=1), height)
    left, right = enlarge(occupied(part, axis=0), frame.mean(axis=0), width)
    return first_row + top, first_row + bottom, first_column + left, first_column + right


def chest_wall_side(reduced: Image) -> Side | None:
    """The side with more tissue; None if both have about the same. The header's laterality can be wrong about it."""
    mask = reduced > tissue_threshold(reduced)
    half = mask.shape[1] // 2
    left, right = np.count_nonzero(mask[:, :half]), np.count_nonzero(mask[:, mask.shape[1] - half :])
    if abs(left - right) <= UNDECIDED * max(left + right, 1):
        return None
    return "left" if left > right else "right"


def tissue_threshold(reduced: Image) -> float:
    """The brightness that separates tissue from background.

    Otsu's threshold (IEEE Trans. SMC 9(1), 1979) alone would cut off the fatty outline of the breast, which is closer
    to the background than to the gland, so it only selects the dark values. The most frequent dark value is the
    background, since tissue is spread over many values. The spread of the values below it, which include no tissue, is
    the noise.
    """
    counts = np.bincount((reduced * np.float32(255.999)).astype(np.uint8).reshape(-1), minlength=256)
    split = otsu_split(counts)
    background = np.float32((int(np.argmax(counts[:split])) + 0.5) / 256)
    below = np.minimum(reduced - background, 0)
    noise = math.sqrt(float(np.square(below, out=below).sum()) / max(1, np.count_nonzero(reduced < background)))
    return min(split / 256, background + max(CONTRAST, CONTRAST_DEVIATIONS * noise))


def otsu_split(counts: NDArray[np.int64]) -> int:
    """The number of bins, at least 1, in the darker class of the split with the largest between-class variance."""
    bins = np.arange(counts.size)
    weight, mass = np.cumsum(counts)[:-1], np.cumsum(counts * bins)[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = mass / weight - ((counts * bins).sum() - mass) / (counts.sum() - weight)
        variance = weight * (counts.sum() - weight) * distance**2
    return int(np.argmax(np.nan_to_num(variance))) + 1


def without_padding(reduced: Image, threshold: float) -> tuple[slice, slice]:
    """The rows and columns that remain when bright, uniform ones along the edges are removed.

    Such lines are padding, of any width, that the header does not declare. No row of a breast is as uniform.
    """
    kept = []
    for lines in (reduced, reduced.T):
        image = np.flatnonzero((np.ptp(lines, axis=1) > EVEN) | (lines[:, 0] <= threshold))
        kept.append(slice(image[0], image[-1] + 1) if image.size else slice(0, len(lines)))
    return kept[0], kept[1]


def without_frame(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Clear whatever touches an edge of the picture and reaches less than FRAME_WIDTH into it, on all four sides."""
    mask = mask.copy()
    for turned in (mask, mask[::-1], mask.T, mask.T[::-1]):  # views in which the edge is the first row
        depth = max(1, round(FRAME_WIDTH * turned.shape[0]))
        on_edge = np.logical_and.accumulate(turned[: depth + 1], axis=0)
        turned[: depth + 1] &= ~(on_edge & ~on_edge[-1])
    return mask


def opened(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Morphological opening with a 3x3 square, which removes specks and thin bridges. Borders are replicated."""
    return over_square(over_square(mask, np.logical_and), np.logical_or)


def over_square(mask: NDArray[np.bool_], combine: np.ufunc) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1, mode="edge")
    rows = combine(combine(padded[:-2], padded[1:-1]), padded[2:])
    return combine(combine(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def breast_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The connected part of the mask that is the breast, or None if none is large enough."""
    labels, areas = connected_parts(mask)
    if areas.size == 0:
        return None
    on_side = np.isin(np.arange(areas.size), labels[:, [0, -1]])
    chosen = int(np.argmax(np.where(on_side, areas, areas / 2)))
    return labels == chosen if areas[chosen] >= MINIMUM_AREA * mask.size else None


def connected_parts(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label the 4-connected parts of a mask. Returns the labels (h, w), from 0 with -1 outside, and the parts' areas.

    A run of set pixels in a row is connected to the runs that it overlaps in the next row. All runs at once take the
    lowest number among their neighbours, until nothing changes.
    """
    width = mask.shape[1]
    changes = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1).reshape(-1)
    starts, stops = np.flatnonzero(changes == 1), np.flatnonzero(changes == -1)  # in reading order; a row has width + 1
    below = width + 1
    first = np.searchsorted(stops, starts + below, "right")  # the first run of the next row that may overlap each run
    count = np.maximum(np.searchsorted(starts, stops + below, "left") - first, 0)
    upper = np.repeat(np.arange(starts.size), count)
    lower = np.arange(count.sum()) + np.repeat(first - np.cumsum(count) + count, count)
    number, before = np.arange(starts.size), None
    while before is None or (number != before).any():
        before = number.copy()
        least = np.minimum(number[upper], number[lower])
        for runs in (upper, lower):
            np.minimum.at(number, before[runs], least)
        number = number[number]
    roots, number = np.unique(number, return_inverse=True)
    labels = np.full(mask.shape, -1)
    labels[mask] = np.repeat(number, stops - starts)
    return labels, np.bincount(number, stops - starts, roots.size).astype(np.int64)


def rows_without_glow(part: NDArray[np.bool_]) -> tuple[int, int]:
    """The rows of the part, without a narrow, even strip that reaches the top or bottom edge."""
    widths = part.sum(axis=1)
    first, last = occupied(part, axis=1)
    return first + glow_rows(widths), last - glow_rows(widths[::-1])


def glow_rows(widths: NDArray[np.int64]) -> int:
    """The number of rows from the edge in which a part stays narrow; 0 if it is wide or absent at the edge."""
    strip = np.median(widths[: max(1, round(FRAME_WIDTH * widths.size))])
    if not 0 < strip < GLOW_WIDTH * widths.max():
        return 0
    return int(np.argmax(widths > strip + 2))  # the border may be uneven by two cells


def occupied(part: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    """The first column (axis 0) or row (axis 1) of the part, and one past the last."""
    places = np.flatnonzero(part.any(axis=axis))
    return int(places[0]), int(places[-1]) + 1


def enlarge(extent: tuple[int, int], frame_share: NDArray[np.float64], length: int) -> tuple[int, int]:
    """Convert a range of cells to pixels of the image and add the margin, without reaching into a frame.

    `frame_share` is the share of each row or column of cells that belongs to the frame.
    """
    cells, margin = frame_share.size, round(MARGIN * length)
    clear = np.flatnonzero(frame_share < FRAME_SHARE)
    first, last = max(extent[0], clear[0]), min(extent[1], clear[-1] + 1)
    floor, ceiling = in_pixels(clear[0], clear[-1] + 1, cells, length)
    first, last = in_pixels(first, last, cells, length)
    return max(floor, first - margin), min(ceiling, last + margin)


def in_pixels(first: int, last: int, cells: int, length: int) -> tuple[int, int]:
    """The half-open range of pixels, along a side of `length`, that the cells `first` to `last` - 1 cover."""
    return int(first) * length // cells, -(-int(last) * length // cells)
