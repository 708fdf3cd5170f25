"""Parameters, multiply-adds and activations of an architecture, counted from its stages alone.

Counting conventions:
- a *multiply-add* (MAC) is one multiplication with its addition. The paper says "FLOPs" for these; elsewhere a MAC
  is two FLOPs. Convolutions and the classifier are counted; batch norm (folded in deployment), activations,
  pooling and the gate's multiplication are not.
- an *activation* is one output element of a convolution or of the classifier, as pycls counts them. Memory and
  bandwidth scale with them.
- *parameters* are the trainable ones: batch norm has two per channel; its running statistics are not counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from efficientnet.scaling import Stage


@dataclass(frozen=True)
class Complexity:
    """Counts for one image. They can be added, and multiplied by an integer."""

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
    """Counts of a convolution, with its bias or the batch norm after it. output: (height, width) of its output."""
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
    """Counts of expansion, depthwise convolution, squeeze-excitation and projection, ordered as in `layers.MBConv`."""
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
    """Counts of MobileNetV1's block, in the order of `baselines.layers.DepthwiseSeparable`."""
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
    """Counts of ResNet's block, with a projection if the shape changes, ordered as in `baselines.layers.Bottleneck`."""
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
    """Counts of one layer, without the classifier. entering, leaving: (height, width) of its input and output."""
    out_channels, kernel_size = stage.out_channels, stage.kernel_size
    if stage.operator in ("conv", "plain", "head"):
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
    in_channels: the image's channels, if they differ from the first stage's.
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
