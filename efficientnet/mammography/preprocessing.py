"""One normalised image -> a picture of the size a network reads: the breast alone, its chest wall on one side.

Half of a mammogram and more is background. Cutting it off is worth about as much resolution as the next network size
costs, and turning every breast the same way takes a symmetry off what the network has to learn.
"""

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

VERSION = 1  # of the picture that the same file and settings give; raise it with every change of that
# What decides the picture; the channels and the normalisation come after it, in `dataset.to_tensor`.
PICTURE_SETTINGS = ("image_size", "crop", "side", "window", "reduce_jpeg2000")

SEARCH_SIZE = 352  # longest side of the copy on which the breast is looked for
FRAME_WIDTH = 0.03  # of a side: bright borders of scanned film are narrower than this, a breast is not
FRAME_SHARE = 0.2  # of a row or column: from this much frame on it is left out of the box
EVEN = 1e-3  # by less does brightness differ within a row or column of padding, and in a breast by more
MINIMUM_AREA = 0.01  # of the picture: anything smaller is not taken for a breast
MARGIN = 0.01  # of each side, added around the breast: the nipple and the skin are its faintest parts
# The least contrast of tissue to background, on a scale of 0 to 1, and the same in standard deviations of the
# background. Skin and nipple are often no more than two per cent brighter than air.
CONTRAST, CONTRAST_DEVIATIONS = 0.01, 4.0
GLOW_WIDTH = 0.25  # of the breast: the light that scanners leave along an edge of the film is narrower than this
UNDECIDED = 0.02  # halves of a picture whose tissue differs by less than this share tell nothing of the chest wall


@dataclass(frozen=True)
class Preprocessing:
    """How the images of a model are prepared. It is stored in the model's checkpoint.

    `image_size` is (height, width). `side` is where the chest wall is to be: "left", "right" or "as-is". `window`
    chooses among the windows of a DICOM file. `mean` and `std` are those of the pixels in [0, 1]; the defaults are
    the averages over the three channels of ImageNet's. `reduce_jpeg2000` decodes JPEG 2000 at a lower resolution where
    the image size is small. Of 3300x2560 pixels on a Zen 3 that took 298 ms instead of 1,082 for 768x384 and 246 for
    512x256, with pictures that differ by 0.15 and 0.6 of 255 grey levels in the mean.
    """

    image_size: tuple[int, int]
    in_channels: int = 1
    crop: bool = True
    side: str = "left"
    window: int = 0
    mean: float = 0.449
    std: float = 0.226
    reduce_jpeg2000: bool = False

    def __post_init__(self) -> None:
        size = tuple(self.image_size)
        if len(size) != 2 or not all(isinstance(length, int) and length >= 32 for length in size):
            raise ValueError(f"image size is (height, width), whole numbers of at least 32; it is {self.image_size}")
        object.__setattr__(self, "image_size", size)  # JSON has no tuples, and lists do not compare equal to them
        if self.in_channels < 1:
            raise ValueError(f"in_channels is at least 1; it is {self.in_channels}")
        if self.side not in SIDES:
            raise ValueError(f"side is one of {', '.join(SIDES)}; it is {self.side!r}")
        if self.window < 0:
            raise ValueError(f"window is the index of a window in the file, 0 or more; it is {self.window}")
        if not self.std > 0:
            raise ValueError(f"std is greater than 0; it is {self.std}")

    @property
    def key(self) -> str:
        """16 hexadecimal digits: the same for settings that give the same picture, and for no others."""
        picture = {"version": VERSION} | {name: getattr(self, name) for name in PICTURE_SETTINGS}
        return hashlib.sha256(json.dumps(picture, sort_keys=True).encode()).hexdigest()[:16]

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        return asdict(self) | {"image_size": list(self.image_size)}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`. Raises ValueError with the names of missing and unknown keys."""
        settings = {"reduce_jpeg2000": False, **settings}  # which checkpoints before it do not have
        names = {field.name for field in fields(cls)}
        missing, unknown = sorted(names - set(settings)), sorted(set(settings) - names)
        if missing or unknown:
            problems = [
                f"{', '.join(keys)} {what}" for keys, what in ((missing, "missing"), (unknown, "unknown")) if keys
            ]
            raise ValueError(f"the preprocessing settings do not fit this version: {'; '.join(problems)}")
        return cls(**settings)


def preprocess(image: Image | ShownImage, settings: Preprocessing, laterality: str | None = None) -> Image:
    """Crop, orient and resize: (H, W) of any size -> float32 `settings.image_size`, in [0, 1].

    `laterality` ("L" or "R") decides where the chest wall is only if the picture cannot tell: by convention a left
    breast is stored with the chest wall on the left. The image is cropped before anything else is done to it, and of
    a `ShownImage` under a straight window the brightness is worked out after resizing, which comes to the same.
    """
    image = _as_shown(image)
    height, width = image.values.shape
    reduced = _reduce(image)
    box = _find_breast(reduced, (height, width)) if settings.crop else (0, height, 0, width)
    chest_wall = _chest_wall_side(_cells_of(box, reduced, (height, width)))
    chest_wall = chest_wall or ("right" if laterality == "R" else "left")
    picture = _resize(image, box, settings.image_size)
    if settings.side not in ("as-is", chest_wall):
        picture, chest_wall = picture[:, ::-1], settings.side
    return _pad(picture, settings.image_size, chest_wall)


def crop_to_breast(image: Image) -> Image:
    """The part of the image within `breast_box`, as a view."""
    top, bottom, left, right = breast_box(image)
    return image[top:bottom, left:right]


def breast_box(image: Image | ShownImage) -> Box:
    """The rows and columns of the breast: top, bottom, left, right, half-open; the whole image if there is none.

    What is brighter than the background, without the frame of a scanned film, falls into connected parts. The breast
    is the largest of them, where a part that touches neither side counts half. A glow of the film's edge above or
    below the breast is left out.
    """
    image = _as_shown(image)
    return _find_breast(_reduce(image), image.values.shape)


def chest_wall_side(image: Image) -> Side:
    """The side on which a cropped picture has more breast, "left" if it is the same on both.

    Files may be stored mirrored, whatever their laterality says.
    """
    return _chest_wall_side(_reduce(_as_shown(image))) or "left"


def resize_with_padding(image: Image, size: tuple[int, int], side: str) -> Image:
    """Resize (H, W) to float32 `size` (height, width), aspect kept, antialiased, padded with 0.

    The padding is opposite to the chest wall, which is on `side`, and half above and half below.
    """
    return _pad(_resize(_as_shown(image), (0, image.shape[0], 0, image.shape[1]), size), size, side)


def _as_shown(image: Image | ShownImage) -> ShownImage:
    return image if isinstance(image, ShownImage) else ShownImage(image)


def _resize(image: ShownImage, box: Box, size: tuple[int, int]) -> Image:
    """The part in the box, at the largest size within `size` that has its proportions."""
    top, bottom, left, right = box
    shape = bottom - top, right - left
    scale = min(size[0] / shape[0], size[1] / shape[1])
    height, width = (min(most, max(1, round(n * scale))) for most, n in zip(size, shape, strict=True))
    return _brightness(image, image.values[top:bottom, left:right], (height, width))


def _brightness(image: ShownImage, values: NDArray[Any], size: tuple[int, int]) -> Image:
    """Some of the values of the image, resized, in brightness from 0 to 1."""
    black, white = image.ramp
    picture = resample(values, size, image.numbers)
    picture -= np.float32(black)
    picture *= np.float32(1 / (white - black))
    return np.clip(picture, 0, 1, out=picture)


def _pad(image: Image, size: tuple[int, int], side: str) -> Image:
    padded = np.zeros(size, np.float32)
    height, width = image.shape
    top, left = (size[0] - height) // 2, 0 if side == "left" else size[1] - width
    padded[top : top + height, left : left + width] = image
    return padded


def _reduce(image: ShownImage) -> Image:
    """The brightness on a grid of at most SEARCH_SIZE cells a side, on which the breast is looked for.

    Averaging over the pixels of a cell takes most of the noise away; one row of them is enough.
    """
    factor = max(1.0, max(image.values.shape) / SEARCH_SIZE)
    height, width = (max(1, round(length / factor)) for length in image.values.shape)
    step = int(factor)
    return _brightness(image, image.values[(image.values.shape[0] - 1) % step // 2 :: step], (height, width))


def _cells_of(box: Box, reduced: Image, shape: tuple[int, int]) -> Image:
    """The cells of the grid that belong to the box of an image of this shape, at least one."""
    (height, width), (rows, columns) = shape, reduced.shape
    top, left = box[0] * rows // height, box[2] * columns // width
    return reduced[top : max(top + 1, box[1] * rows // height), left : max(left + 1, box[3] * columns // width)]


def _find_breast(reduced: Image, shape: tuple[int, int]) -> Box:
    """`breast_box` of the image of this shape, from its grid of cells."""
    threshold = _tissue_threshold(reduced)
    rows, columns = _without_padding(reduced, threshold)
    first_row, last_row = _in_pixels(rows.start, rows.stop, reduced.shape[0], shape[0])
    first_column, last_column = _in_pixels(columns.start, columns.stop, reduced.shape[1], shape[1])
    inner, height, width = reduced[rows, columns], last_row - first_row, last_column - first_column
    mask = inner > (threshold if inner.shape == reduced.shape else _tissue_threshold(inner))
    inside = _without_frame(mask)
    part = _breast_part(_open(inside))
    if part is None:
        return 0, shape[0], 0, shape[1]
    frame = mask & ~inside
    top, bottom = _enlarge(_rows_without_glow(part), frame.mean(axis=1), height)
    left, right = _enlarge(_extent(part, axis=0), frame.mean(axis=0), width)
    return first_row + top, first_row + bottom, first_column + left, first_column + right


def _chest_wall_side(reduced: Image) -> Side | None:
    mask = reduced > _tissue_threshold(reduced)
    half = mask.shape[1] // 2
    left, right = np.count_nonzero(mask[:, :half]), np.count_nonzero(mask[:, mask.shape[1] - half :])
    if abs(left - right) <= UNDECIDED * max(left + right, 1):
        return None
    return "left" if left > right else "right"


def _tissue_threshold(reduced: Image) -> float:
    """Brightness that tells tissue from background.

    Otsu's threshold (IEEE Trans. SMC 9(1), 1979) alone would cut off the fatty outline of the breast, which is nearer
    to the background than to the gland. It only says what is dark. The most frequent of the dark values is the
    background, since tissue has many values, and the spread of what is darker still, where no tissue is, its noise.
    """
    counts = np.bincount((reduced * np.float32(255.999)).astype(np.uint8).reshape(-1), minlength=256)
    split = _otsu_split(counts)
    background = np.float32((int(np.argmax(counts[:split])) + 0.5) / 256)
    below = np.minimum(reduced - background, 0)
    noise = math.sqrt(float(np.square(below, out=below).sum()) / max(1, np.count_nonzero(reduced < background)))
    return min(split / 256, background + max(CONTRAST, CONTRAST_DEVIATIONS * noise))


def _otsu_split(counts: NDArray[np.int64]) -> int:
    """The number of bins, at least 1, in the darker of two classes with the largest variance between them."""
    bins = np.arange(counts.size)
    weight, mass = np.cumsum(counts)[:-1], np.cumsum(counts * bins)[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = mass / weight - ((counts * bins).sum() - mass) / (counts.sum() - weight)
        variance = weight * (counts.sum() - weight) * distance**2
    return int(np.argmax(np.nan_to_num(variance))) + 1


def _without_padding(reduced: Image, threshold: float) -> tuple[slice, slice]:
    """The rows and columns that are left without those, from an edge on, that are bright and of one value.

    That is padding which no header declares, of any width: no row of a breast is so even.
    """
    kept = []
    for lines in (reduced, reduced.T):
        image = np.flatnonzero((np.ptp(lines, axis=1) > EVEN) | (lines[:, 0] <= threshold))
        kept.append(slice(image[0], image[-1] + 1) if image.size else slice(0, len(lines)))
    return kept[0], kept[1]


def _without_frame(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Take away what stands on an edge of the picture and reaches less than FRAME_WIDTH into it, on all four sides."""
    mask = mask.copy()
    for turned in (mask, mask[::-1], mask.T, mask.T[::-1]):  # views in which the edge is the first row
        depth = max(1, round(FRAME_WIDTH * turned.shape[0]))
        on_edge = np.logical_and.accumulate(turned[: depth + 1], axis=0)
        turned[: depth + 1] &= ~(on_edge & ~on_edge[-1])
    return mask


def _open(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Morphological opening by a square of 3x3: specks and thin bridges go. The outside counts as the nearest edge."""
    return _over_square(_over_square(mask, np.logical_and), np.logical_or)


def _over_square(mask: NDArray[np.bool_], combine: np.ufunc) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1, mode="edge")
    rows = combine(combine(padded[:-2], padded[1:-1]), padded[2:])
    return combine(combine(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def _breast_part(mask: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The connected part of the mask that is the breast, or None if none is large enough."""
    labels, areas = _connected_parts(mask)
    if areas.size == 0:
        return None
    on_side = np.isin(np.arange(areas.size), labels[:, [0, -1]])
    chosen = int(np.argmax(np.where(on_side, areas, areas / 2)))
    return labels == chosen if areas[chosen] >= MINIMUM_AREA * mask.size else None


def _connected_parts(mask: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Label the 4-connected parts of a mask: (labels (h, w) from 0, -1 outside; areas).

    Runs of set pixels within a row are joined to the runs that they overlap in the row below: all at once, each run
    taking the lowest number of its neighbours, until nothing changes.
    """
    width = mask.shape[1]
    changes = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1).reshape(-1)
    starts, stops = np.flatnonzero(changes == 1), np.flatnonzero(changes == -1)  # in reading order; a row has width + 1
    below = width + 1
    first = np.searchsorted(stops, starts + below, "right")  # the runs of the next row that overlap each run
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


def _rows_without_glow(part: NDArray[np.bool_]) -> tuple[int, int]:
    """The first and the last row of the part, less the even, narrow strip by which it may reach top or bottom edge."""
    widths = part.sum(axis=1)
    first, last = _extent(part, axis=1)
    return first + _glow_rows(widths), last - _glow_rows(widths[::-1])


def _glow_rows(widths: NDArray[np.int64]) -> int:
    """For how many rows from the edge on a part is as narrow as it is there; 0 if it is wide, or does not reach it."""
    strip = np.median(widths[: max(1, round(FRAME_WIDTH * widths.size))])
    if not 0 < strip < GLOW_WIDTH * widths.max():
        return 0
    return int(np.argmax(widths > strip + 2))  # two cells for an uneven border


def _extent(part: NDArray[np.bool_], axis: int) -> tuple[int, int]:
    occupied = np.flatnonzero(part.any(axis=axis))
    return int(occupied[0]), int(occupied[-1]) + 1


def _enlarge(extent: tuple[int, int], frame_share: NDArray[np.float64], length: int) -> tuple[int, int]:
    """From cells of the reduced copy to pixels of the image, with the margin, but not into a frame.

    `frame_share` is how much of each row or column of cells belongs to the frame.
    """
    cells, margin = frame_share.size, round(MARGIN * length)
    clear = np.flatnonzero(frame_share < FRAME_SHARE)
    first, last = max(extent[0], clear[0]), min(extent[1], clear[-1] + 1)
    floor, ceiling = _in_pixels(clear[0], clear[-1] + 1, cells, length)
    first, last = _in_pixels(first, last, cells, length)
    return max(floor, first - margin), min(ceiling, last + margin)


def _in_pixels(first: int, last: int, cells: int, length: int) -> tuple[int, int]:
    """The pixels of a side of `length` that the cells from `first` to before `last` of its `cells` cover."""
    return int(first) * length // cells, -(-int(last) * length // cells)
