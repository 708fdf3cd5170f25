"""Look-up tables from modality and VOI LUT sequences (PS3.3 C.11.1.1 and C.11.2.1.1).

Descriptors are often wrong about the width of the entries and the sign of the first value; both are corrected.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from efficientnet.mammography.dicom.elements import numbers

DEPTHS = (8, 10, 12, 14, 16)  # bits per entry that machines write


@dataclass(frozen=True)
class LookUpTable:
    """Entries (n,), the value that maps to the first entry, and the bits per entry that the descriptor declares."""

    entries: NDArray[np.float64]
    first: int
    declared_bits: int
    notes: tuple[str, ...] = ()

    @property
    def bits(self) -> int:
        """Bits per entry: as declared if the largest entry needs all of them or one less, else the least of DEPTHS."""
        needed = int(self.entries.max()).bit_length()
        if self.declared_bits - 1 <= needed <= self.declared_bits:
            return self.declared_bits
        return next(depth for depth in DEPTHS if depth >= needed)

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map values to entries: values below `first` get the first entry, values beyond the table the last."""
        places = np.clip(np.floor(values) - self.first, 0, self.entries.size - 1)
        return self.entries[places.astype(np.int64)]


def look_up_tables(dataset: Dataset, keyword: str, lowest: float, highest: float) -> list[LookUpTable | None]:
    """The tables of a sequence, for inputs in [`lowest`, `highest`]; None for each without valid descriptor or data."""
    return [look_up_table(item, dataset, lowest, highest) for item in dataset.get(keyword) or ()]


def look_up_table(item: Dataset, dataset: Dataset, lowest: float, highest: float) -> LookUpTable | None:
    descriptor = numbers(item, "LUTDescriptor")
    if len(descriptor) != 3:
        return None
    count, first, bits = int(descriptor[0]) % 2**16 or 2**16, int(descriptor[1]), int(descriptor[2])
    try:
        entries = table_entries(item, dataset, count, bits)
    except (TypeError, ValueError, OverflowError):
        return None
    if entries.size == 0:
        return None

    def covered(start: int) -> float:
        return min(highest, start + entries.size - 1) - max(lowest, start)

    # A descriptor's VR, US or SS, often has another sign than the inputs. In a tie, the value as written wins.
    likeliest = max((first, first - 2**16, first + 2**16), key=covered)
    notes = () if likeliest == first else ("first value of a look-up table read with the opposite sign",)
    return LookUpTable(entries, likeliest, bits, notes)


def table_entries(item: Dataset, dataset: Dataset, count: int, bits: int) -> NDArray[np.float64]:
    """The entries of LUTData, stored as numbers or as bytes, one or two bytes per entry; empty without LUTData."""
    data = item.get("LUTData")
    if data is None:
        return np.empty(0)
    if isinstance(data, bytes):
        little_endian = dataset.file_meta.TransferSyntaxUID.is_little_endian
        words = np.frombuffer(data + bytes(len(data) % 2), "<u2" if little_endian else ">u2")
    else:
        words = np.atleast_1d(np.asarray(data, np.int64) % 2**16)
    # Entries of 8 bits may be packed two to a word, the first in the lower byte.
    if 2 * words.size - count in (0, 1) or (bits <= 8 and words.size < count):
        words = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else words.astype("<u2").view(np.uint8)
    return words[:count].astype(np.float64)
