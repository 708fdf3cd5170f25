"""The search space for a baseline: MnasNet's factorised hierarchical space around a small baseline. No torch here.

M. Tan et al., "MnasNet: Platform-Aware Neural Architecture Search for Mobile", CVPR 2019 (arXiv 1807.11626, section
4.1): each stage chooses its operator, kernel, squeeze-excitation, skip, channels and layers on its own, and all layers
of a stage are alike. EfficientNet-B0 was found in such a space (section 4 of its paper). MnasNet's space also has a
depthwise separable convolution and a skip through pooling; ours has not. Stem, head, strides, activations and image
size stay as in the baseline.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from efficientnet.complexity import complexity
from efficientnet.scaling import Baseline, Stage, round_channels


@dataclass(frozen=True)
class Choice:
    """What the search chooses for one stage: fields of `Stage`, with its values.

    A plain convolution has no expansion (1) and no squeeze-excitation (0).
    """

    operator: str  # "mbconv" or "plain"
    kernel_size: int  # 3 or 5
    expansion: int  # 1, 3 or 6
    squeeze_ratio: float  # 0.25 or 0
    skip: bool
    out_channels: int  # about 0.75, 1 or 1.25 times the baseline's
    layers: int  # the baseline's, or one less or more


ATTRIBUTES = tuple(field.name for field in fields(Choice))
# A network of the space: the choice of each stage between stem and head.
Encoding = tuple[Choice, ...]
# About a second.
MOST_DRAWS = 10_000


def stage_choices(stage: Stage) -> tuple[Choice, ...]:
    """All choices for a stage of the baseline, each once.

    Channels are rounded as in scaling, so factors that round to the same number are one choice: 8 channels have 8 and
    16, and 16 have 16 and 24. The baseline's own channels are not rounded.
    """
    channels = sorted({stage.out_channels, *(round_channels(stage.out_channels * by) for by in (0.75, 1.25))})
    layers = sorted({max(1, stage.layers + more) for more in (-1, 0, 1)})
    return tuple(
        Choice(*values)
        for operator, expansions, ratios in (("mbconv", (1, 3, 6), (0.25, 0)), ("plain", (1,), (0,)))
        for values in itertools.product([operator], (3, 5), expansions, ratios, (True, False), channels, layers)
    )


def idle(choice: Choice, stage: Stage, in_channels: int) -> bool:
    """Whether the choice is without a skip where none is possible: in one layer that changes the shape."""
    return not choice.skip and choice.layers == 1 and (stage.stride > 1 or choice.out_channels != in_channels)


def variations(choice: Choice, attribute: str, choices: Sequence[Choice]) -> list[Choice]:
    """The choices that differ in this attribute alone; of another operator, with any expansion and squeeze ratio."""
    free = ("operator", "expansion", "squeeze_ratio") if attribute == "operator" else (attribute,)
    same = [name for name in ATTRIBUTES if name not in free]
    return [
        other
        for other in choices
        if getattr(other, attribute) != getattr(choice, attribute)
        and all(getattr(other, name) == getattr(choice, name) for name in same)
    ]


def as_text(value: Any) -> str:
    """JSON to compare exactly, where True and 1.0 do not equal 1."""
    return json.dumps(value, sort_keys=True)


class SearchSpace:
    """The networks around a baseline. Each has one `Encoding`, and two encodings build two networks.

    baseline: a conv stem, stages that are choices of the space (B0's are, and `scale` keeps them so), and a head.
    most: `random` and `mutate` return only networks of at most this multiple, at least 1, of the baseline's
        multiply-adds at its image size. Plain 5x5 convolutions reach six times the baseline; the objective would reject
        such networks, but only after their training. 3 % of all networks around B0 are above 2, and 20 % around B0 of a
        quarter of its width. `size` and `read` ignore this limit.

    Raises ValueError for another baseline or a smaller `most`.
    """

    def __init__(self, baseline: Baseline, most: float = 2.0, classes: int = 1000) -> None:
        if not most >= 1:
            raise ValueError(f"most must be at least 1, or the baseline itself is too large, not {most}")
        operators = [stage.operator for stage in baseline.stages]
        if len(operators) < 3 or operators[0] != "conv" or operators[-1] != "head":
            raise ValueError(f"a search needs a baseline of a conv stem, MBConv stages and a head, not {baseline.name}")
        self.baseline, self.classes = baseline, classes
        self.most_multiply_adds = most * self.multiply_adds(baseline)
        self.choices = tuple(stage_choices(stage) for stage in baseline.stages[1:-1])
        self.by_text = [{as_text(vars(choice)): choice for choice in choices} for choices in self.choices]
        self.encode(baseline)  # raises if the baseline is outside

    @property
    def size(self) -> int:
        """The number of networks, of any multiply-adds."""
        ways = Counter({self.baseline.stages[0].out_channels: 1})  # networks up to here, by the channels that leave
        for stage, choices in zip(self.baseline.stages[1:], self.choices, strict=False):
            longer: Counter[int] = Counter()
            for entering, choice in itertools.product(ways, choices):
                longer[choice.out_channels] += ways[entering] * (not idle(choice, stage, entering))
            ways = longer
        return ways.total()

    def random(self, generator: np.random.Generator) -> Encoding:
        """A network, all within `most` being equally likely.

        By rejection: with `most` = 2 it takes 3 draws around B0, and 5 around B0 of half its width and depth; with 1,
        up to 30. Raises ValueError after `MOST_DRAWS`, when hardly any network is as small as the baseline.
        """
        for _ in range(MOST_DRAWS):
            encoding = tuple(choices[generator.integers(len(choices))] for choices in self.choices)
            if self.allows(encoding):
                return encoding
        raise ValueError(
            f"none of {MOST_DRAWS:,} random networks has at most {self.most_multiply_adds:,.0f} multiply-adds: "
            "raise most"
        )

    def mutate(self, encoding: Encoding, generator: np.random.Generator) -> Encoding:
        """Another network, which differs in one attribute of one stage, both drawn at random.

        A new operator comes with any expansion and squeeze ratio. A change that would make the missing skip of a stage
        `idle` is not among them. Raises ValueError if no such network is within `most`.
        """
        moves = list(itertools.product(range(len(encoding)), ATTRIBUTES))
        for place, attribute in (moves[index] for index in generator.permutation(len(moves))):
            others = variations(encoding[place], attribute, self.choices[place])
            for other in (others[index] for index in generator.permutation(len(others))):
                mutated = (*encoding[:place], other, *encoding[place + 1 :])
                if self.allows(mutated):
                    return mutated
        raise ValueError(f"no mutation of the network has at most {self.most_multiply_adds:,.0f} multiply-adds")

    def build(self, encoding: Encoding, name: str) -> Baseline:
        """The network as a baseline to train and to scale."""
        stem, *body, head = self.baseline.stages
        stages = [stem]
        for stage, choice in zip(body, encoding, strict=True):
            stages.append(replace(stage, in_channels=stages[-1].out_channels, **vars(choice)))
        stages.append(replace(head, in_channels=stages[-1].out_channels))
        return Baseline(name, tuple(stages), self.baseline.image_size, name)

    def encode(self, baseline: Baseline) -> Encoding:
        """The inverse of `build`; ValueError if the baseline is not in the space."""
        rows = [{name: getattr(stage, name) for name in ATTRIBUTES} for stage in baseline.stages[1:-1]]
        encoding = self.read(rows)
        if self.build(encoding, baseline.name).stages != baseline.stages:
            raise ValueError(
                f"{baseline.name} is not in the search space of {self.baseline.name}: stem, head, strides and "
                "activations must be the same"
            )
        return encoding

    def read(self, value: Any) -> Encoding:
        """An encoding from JSON, as `write` makes it; ValueError in one line for anything else."""
        if not isinstance(value, list) or len(value) != len(self.choices):
            raise ValueError(f"a network of this search space is a list of {len(self.choices)} stages, not {value!r}")
        encoding = []
        for number, (row, by_text) in enumerate(zip(value, self.by_text, strict=True), 1):
            text = as_text(row)
            if text not in by_text:
                raise ValueError(f"stage {number} is not a choice of this search space: {text}")
            encoding.append(by_text[text])
        for number in self.idle_stages(encoding):
            raise ValueError(f"stage {number} is without a skip, but its one layer changes the shape: set skip to true")
        return tuple(encoding)

    def idle_stages(self, encoding: Sequence[Choice]) -> Iterator[int]:
        """Numbers, from 1, of the stages whose missing skip makes no difference (`idle`)."""
        in_channels = self.baseline.stages[0].out_channels
        for number, choice in enumerate(encoding, 1):
            if idle(choice, self.baseline.stages[number], in_channels):
                yield number
            in_channels = choice.out_channels

    def allows(self, encoding: Encoding) -> bool:
        """Whether the choices encode a network, and it is within `most`."""
        if any(self.idle_stages(encoding)):
            return False
        return self.multiply_adds(self.build(encoding, "")) <= self.most_multiply_adds

    def multiply_adds(self, baseline: Baseline) -> int:
        """Of the baseline, with the classifier for the classes."""
        return complexity(baseline.stages, baseline.image_size, self.classes).multiply_adds


def write(encoding: Encoding) -> list[dict[str, Any]]:
    """The encoding as plain values for JSON: a dictionary for each stage."""
    return [dict(vars(choice)) for choice in encoding]
