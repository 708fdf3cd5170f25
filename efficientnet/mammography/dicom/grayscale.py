"""Stored values -> brightness: how a DICOM file means its pixels to be displayed.

The steps are those of the grayscale pipeline in DICOM PS3.3 C.11: modality transformation (C.11.1, to the units of the
machine), values of interest (C.11.2, a window or look-up table, to brightness), polarity (MONOCHROME1 is displayed
inverted). Each step maps a value to a value and looks at no neighbour, so the chain is computed once, in double
precision, for the 2^16 possible stored values, and applied to the image as a single look-up table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

# Without a window, the pixels are stretched from the first percentile (black) to the second (white). The upper one
# excludes dust and scratches, a thousandth of the picture, but not a cluster of calcifications and not a label.
STRETCH_PERCENTILES = (0.5, 99.9)

# Share of the pixels, and gap as a share of the range of values: undeclared padding is larger than a label, and its gap
# wider than any within tissue.
PADDING_SHARE, PADDING_GAP = 0.03, 0.2

STORED_VALUES = 2**16
MOST_COUNTED = 2**20  # pixels from which percentiles are computed


@dataclass(frozen=True)
class ShownImage:
    """The pixels of an image, and the brightness of each stored value.

    values      (H, W): stored values in uint16, counted from the lowest possible (-32768 of signed ones is 0);
                or brightness itself
    brightness  float32 (65536,): of each stored value, in [0, 1], tissue bright; None if the values are brightness
    """

    values: NDArray[Any]
    brightness: NDArray[np.float32] | None = None

    def numbers(self, values: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Write numbers that are linear in the brightness of `values` into `out`, of the same shape.

        `ramp` has the numbers of black and of white. Averages of such numbers are averages of brightness, so resizing
        may come first. Under a straight window they are the values themselves, limited to the window.
        """
        if self.brightness is None or self.straight_line:
            np.copyto(out, values)
            np.clip(out, min(self.ramp), max(self.ramp), out=out)
        else:
            np.take(self.brightness, values, out=out, mode="wrap")  # faster than the default, which checks bounds

    @property
    def ramp(self) -> tuple[float, float]:
        """The `numbers` of black and of white."""
        return self.straight_line or (0.0, 1.0)

    @cached_property
    def straight_line(self) -> tuple[float, float] | None:
        """The values of black and of white if brightness is a straight line between them and constant outside.

        Most windows are. The pixels then need no look-up, which halves the time from pixels to picture.
        """
        if self.brightness is None:
            return None
        between = np.flatnonzero((self.brightness > 0) & (self.brightness < 1))
        if between.size < 2:
            return None
        first, last = int(between[0]), int(between[-1])
        slope = (float(self.brightness[last]) - float(self.brightness[first])) / (last - first)
        if slope == 0:
            return None
        black = first - float(self.brightness[first]) / slope
        around = slice(max(0, first - 1), last + 2)  # with a value on each side, where black and white are reached
        line = np.clip((np.arange(STORED_VALUES)[around] - black) * slope, 0, 1)
        is_line = np.abs(line - self.brightness[around]).max() < 1e-5
        ends = (self.brightness[:first], slope < 0), (self.brightness[last + 1 :], slope > 0)
        is_line = is_line and all((values == white).all() for values, white in ends)
        return (black, black + 1 / slope) if is_line else None


def shown_image(pixels: NDArray[Any], dataset: Dataset, window: int) -> ShownImage:
    """Stored integers (H, W) of any sign and byte order, and the header -> a ShownImage.

    Padding gets brightness 0, and so does an image with a single value.
    """
    signed = pixels.dtype.kind == "i"
    values = pixels.astype(np.uint16, copy=False)  # a signed value v becomes v modulo 2^16
    lowest = -STORED_VALUES // 2 if signed else 0
    if signed:
        values = values ^ np.uint16(STORED_VALUES // 2)  # and now v + 2^15
    if is_constant(values):
        return ShownImage(values, np.zeros(STORED_VALUES, np.float32))
    stored = np.arange(lowest, lowest + STORED_VALUES)
    padding = is_padding(stored, dataset)
    units = modality_transformation(stored, dataset)
    brightness = values_of_interest(units, dataset, window)
    if brightness is None:
        step = math.ceil(math.sqrt(values.size / MOST_COUNTED))
        counts = np.bincount(values[::step, ::step].reshape(-1), minlength=STORED_VALUES)
        brightness = stretch(units, np.where(padding, 0, counts))
    # Only the photometric interpretation counts: a PresentationLUTShape of INVERSE repeats it (PS3.3 C.8.11.3.1 pairs
    # it with MONOCHROME1), and inverting for both would undo it.
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        brightness = 1 - brightness
    brightness[padding] = 0
    return ShownImage(values, brightness.astype(np.float32))


def is_constant(values: NDArray[np.uint16]) -> bool:
    few = values[::16, ::16]  # enough in nearly every case
    return few.min() == few.max() and values.min() == values.max()


def is_padding(stored: NDArray[np.int64], dataset: Dataset) -> NDArray[np.bool_]:
    """The stored values from PixelPaddingValue to PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2), as a mask.

    Both have the sign of the pixels by the standard, but not in all files.
    """
    value, limit = numbers(dataset, "PixelPaddingValue"), numbers(dataset, "PixelPaddingRangeLimit")
    if not value:
        return np.zeros(stored.shape, bool)
    limits = [stored[(int(end[0]) - int(stored[0])) % STORED_VALUES] for end in (value, limit) if end]
    return (stored >= min(limits)) & (stored <= max(limits))


def modality_transformation(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.float64]:
    """PS3.3 C.11.1: a look-up table if there is one, otherwise slope and intercept."""
    for item in dataset.get("ModalityLUTSequence") or ():
        table, first, _ = lookup_table(item, dataset)
        if table.size:
            return apply_table(stored.astype(np.float64), table, first)
    slope = next(iter(numbers(dataset, "RescaleSlope")), 1.0)
    intercept = next(iter(numbers(dataset, "RescaleIntercept")), 0.0)
    return stored * slope + intercept


def values_of_interest(values: NDArray[np.float64], dataset: Dataset, window: int) -> NDArray[np.float64] | None:
    """PS3.3 C.11.2: brightness in [0, 1] of the values, or None where the file has no usable window.

    A VOI LUT Sequence takes precedence over windows, as in pydicom: a machine that writes both means the curve.
    """
    tables = [lookup_table(item, dataset) for item in dataset.get("VOILUTSequence") or ()]
    if tables:
        table, first, bits = tables[min(window, len(tables) - 1)]
        return np.clip(apply_table(values, table, first) / (2**bits - 1), 0, 1) if table.size else None
    pairs = list(zip(numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth"), strict=False))
    if not pairs:
        return None
    centre, width = pairs[min(window, len(pairs) - 1)]
    return apply_window(values, centre, width, dataset.get("VOILUTFunction") or "LINEAR")


def apply_window(
    values: NDArray[np.float64], centre: float, width: float, function: str = "LINEAR"
) -> NDArray[np.float64] | None:
    """The VOI LUT functions of PS3.3 C.11.2.1.2 and C.11.2.1.3, from values of any range to [0, 1].

    Any other function name counts as LINEAR. None if the standard forbids the width: below 1 for LINEAR, 0 or less
    otherwise.
    """
    function = function.strip().upper()
    if function == "SIGMOID":
        if width <= 0:
            return None
        return 1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -700, 700)))  # exp(710) is infinite
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1) if width > 0 else None
    if width < 1:
        return None
    if width == 1:  # a step from black to white
        return (values > centre - 0.5).astype(np.float64)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)


def stretch(values: NDArray[np.float64], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Stretch from black to white at STRETCH_PERCENTILES of an image that has each value `counts` times.

    If the highest stored value is frequent and far above all others, it is padding that the header does not declare. It
    is left out, or it would make everything else dark.
    """
    present = np.flatnonzero(counts)
    is_far = present.size > 2 and present[-1] - present[-2] > PADDING_GAP * (present[-1] - present[0])
    if is_far and counts[present[-1]] > PADDING_SHARE * counts.sum():
        counts = np.where(np.arange(counts.size) == present[-1], 0, counts)
    order = np.argsort(values, kind="stable")
    order = order[counts[order] > 0]
    if order.size == 0:
        return np.zeros_like(values)
    share = np.cumsum(counts[order]) / counts.sum()
    low, high = values[order[np.searchsorted(share, np.array(STRETCH_PERCENTILES) / 100)]]
    if low == high:  # nearly the whole image is one value: show the others
        low, high = values[order[0]], values[order[-1]]
    if low == high:
        return np.zeros_like(values)
    return np.clip((values - low) / (high - low), 0, 1)


def lookup_table(item: Dataset, dataset: Dataset) -> tuple[NDArray[np.float64], int, int]:
    """Entries, first mapped value and bits per entry of an item of a LUT sequence (PS3.3 C.11.1.1, C.11.2.1.1).

    The table is empty if the item lacks its descriptor or data.
    """
    descriptor, data = item.get("LUTDescriptor"), item.get("LUTData")
    if descriptor is None or data is None or len(descriptor) != 3:
        return np.empty(0), 0, 16
    entries, first, bits = int(descriptor[0]) or 2**16, int(descriptor[1]), int(descriptor[2])
    if isinstance(data, bytes):
        little_endian = dataset.file_meta.TransferSyntaxUID.is_little_endian
        # Entries of 8 bits are packed two to a word, the first in the lower byte.
        kind = "u1" if bits <= 8 and len(data) < 2 * entries else "<u2" if little_endian else ">u2"
        data = np.frombuffer(data, kind, count=len(data) // np.dtype(kind).itemsize)
    table = np.atleast_1d(np.asarray(data, np.uint16))
    if bits <= 8 and table.size < entries:
        table = table.astype("<u2").view(np.uint8)
    return table[:entries].astype(np.float64), first, bits


def apply_table(values: NDArray[np.float64], table: NDArray[np.float64], first: int) -> NDArray[np.float64]:
    """Apply the table; values below `first` get the first entry, values beyond the table the last."""
    return table[np.clip(np.floor(values) - first, 0, table.size - 1).astype(np.int64)]


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """The finite values of a numeric element; an empty list if it is absent, empty or not a number."""
    try:
        value = dataset.get(keyword)
        values = [] if value is None else value if isinstance(value, MultiValue) else [value]
        return [float(number) for number in values if math.isfinite(float(number))]
    except (TypeError, ValueError):
        return []
