"""Parameters, multiply-adds and activations of an architecture, counted from its stages alone.

Counting conventions:
- a *multiply-add* (MAC) is one multiplication with its addition. The paper says "FLOPs" for these; elsewhere a MAC
  is two FLOPs. Convolutions and the classifier are counted; batch norm (folded in deployment), activations,
  pooling and the gate's multiplication are not.
- an *activation* is one output element of a convolution or of the classifier, as pycls counts them. Memory and
  bandwidth scale with them.
- *parameters* are the trainable ones: batch norm has two per channel, its running statistics are not counted.
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
    TooLarge,
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

    def __mul__(self, times: int) -> Complexity:
        return Complexity(self.parameters * times, self.multiply_adds * times, self.activations * times)


@dataclass(frozen=True)
class StageComplexity:
    """A stage, the (height, width) of its input, and its counts."""

    stage: Stage
    input_resolution: tuple[int, int]
    counts: Complexity


def squeezed_channels(in_channels: int, squeeze_ratio: float) -> int:
    """Width of the squeeze-excitation bottleneck: a share of the channels that enter the *block*, at least 1.

    The released code multiplies the block's input filters by 0.25, not the expanded ones. A ratio of 0 gives 0.
    """
    return max(1, int(in_channels * squeeze_ratio)) if squeeze_ratio else 0


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    output: tuple[int, int],
    groups: int = 1,
    bias: bool = False,
    norm: bool = True,
) -> Complexity:
    """A convolution whose output has (height, width) `output`, with its bias or the batch norm after it."""
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
    """Expansion, depthwise convolution, squeeze-excitation and projection, in the order of `layers.MBConv`."""
    expanded = in_channels * expansion
    total = Complexity()
    if expansion != 1:
        total += convolution(in_channels, expanded, 1, entering)
    total += convolution(expanded, expanded, kernel_size, leaving, groups=expanded)
    if squeezed := squeezed_channels(in_channels, squeeze_ratio):
        total += convolution(expanded, squeezed, 1, (1, 1), bias=True, norm=False)
        total += convolution(squeezed, expanded, 1, (1, 1), bias=True, norm=False)
    return total + convolution(expanded, out_channels, 1, leaving)


def separable(in_channels: int, out_channels: int, kernel_size: int, leaving: tuple[int, int]) -> Complexity:
    """MobileNetV1's block, in the order of `baselines.layers.DepthwiseSeparable`."""
    depthwise = convolution(in_channels, in_channels, kernel_size, leaving, groups=in_channels)
    return depthwise + convolution(in_channels, out_channels, 1, leaving)


def bottleneck(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    expansion: int,
    stride: int,
    entering: tuple[int, int],
    leaving: tuple[int, int],
) -> Complexity:
    """ResNet's block, with a projection if the shape changes, in the order of `baselines.layers.Bottleneck`."""
    inner = out_channels // expansion
    total = convolution(in_channels, inner, 1, entering)
    total += convolution(inner, inner, kernel_size, leaving)
    total += convolution(inner, out_channels, 1, leaving)
    if stride != 1 or in_channels != out_channels:
        total += convolution(in_channels, out_channels, 1, leaving)
    return total


def layer_complexity(
    stage: Stage, in_channels: int, stride: int, entering: tuple[int, int], leaving: tuple[int, int]
) -> Complexity:
    """One layer of the stage. entering, leaving: (height, width) of its input and output. Excludes the classifier."""
    out_channels, kernel_size = stage.out_channels, stage.kernel_size
    if stage.operator in ("conv", "head"):
        return convolution(in_channels, out_channels, kernel_size, leaving)
    if stage.operator in ("mbconv", "inverted_residual"):
        return mbconv(in_channels, out_channels, kernel_size, stage.expansion, stage.squeeze_ratio, entering, leaving)
    if stage.operator == "separable":
        return separable(in_channels, out_channels, kernel_size, leaving)
    if stage.operator == "bottleneck":
        return bottleneck(in_channels, out_channels, kernel_size, stage.expansion, stride, entering, leaving)
    return Complexity()  # pooling


def stage_complexities(
    stages: Sequence[Stage],
    image_size: int | tuple[int, int],
    num_classes: int = 1000,
    in_channels: int | None = None,
) -> tuple[StageComplexity, ...]:
    """Each stage with its input resolution and its counts, for one image of `image_size` pixels (height, width).

    A strided layer maps n pixels to ceil(n / stride), under either padding.
    in_channels: the image's channels, if they are not those of the first stage.
    """
    size = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    result = []
    for number, stage in enumerate(stages):
        entering, size = size, (-(-size[0] // stage.stride), -(-size[1] // stage.stride))
        channels = in_channels if number == 0 and in_channels is not None else stage.in_channels
        counts = layer_complexity(stage, channels, stage.stride, entering, size)
        counts += layer_complexity(stage, stage.out_channels, 1, size, size) * (stage.layers - 1)
        if stage.operator in ("head", "classifier"):
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
    """The counts of the baseline scaled by `coefficients`, resolution included."""
    return complexity(scale(baseline, coefficients), scaled_image_size(baseline, coefficients))


def exceeded(counts: Complexity, multiply_adds: float | None, parameters: float | None) -> list[str]:
    """The budgets that the counts exceed, by name: "multiply_adds", "parameters". None is no budget."""
    budgets = {"multiply_adds": multiply_adds, "parameters": parameters}
    return [name for name, most in budgets.items() if most is not None and getattr(counts, name) > most]


# Step of the search for phi: four decimals, few enough to type.
PHI_STEP = 1e-4


def largest_coefficients(
    baseline: Baseline,
    multiply_adds: float | None = None,
    parameters: float | None = None,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
) -> Coefficients:
    """The inverse of Equation 3: the coefficients at the largest phi whose architecture stays within the budgets.

    Counts grow with phi in steps, since channels, layers and pixels are rounded. Bisection finds the largest multiple
    of `PHI_STEP` that does not exceed the budgets.

    Raises ValueError if no budget is given, if the baseline itself (phi = 0) exceeds one, if every base that affects
    the budget is 1, and if the budget exceeds the largest architecture that `scaling` builds.
    """
    least = complexity(baseline.stages, baseline.image_size)
    limits = (multiply_adds, least.multiply_adds, "multiply-adds"), (parameters, least.parameters, "parameters")
    limits = [limit for limit in limits if limit[0] is not None]
    if not limits:
        raise ValueError("name a budget of multiply-adds, of parameters, or both")
    budgets = " and ".join(f"{budget:,.0f} {unit}" for budget, _, unit in limits)
    compound_coefficients(0, alpha, beta, gamma)  # checks the bases
    for budget, count, unit in limits:
        if count > budget:
            raise ValueError(
                f"a budget of {budget:,.0f} {unit} is below {baseline.title} itself at phi 0, which has {count:,}"
            )
    if alpha == beta == 1 and (multiply_adds is None or gamma == 1):
        bases = "alpha and beta, which are both" if multiply_adds is None else "alpha, beta and gamma, which are all"
        raise ValueError(f"no phi uses a budget of {budgets}: they grow with {bases} 1")

    def coefficients(steps: int) -> Coefficients:
        return compound_coefficients(round(steps * PHI_STEP, 4), alpha, beta, gamma)

    def within(steps: int) -> bool:
        try:
            counts = scaled_complexity(baseline, coefficients(steps))
        except TooLarge:
            return False
        return not exceeded(counts, multiply_adds, parameters)

    low, high = 0, 2**13
    while within(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    try:
        scaled_complexity(baseline, coefficients(high))
    except TooLarge as error:
        raise ValueError(f"no phi uses a budget of {budgets}: before it is reached, {error}") from None
    return coefficients(low)


def closest_coefficients(
    baseline: Baseline, multiply_adds: float, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA
) -> Coefficients:
    """The coefficients at the phi whose rounded architecture comes nearest to `multiply_adds`, by |log ratio|.

    Raises ValueError as `largest_coefficients`.
    """
    below = largest_coefficients(baseline, multiply_adds, None, alpha, beta, gamma)
    above = compound_coefficients(below.phi + PHI_STEP, alpha, beta, gamma)
    return min(
        (below, above),
        key=lambda one: abs(math.log(scaled_complexity(baseline, one).multiply_adds / multiply_adds)),
    )


@dataclass(frozen=True)
class Candidate:
    """One (alpha, beta, gamma) of STEP 1 at phi = 1, with the true counts of its architecture after rounding."""

    coefficients: Coefficients
    product: float  # alpha * beta^2 * gamma^2, ideally 2
    counts: Complexity
    growth: float  # multiply-adds over the baseline's, ideally 2


def grid_search(baseline: Baseline, step: float = 0.05, tolerance: float = 0.1) -> list[Candidate]:
    """The grid of STEP 1 (section 3.3): every alpha, beta, gamma >= 1 whose alpha * beta^2 * gamma^2 is about 2.

    Sorted by how closely the rounded architecture doubles the baseline's multiply-adds, |log(growth / 2)|. The paper
    trains each candidate and keeps the most accurate; this is the list to train.

    step: between grid points, which start at 1. tolerance: how far the product may be from 2.
    Raises ValueError for a step or tolerance out of range, and for a grid without a candidate.
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
