"""Header elements as numbers and text; malformed values raise no error."""

from __future__ import annotations

import math

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """The finite values of a numeric element; an empty list if it is absent, empty or not a number."""
    return [number for number in all_numbers(dataset, keyword) if math.isfinite(number)]


def all_numbers(dataset: Dataset, keyword: str) -> list[float]:
    """The values of a numeric element, NaN for each that is not a number; an empty list if it is absent or empty."""
    return [as_number(value) for value in values(dataset, keyword)]


def whole_number(dataset: Dataset, keyword: str, default: int) -> int:
    """The first finite value of a numeric element, or the default."""
    return int(next(iter(numbers(dataset, keyword)), default))


def text(dataset: Dataset, keyword: str) -> str:
    """The first value of an element in upper case; an empty string if it is absent."""
    return str(next(iter(values(dataset, keyword)), None) or "").strip().upper()


def values(dataset: Dataset, keyword: str) -> list[object]:
    """The values of an element; an empty list if it is absent or empty, and [None] if pydicom cannot convert it."""
    try:
        value = dataset.get(keyword)
    except (TypeError, ValueError):
        return [None]
    if isinstance(value, MultiValue | list):
        return list(value)
    return [] if value is None or value == "" else [value]


def as_number(value: object) -> float:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan
