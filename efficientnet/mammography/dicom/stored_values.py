"""Decoded words -> stored values: the bits that the header declares, without anything in the bits around them.

A stored value has BitsStored bits, and HighBit is the highest of them (PS3.5 8.1.1). Today's standard requires HighBit
to be BitsStored - 1. Older files may store values further up, and overlays in the remaining bits (PS3.5 8.1.2).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

OVERLAY_SHARE = 0.25  # of the pixels; what machines draw into unused bits (text, marks, a frame) covers less
MOST_ROUGH = 2.0  # if masking makes the steps at an overlay's edges larger by this factor, it wraps values around
OVERSHOOT = 1 / 32  # of the range of values

OVERLAY_GROUPS = range(0x6000, 0x6020, 2)


def stored_values(
    words: NDArray[Any], width: int, stored: int, high: int, signed: bool, declared_planes: int = 0
) -> tuple[NDArray[Any], tuple[str, ...]]:
    """The stored values of decoded words (..., H, W), and notes on what was removed.

    `width` is the number of bits in a word, from its codestream or else BitsAllocated. A codestream with no more bits
    than HighBit holds only the values. Overlays are masked: planes that the header declares (`declared_planes`, a bit
    mask), bits that are the same in all pixels, and bits set in few pixels, unless masking makes the image much
    rougher. Raises ValueError with the reason if other bits are used: the header is wrong, and masking would wrap
    values around.
    """
    kind = np.dtype(f"{'i' if signed else 'u'}{words.dtype.itemsize}")
    stored = min(stored, width)
    if stored < 1:
        raise ValueError("BitsStored is 0")
    shift = high - stored + 1 if stored <= high < width else 0
    values = words.view(kind.newbyteorder(words.dtype.byteorder))
    lowest = -(2 ** (stored - 1)) if signed else 0
    if not shift or not int(np.bitwise_or.reduce(values, axis=None)) & (2**shift - 1):
        values = values >> shift if shift else values
        if lies_within(values, lowest, lowest + 2**stored - 1):  # nearly always
            return values, ()

    bits = words.astype(f"u{kind.itemsize}")
    bits &= bits.dtype.type(2**width - 1)  # without the sign extension of a codestream with fewer bits
    size, ones = 8 * kind.itemsize, 2 ** (width - shift - stored) - 1
    values = ((bits >> shift) << (size - stored)).view(kind) >> (size - stored)
    if stored == width:
        return values, ()
    below, above = bits & (2**shift - 1), bits >> (shift + stored)
    planes_below, planes_above = declared_planes & (2**shift - 1), (declared_planes >> (shift + stored)) & ones
    strange_below = (below & ~below.dtype.type(planes_below)) != 0
    if strange_below.mean() > OVERLAY_SHARE and not is_same(below):  # the values are elsewhere, perhaps at the bottom
        values, _ = stored_values(words, width, stored, stored - 1, signed)
        return values, (f"HighBit {high} read as {stored - 1}",)
    strange = (above & ~above.dtype.type(planes_above)) != 0
    if signed:  # ones above a negative value are its sign extension
        strange &= ~(((above | planes_above) == ones) & (values < 0))
    strange |= strange_below
    is_sparse = strange.mean() <= OVERLAY_SHARE or (is_same(above) and is_same(below))
    whole = (bits << (size - width)).view(kind) >> (size - width + shift)
    if not is_sparse or roughness(values, whole) > MOST_ROUGH * roughness(whole, values):
        raise ValueError(f"they use more bits than the {stored} that BitsStored declares")
    return values, ("bits outside BitsStored masked, as an overlay",) if strange.any() else ()


def without_overshoot(words: NDArray[Any], stored: int, signed: bool) -> NDArray[Any]:
    """Clip words to BitsStored bits, removing the overshoot of lossy compression at steps to the ends of the range.

    If any word lies beyond the range by more than OVERSHOOT, the cause is another, and all words are left alone.
    """
    lowest = -(2 ** (stored - 1)) if signed else 0
    highest, most = lowest + 2**stored - 1, OVERSHOOT * 2**stored
    if lies_within(words, lowest, highest) or not lies_within(words, math.floor(lowest - most), int(highest + most)):
        return words
    return words.clip(lowest, highest)


def lies_within(values: NDArray[Any], lowest: int, highest: int) -> bool:
    limits = np.iinfo(values.dtype)
    enough = (lowest <= limits.min or lowest <= values.min()) and (limits.max <= highest or values.max() <= highest)
    return bool(enough)


def is_same(values: NDArray[Any]) -> bool:
    return bool((values == values.flat[0]).all())


def roughness(values: NDArray[Any], others: NDArray[Any]) -> float:
    """The sum of absolute steps between neighbours of which exactly one has the same value in `others`."""
    total, differs = 0.0, values != others
    for axis in (-1, -2):
        steps = np.diff(values.astype(np.int64), axis=axis)
        total += float(np.abs(steps[np.diff(differs, axis=axis)]).sum())
    return total


def embedded_planes(dataset: Dataset) -> int:
    """Bit mask of the overlays that the header declares within the words of the pixels (PS3.3 C.9.2)."""
    planes = 0
    for group in OVERLAY_GROUPS:
        allocated, position = (dataset.get((group, element)) for element in (0x0100, 0x0102))
        if allocated is not None and position is not None and allocated.value == dataset.BitsAllocated:
            planes |= 1 << int(position.value or 0)
    return planes
