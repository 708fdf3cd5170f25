"""What the network learns from a table: 0/1 labels, categories and numbers, and the outputs that predict them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["binary", "category", "number"]

# Columns that are not 0/1 labels; a name that is not listed is one.
KINDS: Mapping[str, Kind] = {
    **dict.fromkeys(("BIRADS", "density", "view", "site_id", "machine_id"), "category"),
    "age": "number",
}


@dataclass(frozen=True)
class Target:
    """One target. Its labels are floats, NaN where the table has no value.

    binary    0 or 1; one logit
    category  index of the text in `values`; a logit for each of them
    number    (x - mean) / std; one output, an estimate of the label
    """

    name: str
    kind: Kind = "binary"
    values: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 1.0

    @classmethod
    def of_column(cls, name: str, kind: Kind, cells: Sequence[Any]) -> Target:
        """The target of this name and kind for the cells of a column: its categories, or its mean and deviation."""
        if kind == "binary":
            return cls(name)
        known = [cell for cell in cells if cell is not None]
        if kind == "category":
            return cls(name, kind, in_order(set(known)))
        mean, std = (float(np.mean(known)), float(np.std(known))) if known else (0.0, 0.0)
        return cls(name, kind, mean=mean, std=std or 1.0)

    @property
    def outputs(self) -> int:
        """The number of the network's outputs for this target."""
        return len(self.values) if self.kind == "category" else 1

    def labels(self, cells: Sequence[Any]) -> list[float]:
        """The labels of the parsed cells of a column; None, and a text that is not among `values`, become NaN."""
        if self.kind == "category":
            index = {text: float(place) for place, text in enumerate(self.values)}
            return [index.get(cell, math.nan) for cell in cells]
        return [math.nan if cell is None else (cell - self.mean) / self.std for cell in cells]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"values": list(self.values)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Target:
        """The target that `to_dict` described. Raises TypeError or KeyError for other content."""
        return cls(**{**content, "values": tuple(content["values"])})


def in_order(texts: set[str]) -> tuple[str, ...]:
    """The texts in order of their numbers, if all are numbers; otherwise in alphabetical order."""
    if all(text.isascii() and text.isdecimal() for text in texts):
        return tuple(sorted(texts, key=lambda text: (int(text), text)))
    return tuple(sorted(texts))


def output_slices(targets: Sequence[Target]) -> list[slice]:
    """The outputs of each target. They are side by side, in order, so that output 0 is the scored target's logit."""
    ends = np.cumsum([target.outputs for target in targets]).tolist()
    return [slice(end - target.outputs, end) for target, end in zip(targets, ends, strict=True)]


def output_probabilities(logits: NDArray[Any], targets: Sequence[Target]) -> NDArray[np.float64]:
    """Probabilities (n, O) of logits (n, O): sigmoid, or softmax for each category target; numbers are unchanged."""
    values = np.array(logits, dtype=np.float64)
    for target, place in zip(targets, output_slices(targets), strict=True):
        if target.kind == "binary":
            values[:, place] = sigmoid(values[:, place])
        elif target.kind == "category":
            exponentials = np.exp(values[:, place] - values[:, place].max(1, keepdims=True))
            values[:, place] = exponentials / exponentials.sum(1, keepdims=True)
    return values


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    return 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))
