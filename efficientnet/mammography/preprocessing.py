"""One normalised image -> a picture of the size a network reads: the breast alone, its chest wall on one side.

Half of a mammogram and more is background. Cutting it off is worth about as much resolution as the next network size
costs, and turning every breast the same way takes a symmetry off what the network has to learn.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Image = NDArray[np.float32]  # (H, W), in [0, 1], tissue bright
Box = tuple[int, int, int, int]  # top, bottom, left, right; half-open
Side = Literal["left", "right"]

SIDES = ("left", "right", "as-is")

SEARCH_SIZE = 384  # longest side of the copy on which the breast is looked for
FRAME_WIDTH = 0.03  # of a side: bright borders of scanned film are narrower than this, a breast is not
FRAME_SHARE = 0.2  # of a row or column: from this much frame on it is left out of the box
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
    the averages over the three channels of ImageNet's.
    """

    image_size: tuple[int, int]
    in_channels: int = 1
    crop: bool = True
    side: str = "left"
    window: int = 0
    mean: float = 0.449
    std: float = 0.226

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

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON has them."""
        return asdict(self) | {"image_size": list(self.image_size)}

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Preprocessing":
        """The inverse of `to_dict`. Raises ValueError with the names of missing and unknown keys."""
        names = {field.name for field in fields(cls)}
        missing, unknown = sorted(names - set(settings)), sorted(set(settings) - names)
        if missing or unknown:
            problems = [
                f"{', '.join(keys)} {what}" for keys, what in ((missing, "missing"), (unknown, "unknown")) if keys
            ]
            raise ValueError(f"the preprocessing settings do not fit this version: {'; '.join(problems)}")
        return cls(**settings)


def preprocess(image: Image, settings: Preprocessing, laterality: str | None = None) -> Image:
    """Crop, orient and resize: (H, W) of any size -> float32 `settings.image_size`, in [0, 1].

    `laterality` ("L" or "R") decides where the chest wall is only if the picture cannot tell: by convention a left
    breast is stored with the chest wall on the left.
    """
    if settings.crop:
        image = crop_to_breast(image)
    picture = _resize(image, settings.image_size)
    chest_wall = _chest_wall_side(picture) or ("right" if laterality == "R" else "left")
    if settings.side not in ("as-is", chest_wall):
        picture, chest_wall = picture[:, ::-1], settings.side
    return _pad(picture, settings.image_size, chest_wall)


def to_tensor(picture: Image, settings: Preprocessing) -> torch.Tensor:
    """(x - mean) / std of a picture (H, W), replicated over the channels: float32 (C, H, W)."""
    normalised = (np.asarray(picture, np.float32) - settings.mean) / settings.std
    return torch.from_numpy(normalised)[None].repeat(settings.in_channels, 1, 1)


def crop_to_breast(image: Image) -> Image:
    """The part of the image within `breast_box`, as a view."""
    top, bottom, left, right = breast_box(image)
    return image[top:bottom, left:right]


def breast_box(image: Image) -> Box:
    """The rows and columns of the breast: top, bottom, left, right, half-open; the whole image if there is none.

    What is brighter than the background, without the frame of a scanned film, falls into connected parts. The breast
    is the largest of them, where a part that touches neither side counts half. A glow of the film's edge above or
    below the breast is left out.
    """
    height, width = image.shape
    mask = _tissue_mask(image)
    inside = _without_frame(mask)
    part = _breast_part(_open(inside))
    if part is None:
        return 0, height, 0, width
    frame = mask & ~inside
    top, bottom = _enlarge(_rows_without_glow(part), frame.mean(axis=1), height)
    left, right = _enlarge(_extent(part, axis=0), frame.mean(axis=0), width)
    return top, bottom, left, right


def chest_wall_side(image: Image) -> Side:
    """The side on which a cropped picture has more breast, "left" if it is the same on both.

    Files may be stored mirrored, whatever their laterality says.
    """
    return _chest_wall_side(image) or "left"


def resize_with_padding(image: Image, size: tuple[int, int], side: str) -> Image:
    """Resize (H, W) to float32 `size` (height, width), aspect kept, antialiased, padded with 0.

    The padding is opposite to the chest wall, which is on `side`, and half above and half below.
    """
    return _pad(_resize(image, size), size, side)


def _resize(image: Image, size: tuple[int, int]) -> Image:
    """To the largest size within `size` that has the proportions of the image."""
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (min(most, max(1, round(n * scale))) for most, n in zip(size, image.shape, strict=True))
    resized = functional.interpolate(_as_batch(image), (height, width), mode="bilinear", antialias=True)
    return resized[0, 0].clamp_(0, 1).numpy()


def _pad(image: Image, size: tuple[int, int], side: str) -> Image:
    padded = np.zeros(size, np.float32)
    height, width = image.shape
    top, left = (size[0] - height) // 2, 0 if side == "left" else size[1] - width
    padded[top : top + height, left : left + width] = image
    return padded


def _as_batch(image: Image) -> torch.Tensor:
    """(H, W) -> (1, 1, H, W), copied only if it is mirrored, of another type or read-only."""
    return torch.from_numpy(np.require(image, np.float32, ["C", "W"]))[None, None]


def _chest_wall_side(image: Image) -> Side | None:
    mask = _tissue_mask(image)
    half = mask.shape[1] // 2
    left, right = int(mask[:, :half].sum()), int(mask[:, -half:].sum()) if half else 0
    if abs(left - right) <= UNDECIDED * max(left + right, 1):
        return None
    return "left" if left > right else "right"


def _tissue_mask(image: Image) -> NDArray[np.bool_]:
    """What is brighter than the background, on a copy of at most SEARCH_SIZE: boolean (h, w).

    Averaging over the pixels of a cell takes most of the noise away; a few rows of them are enough.
    """
    factor = max(1.0, max(image.shape) / SEARCH_SIZE)
    size = tuple(max(1, round(length / factor)) for length in image.shape)
    rows = image[:: max(1, int(factor) // 4)]
    reduced = functional.adaptive_avg_pool2d(_as_batch(rows), size)[0, 0].numpy()
    return reduced > _tissue_threshold(reduced)


def _tissue_threshold(reduced: Image) -> float:
    """Brightness that tells tissue from background.

    Otsu's threshold (IEEE Trans. SMC 9(1), 1979) alone would cut off the fatty outline of the breast, which is nearer
    to the background than to the gland. It only says what is dark. The most frequent of the dark values is the
    background, since tissue has many values, and the spread of what is darker still, where no tissue is, its noise.
    """
    counts, edges = np.histogram(reduced, bins=256, range=(0.0, 1.0))
    split = _otsu_split(counts)
    peak = int(np.argmax(counts[:split]))
    background = float(edges[peak] + edges[peak + 1]) / 2
    below = reduced[reduced <= background] - background
    noise = float(np.sqrt(np.mean(below**2))) if below.size else 0.0
    return min(float(edges[split]), background + max(CONTRAST, CONTRAST_DEVIATIONS * noise))


def _otsu_split(counts: NDArray[np.int64]) -> int:
    """The number of bins, at least 1, in the darker of two classes with the largest variance between them."""
    bins = np.arange(counts.size)
    weight, mass = np.cumsum(counts)[:-1], np.cumsum(counts * bins)[:-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = mass / weight - ((counts * bins).sum() - mass) / (counts.sum() - weight)
        variance = weight * (counts.sum() - weight) * distance**2
    return int(np.argmax(np.nan_to_num(variance))) + 1


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

    Runs of set pixels within a row are joined to the runs they overlap in the row above (union-find).
    """
    runs = list(_runs(mask))
    parent = list(range(len(runs)))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = parent[run]
        return run

    above = 0  # the first run that may still overlap the current one from the row above
    for current, (row, start, stop) in enumerate(runs):
        while runs[above][0] < row - 1 or (runs[above][0] == row - 1 and runs[above][2] <= start):
            above += 1
        other = above
        while runs[other][0] == row - 1 and runs[other][1] < stop:
            parent[root(other)] = root(current)
            other += 1
    number = {label: index for index, label in enumerate(sorted({root(run) for run in range(len(runs))}))}
    labels, areas = np.full(mask.shape, -1), np.zeros(len(number), np.int64)
    for index, (row, start, stop) in enumerate(runs):
        part = number[root(index)]
        labels[row, start:stop] = part
        areas[part] += stop - start
    return labels, areas


def _runs(mask: NDArray[np.bool_]) -> Iterator[tuple[int, int, int]]:
    """(row, start, stop) of every run of set pixels, in reading order."""
    changes = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8), axis=1)
    rows, starts = np.nonzero(changes == 1)
    _, stops = np.nonzero(changes == -1)
    return zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True)


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
    floor, ceiling = clear[0] * length // cells, -(-(clear[-1] + 1) * length // cells)
    return int(max(floor, first * length // cells - margin)), int(min(ceiling, -(-last * length // cells) + margin))
