"""Stored values -> brightness, as the header of a DICOM file specifies the display of its pixels.

The steps are those of the grayscale pipeline in DICOM PS3.3 C.11: modality transformation (C.11.1, to the units of the
machine), values of interest (C.11.2, a window or look-up table, to brightness), polarity (MONOCHROME1 is displayed
inverted). Each step maps every value independently of its neighbours. The chain is therefore computed once, in double
precision, for the 2^16 possible stored values, and applied to the image as a single look-up table.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from efficientnet.mammography.dicom.elements import all_numbers, numbers, text, whole_number
from efficientnet.mammography.dicom.look_up_tables import LookUpTable, look_up_tables

# Without a window, these percentiles of the pixels become black and white. The upper one cuts off dust and scratches, a
# thousandth of the picture, but not a cluster of calcifications or a label.
STRETCH_PERCENTILES = (0.5, 99.9)

# Undeclared padding covers a larger share of the pixels than a label, and the gap between it and the other values, as a
# share of their range, is wider than any gap within tissue.
PADDING_SHARE, PADDING_GAP = 0.03, 0.2

FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID")
WIPED_OUT = "rescale values ignored, which would erase the image"
LEAST_CONTRAST = 1 / 255  # between the brightest and the darkest possible value; with less, nothing is visible

STORED_VALUES = 2**16
MOST_COUNTED = 2**20  # pixels from which percentiles are computed


@dataclass(frozen=True)
class ShownImage:
    """The pixels of an image, and the brightness of each stored value.

    values      (H, W): uint16 stored values, counted from the lowest possible (-32768 becomes 0 if they are signed);
                or brightness itself
    brightness  float32 (65536,): of each stored value, in [0, 1], tissue bright; None if the values are brightness
    notes       what was wrong with the file and how it was read: a few words for each kind of defect, to be counted
    bright_padding  whether padding, which is black here, is not at the dark end of the values
    """

    values: NDArray[Any]
    brightness: NDArray[np.float32] | None = None
    notes: tuple[str, ...] = ()
    bright_padding: bool = False

    def numbers(self, values: NDArray[Any], out: NDArray[np.float32]) -> None:
        """Write numbers that are linear in the brightness of `values` into `out`, which has the same shape.

        `ramp` holds the numbers of black and white. Averaging these numbers averages brightness, so an image may be
        resized first. Under a linear window they are the values themselves, clipped to the window.
        """
        if self.brightness is None or self.straight_line:
            np.copyto(out, values)
            np.clip(out, min(self.ramp), max(self.ramp), out=out)
        else:
            np.take(self.brightness, values, out=out, mode="wrap")  # faster than the default, which checks bounds

    @property
    def ramp(self) -> tuple[float, float]:
        """The `numbers` of black and white."""
        return self.straight_line or (0.0, 1.0)

    @cached_property
    def straight_line(self) -> tuple[float, float] | None:
        """The values of black and white if brightness is linear between them and constant outside; None otherwise.

        Most windows are linear. Pixels then need no look-up, which halves the time from pixels to picture.
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
        around = slice(max(0, first - 1), last + 2)  # and one value on each side, where black and white are reached
        line = np.clip((np.arange(STORED_VALUES)[around] - black) * slope, 0, 1)
        is_line = np.abs(line - self.brightness[around]).max() < 1e-5
        ends = (self.brightness[:first], slope < 0), (self.brightness[last + 1 :], slope > 0)
        is_line = is_line and all((values == white).all() for values, white in ends)
        return (black, black + 1 / slope) if is_line else None


def shown_image(pixels: NDArray[Any], dataset: Dataset, window: int) -> ShownImage:
    """Convert stored integers (H, W), of any sign and byte order, to a ShownImage by their header.

    Padding gets brightness 0, as does an image with a single value.
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
    first, last = (end - lowest for end in possible_values(dataset, signed))
    units, brightness, notes = display(stored, slice(first, last + 1), dataset, window)
    if brightness is None:
        step = math.ceil(math.sqrt(values.size / MOST_COUNTED))
        counts = np.bincount(values[::step, ::step].reshape(-1), minlength=STORED_VALUES)
        brightness = stretch(units, np.where(padding, 0, counts))
    if is_inverted(dataset):
        brightness = 1 - brightness
    bright_padding = bool(padding.any()) and has_bright_padding(values, brightness, padding)
    brightness[padding] = 0
    return ShownImage(values, brightness.astype(np.float32), notes, bright_padding)


def is_constant(values: NDArray[np.uint16]) -> bool:
    few = values[::16, ::16]  # decides nearly every case
    return few.min() == few.max() and values.min() == values.max()


def possible_values(dataset: Dataset, signed: bool) -> tuple[int, int]:
    """The lowest and the highest value that BitsStored bits can hold."""
    bits = min(max(whole_number(dataset, "BitsStored", 16), 1), 16)
    lowest = -(2 ** (bits - 1)) if signed else 0
    return lowest, lowest + 2**bits - 1


def is_padding(stored: NDArray[np.int64], dataset: Dataset) -> NDArray[np.bool_]:
    """The stored values from PixelPaddingValue to PixelPaddingRangeLimit (PS3.3 C.7.5.1.1.2), as a mask.

    By the standard both have the sign of the pixels, but not in all files; they are taken modulo 2^16.
    """
    value, limit = numbers(dataset, "PixelPaddingValue"), numbers(dataset, "PixelPaddingRangeLimit")
    if not value:
        return np.zeros(stored.shape, bool)
    limits = [stored[(int(end[0]) - int(stored[0])) % STORED_VALUES] for end in (value, limit) if end]
    return (stored >= min(limits)) & (stored <= max(limits))


def has_bright_padding(values: NDArray[np.uint16], brightness: NDArray[np.float64], padding: NDArray[np.bool_]) -> bool:
    """Whether padding would be shown brighter than the darker end of the image's values.

    Averages of such padding and its surroundings are neither, so it must be recognised in the original pixels.
    """
    ends = brightness[[values.min(), values.max()]]
    return bool(brightness[padding].max() > ends.min() + LEAST_CONTRAST)


def display(
    stored: NDArray[Any], possible: slice, dataset: Dataset, window: int
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None, tuple[str, ...]]:
    """Units of stored values, their brightness before inversion (None without a usable window), and notes.

    `possible` selects the values that BitsStored bits can hold. A window or rescaling that makes all of them look alike
    cannot be intended and is ignored.
    """
    units, notes = modality_transformation(stored, possible, dataset)
    brightness, more = values_of_interest(units, possible, dataset, window)
    if brightness is None and more:
        plain, others = values_of_interest(stored.astype(np.float64), possible, dataset, window)
        if plain is not None:
            brightness, more = plain, (WIPED_OUT, *others)
    if text(dataset, "PhotometricInterpretation") != "MONOCHROME1" and is_inverted(dataset):
        more += ("MONOCHROME2 with PresentationLUTShape INVERSE, displayed inverted",)
    return units, brightness, notes + more


def header_notes(dataset: Dataset, window: int = 0) -> tuple[str, ...]:
    """Notes on what `shown_image` would ignore or read differently from the header, found without the pixels."""
    lowest, highest = possible_values(dataset, bool(whole_number(dataset, "PixelRepresentation", 0)))
    some = [lowest, lowest + 1, highest - 1, highest, *np.linspace(lowest, highest, 257).astype(int)]
    return display(np.unique(some), slice(None), dataset, window)[2]


def is_inverted(dataset: Dataset) -> bool:
    """Whether low values are displayed bright.

    PresentationLUTShape repeats the polarity: INVERSE for MONOCHROME1, IDENTITY for MONOCHROME2 (PS3.3 C.7.6.1 and
    C.11.6). Both together invert once. If they contradict each other, either one inverts; with MONOCHROME2, INVERSE
    counts because it is the last step of the pipeline.
    """
    by_shape = text(dataset, "PresentationLUTShape") == "INVERSE"
    return by_shape or text(dataset, "PhotometricInterpretation") == "MONOCHROME1"


def modality_transformation(
    stored: NDArray[Any], possible: slice, dataset: Dataset
) -> tuple[NDArray[np.float64], tuple[str, ...]]:
    """Units of stored values, by a look-up table or else by slope and intercept (PS3.3 C.11.1); and notes."""
    plain = stored.astype(np.float64)
    for table in look_up_tables(dataset, "ModalityLUTSequence", plain[possible][0], plain[possible][-1]):
        if table is not None and np.ptp(table.entries) > 0:
            return table.apply(plain), table.notes
    notes, factors = [], []
    for keyword, default in (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0)):
        value = next(iter(all_numbers(dataset, keyword)), default)
        if not math.isfinite(value) or (keyword == "RescaleSlope" and value == 0):
            notes.append(f"{keyword} {value:g} ignored")
            value = default
        factors.append(value)
    units = plain * factors[0] + factors[1]
    ends = units[possible][[0, 1, -2, -1]]
    if not np.isfinite(ends).all() or ends[0] == ends[1] or ends[2] == ends[3]:  # beyond double precision
        return plain, (*notes, WIPED_OUT)
    return units, tuple(notes)


def values_of_interest(
    values: NDArray[np.float64], possible: slice, dataset: Dataset, window: int
) -> tuple[NDArray[np.float64] | None, tuple[str, ...]]:
    """Brightness in [0, 1] of the values (PS3.3 C.11.2), or None if the file has no usable window; and notes.

    A VOI LUT Sequence takes precedence over windows, as in pydicom: a machine that writes both intends the curve. If a
    table or window cannot be used, the next one is tried.
    """
    ends = values[possible][[0, -1]]
    tables = look_up_tables(dataset, "VOILUTSequence", ends.min(), ends.max())
    centres, widths = (all_numbers(dataset, keyword) for keyword in ("WindowCenter", "WindowWidth"))
    windows = list(zip_longest(centres, widths, fillvalue=math.nan))
    function = text(dataset, "VOILUTFunction") or "LINEAR"
    ways = [*starting_at(window, tables), *starting_at(window, windows)]
    for way in ways:
        notes = () if way is ways[0] else ("unusable VOI LUT or window, the next one used",)
        if isinstance(way, LookUpTable):
            brightness = np.clip(way.apply(values) / (2**way.bits - 1), 0, 1)
            if way.bits != way.declared_bits:
                notes += (f"VOI LUT of {way.bits} bits, {way.declared_bits} by its descriptor",)
            notes += way.notes
        else:
            brightness = None if way is None else apply_window(values, *way, function)
            if function not in FUNCTIONS:
                notes += (f"VOILUTFunction {function} read as LINEAR",)
        if brightness is not None and has_contrast(brightness[possible]):
            return brightness, notes
    return None, ("no usable VOI LUT or window, brightness stretched",) if ways else ()


def has_contrast(brightness: NDArray[np.float64]) -> bool:
    """Whether the possible values differ in brightness, even without the lowest and the highest of them."""
    return bool(np.ptp(brightness[1:-1] if brightness.size > 3 else brightness) > LEAST_CONTRAST)


def starting_at(place: int, ways: list[Any]) -> list[Any]:
    """Reorder: the item at `place`, or else the last, then those after it, then those before it, nearest first."""
    place = min(place, max(len(ways) - 1, 0))
    return [*ways[place:], *reversed(ways[:place])]


def apply_window(
    values: NDArray[np.float64], centre: float, width: float, function: str = "LINEAR"
) -> NDArray[np.float64] | None:
    """Apply a VOI LUT function of PS3.3 C.11.2.1.2 or C.11.2.1.3: values of any range -> [0, 1].

    Any other function name counts as LINEAR. None if centre or width is not finite, or if the standard forbids the
    width (below 1 for LINEAR, 0 or less otherwise).
    """
    function = function.strip().upper()
    if not (math.isfinite(centre) and math.isfinite(width)):
        return None
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
    """Brightness of the values, stretched between STRETCH_PERCENTILES of an image that has each value `counts` times.

    If the highest stored value is frequent and far above all others, it is padding that the header does not declare. It
    is left out, because it would make everything else dark.
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
