"""The tables of modality and VOI LUT sequences (PS3.3 C.11.1.1 and C.11.2.1.1), as files hold them.

Descriptors are often wrong about the width of the entries and about the sign of the first value.
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
    """Entries (n,), the value that is mapped to the first of them, and the descriptor's bits per entry."""

    entries: NDArray[np.float64]
    first: int
    declared_bits: int
    notes: tuple[str, ...] = ()

    @property
    def bits(self) -> int:
        """Bits per entry: those of the descriptor if the largest entry needs all or all but one of them."""
        needed = int(self.entries.max()).bit_length()
        if self.declared_bits - 1 <= needed <= self.declared_bits:
            return self.declared_bits
        return next(depth for depth in DEPTHS if depth >= needed)

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Values below `first` get the first entry, values beyond the table the last."""
        places = np.clip(np.floor(values) - self.first, 0, self.entries.size - 1)
        return self.entries[places.astype(np.int64)]


def look_up_tables(dataset: Dataset, keyword: str, lowest: float, highest: float) -> list[LookUpTable | None]:
    """The tables of a sequence, for inputs from `lowest` to `highest`; None for each without descriptor or data."""
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

    # The VR of a descriptor, US or SS, is often not that of the inputs. Among equals, the one that is written counts.
    likeliest = max((first, first - 2**16, first + 2**16), key=covered)
    notes = () if likeliest == first else ("first value of a look-up table read with the opposite sign",)
    return LookUpTable(entries, likeliest, bits, notes)


def table_entries(item: Dataset, dataset: Dataset, count: int, bits: int) -> NDArray[np.float64]:
    """LUTData, which is numbers or bytes, with one or two bytes an entry; an empty array if there is none."""
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
