"""Compound scaling (section 3 of the paper).

M. Tan and Q. V. Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019
(arXiv 1905.11946). The file follows the method:

    phi, alpha, beta, gamma  ->  Coefficients(depth, width, resolution)      Equation 3
    baseline, Coefficients   ->  a tuple of Stage                            Table 1, scaled and rounded

The model, its parameter count and every printed table are made from that tuple. No torch here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

# The result of STEP 1 of the paper's method, the grid search at phi = 1 on B0 (section 4).
ALPHA, BETA, GAMMA = 1.2, 1.1, 1.15

# Larger values are typos (phi = 50), not architectures.
MOST_LAYERS = 10_000
LARGEST_FACTOR = 1e6

# Pixels a side. The strides of every baseline multiply to 32, so at this size the last feature map is 1x1.
SMALLEST_IMAGE = 32

# Operators that a stage repeats; depth multiplies the number of repeats. The others occur once.
BLOCKS = ("mbconv", "inverted_residual", "separable", "bottleneck", "plain")
# Operators without a convolution. Their output has the channels of their input, at any width.
KEEP_CHANNELS = ("max_pool", "classifier")
# Operators whose residual connection a stage can leave out.
CAN_SKIP = ("mbconv", "inverted_residual", "plain")
OPERATORS = ("conv", *BLOCKS, "head", *KEEP_CHANNELS)
ACTIVATIONS = ("swish", "relu", "relu6")


class TooLarge(ValueError):
    """A coefficient or a number of layers is too large. The message says which, and how it was derived."""


@dataclass(frozen=True)
class Stage:
    """One row of Table 1: `layers` blocks of one operator. Only the first applies the stride and changes the channels.

    operator: "conv" (the stem), "mbconv", or "head" (1x1 convolution, global pooling, classifier). The other
        baselines (`baselines/stages.py`) add "max_pool", "separable" (MobileNetV1), "inverted_residual"
        (MobileNetV2), "bottleneck" (ResNet) and "classifier" (global pooling and classifier without the convolution),
        and the search of `studies` adds "plain" (MnasNet's regular convolution, with a residual).
    expansion: factor by which MBConv and the inverted residual widen their input before the depthwise convolution,
        and by which ResNet's bottleneck is narrower than its output; 1 elsewhere.
    squeeze_ratio: width of the squeeze-excitation bottleneck of MBConv and the inverted residual, as a share of the
        channels that *enter* the block; 0 for no squeeze-excitation.
    activation: "swish", "relu" or "relu6".
    fixed_width, fixed_depth: if True, scaling does not change the stage's channels or layers.
    skip: if False, MBConv, the inverted residual and the plain convolution have no residual connection; ignored
        elsewhere.

    Raises ValueError for a field out of range, so stages that are read from a file are checked too.
    """

    operator: str
    kernel_size: int
    stride: int
    expansion: int
    in_channels: int
    out_channels: int
    layers: int
    squeeze_ratio: float = 0.25
    activation: str = "swish"
    fixed_width: bool = False
    fixed_depth: bool = False
    skip: bool = True

    def __post_init__(self) -> None:
        for name, known in (("operator", OPERATORS), ("activation", ACTIVATIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"a stage's {name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")
        for name in ("kernel_size", "stride", "expansion", "in_channels", "out_channels", "layers"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"a stage's {name} must be a whole number of at least 1, not {value!r}")
        if type(self.squeeze_ratio) not in (int, float) or not 0 <= self.squeeze_ratio <= 1:
            raise ValueError(f"a stage's squeeze_ratio must be a number from 0 to 1, not {self.squeeze_ratio!r}")
        for name in ("fixed_width", "fixed_depth", "skip"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"a stage's {name} must be true or false, not {getattr(self, name)!r}")
        if self.layers > MOST_LAYERS:
            raise TooLarge(f"a stage has at most {MOST_LAYERS:,} layers, not {self.layers:,}")

    @property
    def label(self) -> str:
        """The operator as Table 1 writes it, such as "MBConv6, k5x5", and what it lacks: "no SE", "no skip"."""
        kernel = f"{self.kernel_size}x{self.kernel_size}"
        label = {
            "conv": f"Conv{kernel}",
            "plain": f"Conv{kernel}",
            "mbconv": f"MBConv{self.expansion}, k{kernel}",
            "head": f"Conv{kernel} & Pool & FC",
            "max_pool": f"MaxPool{kernel}",
            "separable": f"Separable, k{kernel}",
            "inverted_residual": f"Inverted{self.expansion}, k{kernel}",
            "bottleneck": f"Bottleneck, k{kernel}",
            "classifier": "Pool & FC",
        }[self.operator]
        label += ", no SE" if self.operator == "mbconv" and not self.squeeze_ratio else ""
        return label if self.skip or self.operator not in CAN_SKIP else f"{label}, no skip"

    def block_inputs(self) -> list[tuple[int, int]]:
        """The (input channels, stride) of each layer."""
        return [(self.in_channels, self.stride)] + [(self.out_channels, 1)] * (self.layers - 1)


@dataclass(frozen=True)
class Baseline:
    """An architecture to scale: its stages at depth = width = resolution = 1 and its image size in pixels."""

    name: str
    stages: tuple[Stage, ...]
    image_size: int
    title: str  # as its paper writes it
    file: str = ""  # that it was read from


# Table 1 of the paper. The strides come from the released code; table and code agree when the table's resolution
# column is read as the *input* resolution of the stage.
B0 = Baseline(
    "b0",
    #         operator kernel stride expansion in   out  layers
    (
        Stage("conv", 3, 2, 1, 3, 32, 1),
        Stage("mbconv", 3, 1, 1, 32, 16, 1),
        Stage("mbconv", 3, 2, 6, 16, 24, 2),
        Stage("mbconv", 5, 2, 6, 24, 40, 2),
        Stage("mbconv", 3, 2, 6, 40, 80, 3),
        Stage("mbconv", 5, 1, 6, 80, 112, 3),
        Stage("mbconv", 5, 2, 6, 112, 192, 4),
        Stage("mbconv", 3, 1, 6, 192, 320, 1),
        Stage("head", 1, 1, 1, 320, 1280, 1),
    ),
    image_size=224,
    title="EfficientNet-B0",
)

# EfficientNet-Lite of the released code, for small devices: no squeeze-excitation, ReLU6, a stem and head of
# fixed width, and a first and last MBConv stage of one layer at any depth.
LITE0 = Baseline(
    "lite0",
    tuple(
        replace(
            stage,
            squeeze_ratio=0,
            activation="relu6",
            fixed_width=stage.operator != "mbconv",
            fixed_depth=stage.layers == 1,
        )
        for stage in B0.stages
    ),
    image_size=224,
    title="EfficientNet-Lite0",
)


@dataclass(frozen=True)
class Coefficients:
    """The factors d, w, r on the baseline's depth, width and resolution, and what they were derived from.

    phi, alpha, beta and gamma are None if the factors were chosen directly, as for the released variants.
    """

    depth: float = 1.0
    width: float = 1.0
    resolution: float = 1.0
    phi: float | None = None
    alpha: float | None = None
    beta: float | None = None
    gamma: float | None = None

    def __post_init__(self) -> None:
        for name in ("depth", "width", "resolution"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a positive number, not {value}")
            if value > LARGEST_FACTOR:
                raise TooLarge(f"{name} {value:g}{self.origin(name)} is more than a million: lower it")

    def origin(self, factor: str) -> str:
        """The derivation of a factor, such as " (alpha^phi = 1.2^3)"; empty if it was chosen directly."""
        if self.phi is None:
            return ""
        base = {"depth": "alpha", "width": "beta", "resolution": "gamma"}[factor]
        return f" ({base}^phi = {getattr(self, base):g}^{self.phi:g})"


def compound_coefficients(phi: float, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA) -> Coefficients:
    """Equation 3: depth = alpha^phi, width = beta^phi, resolution = gamma^phi.

    phi is at least 0 and may be a fraction; alpha, beta and gamma are at least 1. Multiply-adds grow by about
    `flops_growth(alpha, beta, gamma)` ** phi, and the paper constrains that base to about 2.

    Raises ValueError when a bound of Equation 3 is violated, and TooLarge, a ValueError, for a factor above a million.
    """
    if not (math.isfinite(phi) and phi >= 0):
        raise ValueError(f"phi must be a number of at least 0, not {phi}")
    for name, value in (("alpha", alpha), ("beta", beta), ("gamma", gamma)):
        if not (math.isfinite(value) and value >= 1):
            raise ValueError(f"{name} must be at least 1 (Equation 3), not {value}")
    try:
        depth, width, resolution = alpha**phi, beta**phi, gamma**phi
    except OverflowError:
        raise TooLarge(f"phi {phi:g} is too large: the coefficients overflow") from None
    return Coefficients(depth, width, resolution, phi, alpha, beta, gamma)


def flops_growth(alpha: float, beta: float, gamma: float) -> float:
    """alpha * beta^2 * gamma^2: the growth of multiply-adds from phi to phi + 1, before rounding.

    Multiply-adds are linear in depth and quadratic in width and resolution (section 3.3). Equation 3 requires about 2;
    the paper's own 1.2, 1.1, 1.15 give 1.920.
    """
    return alpha * beta**2 * gamma**2


def round_channels(channels: float, divisor: int = 8) -> int:
    """Round to the nearest multiple of `divisor`, but not to 0 nor down by more than 10 % (`round_filters`)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def round_layers(layers: int, depth: float) -> int:
    """ceil(layers * depth) (`round_repeats` of the released code)."""
    return math.ceil(layers * depth)


def scaled_channels(stage: Stage, width: float) -> int:
    """The stage's channels at `width`; at 1, its own, even if they are no multiple of 8.

    For ResNet's bottleneck, round its inner channels, as in ResNet's own table.
    """
    if stage.fixed_width or width == 1:
        return stage.out_channels
    if stage.operator == "bottleneck":
        return stage.expansion * round_channels(stage.out_channels / stage.expansion * width)
    return round_channels(stage.out_channels * width)


def scaled_image_size(baseline: Baseline, coefficients: Coefficients) -> int:
    """The input's height and width in pixels, rounded to the nearest integer, not to a multiple of 8."""
    return int(baseline.image_size * coefficients.resolution + 0.5)


def scale(baseline: Baseline, coefficients: Coefficients) -> tuple[Stage, ...]:
    """STEP 2 (section 4): scale the channels of all stages by `width`, stem and head included, their layers by `depth`.

    The channels of the image do not change. Stem, pooling and head keep one layer each, and `fixed_width` and
    `fixed_depth` exempt a stage. Resolution changes no stage: see `scaled_image_size`. The same rule scales any
    `Baseline` (section 5.1 of the paper).

    Raises TooLarge, a ValueError, if a stage would have more than 10,000 layers.
    """
    scaled: list[Stage] = []
    for stage in baseline.stages:
        entering = scaled[-1].out_channels if scaled else stage.in_channels
        deepens = stage.operator in BLOCKS and not stage.fixed_depth
        layers = round_layers(stage.layers, coefficients.depth) if deepens else stage.layers
        if layers > MOST_LAYERS:
            raise TooLarge(
                f"depth {coefficients.depth:g}{coefficients.origin('depth')} gives {layers:,} layers in one stage; "
                f"the limit is {MOST_LAYERS:,}: lower it"
            )
        scaled.append(
            replace(
                stage,
                in_channels=entering,
                out_channels=entering
                if stage.operator in KEEP_CHANNELS
                else scaled_channels(stage, coefficients.width),
                layers=layers,
            )
        )
    return tuple(scaled)


@dataclass(frozen=True)
class Variant:
    """A released model: its coefficients as the authors set them, its dropout, and its figures in Table 2."""

    name: str
    width: float
    depth: float
    image_size: int
    dropout: float
    paper_parameters: float | None = None  # millions
    paper_flops: float | None = None  # billions of multiply-adds; the paper calls them FLOPs
    paper_top1: float | None = None  # accuracy on ImageNet, in per cent
    baseline: Baseline = B0

    @property
    def coefficients(self) -> Coefficients:
        return Coefficients(self.depth, self.width, self.image_size / self.baseline.image_size)

    @property
    def stages(self) -> tuple[Stage, ...]:
        return scale(self.baseline, self.coefficients)


# The released coefficients do NOT follow Equation 3 (they look rounded by hand): the number in the name is not phi.
# Solving alpha^phi = depth, beta^phi = width and gamma^phi = resolution for a variant gives three phi that disagree
# (`implied_phi` below), here as depth/width/resolution: B1 .52/.00/.49, B2 1.00/1.00/1.07, B3 1.85/1.91/2.09,
# B4 3.22/3.53/3.78, B5 4.32/4.93/5.09, B6 5.24/6.17/6.14, B7 6.21/7.27/7.05. So phi = 1 is about B2, phi = 2 is about
# B3, phi = 3 lies between B3 and B4, and Equation 3 at phi = 7 gives 68.7 M parameters, while B7 has 66.3 M.
VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        #       name  width depth size dropout  Table 2: M parameters, B FLOPs, top-1 %
        Variant("b0", 1.0, 1.0, 224, 0.2, 5.3, 0.39, 77.1),
        Variant("b1", 1.0, 1.1, 240, 0.2, 7.8, 0.70, 79.1),
        Variant("b2", 1.1, 1.2, 260, 0.3, 9.2, 1.0, 80.1),
        Variant("b3", 1.2, 1.4, 300, 0.3, 12, 1.8, 81.6),
        Variant("b4", 1.4, 1.8, 380, 0.4, 19, 4.2, 82.9),
        Variant("b5", 1.6, 2.2, 456, 0.4, 30, 9.9, 83.6),
        Variant("b6", 1.8, 2.6, 528, 0.5, 43, 19, 84.0),
        Variant("b7", 2.0, 3.1, 600, 0.5, 66, 37, 84.3),
        # In the released code, not in the paper.
        Variant("b8", 2.2, 3.6, 672, 0.5),
        Variant("l2", 4.3, 5.3, 800, 0.5),
    )
}

# Not in the paper. Depth and width are those of B0-B4.
LITE_VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("lite0", 1.0, 1.0, 224, 0.2, baseline=LITE0),
        Variant("lite1", 1.0, 1.1, 240, 0.2, baseline=LITE0),
        Variant("lite2", 1.1, 1.2, 260, 0.3, baseline=LITE0),
        Variant("lite3", 1.2, 1.4, 280, 0.3, baseline=LITE0),
        Variant("lite4", 1.4, 1.8, 300, 0.3, baseline=LITE0),
    )
}


def get_variant(name: str) -> Variant:
    """The released variant of that name ("b3", "efficientnet_b3", "lite0"); ValueError lists the known ones."""
    short, known = name.lower().replace("-", "_").removeprefix("efficientnet_"), VARIANTS | LITE_VARIANTS
    if short not in known:
        raise ValueError(f"unknown variant {name!r}: the known ones are {', '.join(known)}")
    return known[short]


def implied_phi(
    coefficients: Coefficients, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA
) -> tuple[float, float, float]:
    """The phi that depth, width and resolution each imply: Equation 3 solved three times.

    nan for a base of 1, which determines no phi. Three equal numbers mean that the coefficients follow Equation 3.
    """
    factors = (coefficients.depth, coefficients.width, coefficients.resolution)
    return tuple(
        math.log(factor) / math.log(base) if base > 1 else math.nan
        for factor, base in zip(factors, (alpha, beta, gamma), strict=True)
    )


def fit_phi(coefficients: Coefficients, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA) -> float:
    """The phi at which Equation 3 comes closest to the given factors, by least squares in log space.

    Minimises (log d - phi log alpha)^2 + (log w - phi log beta)^2 + (log r - phi log gamma)^2, so phi is the
    coefficient of the projection of the factors' logarithms onto the bases' logarithms. Raises ValueError if all bases
    are 1.
    """
    bases = [math.log(base) for base in (alpha, beta, gamma)]
    factors = [math.log(value) for value in (coefficients.depth, coefficients.width, coefficients.resolution)]
    square = sum(base * base for base in bases)
    if square == 0:
        raise ValueError("alpha, beta and gamma are all 1: every phi gives the baseline")
    return sum(factor * base for factor, base in zip(factors, bases, strict=True)) / square


def mnasnet_objective(accuracy: float, multiply_adds: float, target: float = 400e6, exponent: float = -0.07) -> float:
    """ACC(m) * (FLOPS(m) / T)^w: the objective of the search for the B0 baseline (section 4, after MnasNet).

    accuracy: in any unit. multiply_adds, target (T): both in one unit. The paper uses T = 400 M and
    w = -0.07, and FLOPS rather than latency. Twice the target lowers the objective by 4.7 %, half of it adds 5.0 %.
    """
    if multiply_adds <= 0 or target <= 0:
        raise ValueError(f"multiply_adds and target must be positive, not {multiply_adds} and {target}")
    return accuracy * (multiply_adds / target) ** exponent
