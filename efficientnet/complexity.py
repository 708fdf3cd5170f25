"""Parameters, multiply-adds and activations of an architecture, counted from its stages alone.

Conventions, which decide every published figure:
- a *multiply-add* (MAC) is one multiplication with its addition.  The paper says "FLOPs" for these; elsewhere a MAC
  is two FLOPs.  Convolutions and the classifier are counted; batch norm (folded in deployment), activations,
  pooling and the gate's multiplication are not.
- an *activation* is one output element of a convolution or of the classifier (as pycls counts them): what memory
  and bandwidth scale with.
- parameters are the trainable ones: batch norm has two a channel, its running statistics are not counted.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from efficientnet.scaling import (
    ALPHA,
    BETA,
    GAMMA,
    Baseline,
    Coefficients,
    Stage,
    compound_coefficients,
    flops_growth,
    scale,
    scaled_image_size,
)


@dataclass(frozen=True)
class Complexity:
    """Counts for one image; they add up."""

    parameters: int = 0
    multiply_adds: int = 0
    activations: int = 0

    def __add__(self, other: Complexity) -> Complexity:
        return Complexity(
            self.parameters + other.parameters,
            self.multiply_adds + other.multiply_adds,
            self.activations + other.activations,
        )


@dataclass(frozen=True)
class StageComplexity:
    """A stage, the (height, width) of what enters it, and its counts."""

    stage: Stage
    input_resolution: tuple[int, int]
    counts: Complexity


def squeezed_channels(in_channels: int, squeeze_ratio: float) -> int:
    """Width of the squeeze-excitation bottleneck: from the channels that enter the *block*, at least 1.

    The released code multiplies the block's input filters by 0.25, not the expanded ones.
    """
    return max(1, int(in_channels * squeeze_ratio))


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    output: tuple[int, int],
    groups: int = 1,
    bias: bool = False,
    norm: bool = True,
) -> Complexity:
    """A convolution with `output` (height, width), with its bias or the batch norm behind it."""
    weights = kernel_size**2 * (in_channels // groups) * out_channels
    positions = output[0] * output[1]
    per_channel = 2 * norm + bias
    return Complexity(weights + per_channel * out_channels, weights * positions, out_channels * positions)


def mbconv(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    expansion: int,
    squeeze_ratio: float,
    entering: tuple[int, int],
    leaving: tuple[int, int],
) -> Complexity:
    """Expansion, depthwise convolution, squeeze-excitation, projection: the order of `layers.MBConv`."""
    expanded = in_channels * expansion
    total = Complexity()
    if expansion != 1:
        total += convolution(in_channels, expanded, 1, entering)
    total += convolution(expanded, expanded, kernel_size, leaving, groups=expanded)
    if squeeze_ratio:
        squeezed = squeezed_channels(in_channels, squeeze_ratio)
        total += convolution(expanded, squeezed, 1, (1, 1), bias=True, norm=False)
        total += convolution(squeezed, expanded, 1, (1, 1), bias=True, norm=False)
    return total + convolution(expanded, out_channels, 1, leaving)


def stage_complexities(
    stages: Sequence[Stage],
    image_size: int | tuple[int, int],
    num_classes: int = 1000,
    in_channels: int | None = None,
) -> tuple[StageComplexity, ...]:
    """Each stage with its input resolution and its counts, for one image of `image_size` pixels (height, width).

    A strided layer maps n pixels to ceil(n / stride), with SAME padding as with the symmetric one.
    in_channels: the image's channels where they are not those of the first stage.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    result = []
    for number, stage in enumerate(stages):
        entering, counts = size, Complexity()
        for channels, stride in stage.block_inputs():
            leaving = (-(-size[0] // stride), -(-size[1] // stride))
            if stage.operator == "mbconv":
                counts += mbconv(
                    channels,
                    stage.out_channels,
                    stage.kernel_size,
                    stage.expansion,
                    stage.squeeze_ratio,
                    size,
                    leaving,
                )
            else:
                if number == 0 and in_channels is not None:
                    channels = in_channels
                counts += convolution(channels, stage.out_channels, stage.kernel_size, leaving)
            size = leaving
        if stage.operator == "head":
            counts += convolution(stage.out_channels, num_classes, 1, (1, 1), bias=True, norm=False)
        result.append(StageComplexity(stage, entering, counts))
    return tuple(result)


def complexity(
    stages: Sequence[Stage],
    image_size: int | tuple[int, int],
    num_classes: int = 1000,
    in_channels: int | None = None,
) -> Complexity:
    """The whole network's counts for one image: the sum of `stage_complexities`."""
    rows = stage_complexities(stages, image_size, num_classes, in_channels)
    return sum((row.counts for row in rows), Complexity())


def scaled_complexity(baseline: Baseline, coefficients: Coefficients) -> Complexity:
    """What the baseline costs when scaled by `coefficients`, resolution included."""
    return complexity(scale(baseline, coefficients), scaled_image_size(baseline, coefficients))


def largest_coefficients(
    baseline: Baseline,
    multiply_adds: float | None = None,
    parameters: float | None = None,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
    precision: float = 1e-4,
) -> Coefficients:
    """Equation 3 turned around: the coefficients at the largest phi whose architecture keeps within the budgets.

    Counts grow with phi in steps, since channels, layers and pixels are rounded; phi is found by bisection to
    `precision`, from below, so that the budget is never exceeded.

    Raises ValueError where no budget is given, where even the baseline (phi = 0) exceeds it, or where nothing grows.
    """
    if multiply_adds is None and parameters is None:
        raise ValueError("name a budget of multiply-adds, of parameters, or both")

    def within(phi: float) -> bool:
        coefficients = compound_coefficients(phi, alpha, beta, gamma)
        counts = scaled_complexity(baseline, coefficients)
        return (multiply_adds is None or counts.multiply_adds <= multiply_adds) and (
            parameters is None or counts.parameters <= parameters
        )

    if not within(0):
        least = complexity(baseline.stages, baseline.image_size)
        raise ValueError(
            f"the budget is below the baseline itself, which has {least.multiply_adds:,} multiply-adds and "
            f"{least.parameters:,} parameters"
        )
    low, high = 0.0, 1.0
    while within(high):
        if high > 64:
            raise ValueError(f"alpha {alpha}, beta {beta}, gamma {gamma} do not reach the budget at any sensible phi")
        low, high = high, 2 * high
    while high - low > precision:
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) else (low, middle)
    return compound_coefficients(low, alpha, beta, gamma)


@dataclass(frozen=True)
class Candidate:
    """One (alpha, beta, gamma) of STEP 1 at phi = 1, with what its architecture really costs after rounding."""

    coefficients: Coefficients
    product: float  # alpha * beta^2 * gamma^2, ideally 2
    counts: Complexity
    growth: float  # multiply-adds over the baseline's, ideally 2


def grid_search(baseline: Baseline, step: float = 0.05, tolerance: float = 0.1) -> list[Candidate]:
    """The grid of STEP 1 (section 3.3): every alpha, beta, gamma >= 1 whose alpha * beta^2 * gamma^2 is about 2.

    Best first: by how closely the rounded architecture doubles the baseline's multiply-adds, |log(growth / 2)|.  The
    paper trains each candidate and keeps the most accurate; this is the list to train.

    step: of the grid, from 1.  tolerance: how far the product may be from 2.
    Raises ValueError for a step or tolerance out of range, and where no candidate is left.
    """
    if not 0.005 <= step <= 1:
        raise ValueError(f"the step of the grid must be from 0.005 to 1, not {step}")
    if not 0 < tolerance < 1:
        raise ValueError(f"the tolerance must be above 0 and below 1, not {tolerance}")
    before = complexity(baseline.stages, baseline.image_size).multiply_adds
    most = 2 + tolerance  # each factor alone may use up the product
    alphas = [1 + i * step for i in range(int((most - 1) / step + 1e-9) + 1)]
    roots = [value for value in alphas if value**2 <= most]
    found = []
    for alpha, beta, gamma in itertools.product(alphas, roots, roots):
        alpha, beta, gamma = round(alpha, 6), round(beta, 6), round(gamma, 6)
        product = flops_growth(alpha, beta, gamma)
        if abs(product - 2) > tolerance + 1e-9:
            continue
        coefficients = compound_coefficients(1, alpha, beta, gamma)
        counts = scaled_complexity(baseline, coefficients)
        found.append(Candidate(coefficients, product, counts, counts.multiply_adds / before))
    if not found:
        raise ValueError(f"no point of a grid of {step} has a product within {tolerance} of 2: use a finer step")
    return sorted(found, key=lambda candidate: abs(math.log(candidate.growth / 2)))
