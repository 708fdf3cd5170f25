"""The other architectures that the paper scales (section 5.1, Table 3), as stage tables like B0's. No torch here.

Each table comes from the architecture's own paper. A stage's stride is that of its first layer.

    MobileNetV1   Howard et al. 2017, arXiv 1704.04861, Table 1     depthwise-separable convolutions, ReLU
    MobileNetV2   Sandler et al. 2018, arXiv 1801.04381, Table 2    inverted residuals with linear bottleneck, ReLU6
    ResNet-50     He et al. 2016, arXiv 1512.03385, Table 1         bottlenecks, ReLU

`scaling.scale` scales them like B0. MobileNetV1's paper has no stages, so here layers with the same output channels
form a stage, and depth multiplies its layers. ResNet-50's bottlenecks have their stride in the 3x3 convolution, as in
today's libraries ("v1.5", 4.1 billion multiply-adds, as in Table 3), not in the first 1x1 (3.8 billion).
"""

from __future__ import annotations

import contextlib

from efficientnet.scaling import B0, LITE_VARIANTS, VARIANTS, Baseline, Stage, Variant, get_variant


def stage(operator: str, kernel: int, stride: int, expansion: int, channels_in: int, out: int, layers: int, act: str):
    """A `Stage` without squeeze-excitation."""
    return Stage(operator, kernel, stride, expansion, channels_in, out, layers, squeeze_ratio=0, activation=act)


MOBILENET_V1 = Baseline(
    "mobilenet_v1",
    #         operator  kernel stride expansion in  out  layers
    (
        stage("conv", 3, 2, 1, 3, 32, 1, "relu"),
        stage("separable", 3, 1, 1, 32, 64, 1, "relu"),
        stage("separable", 3, 2, 1, 64, 128, 2, "relu"),
        stage("separable", 3, 2, 1, 128, 256, 2, "relu"),
        stage("separable", 3, 2, 1, 256, 512, 6, "relu"),
        stage("separable", 3, 2, 1, 512, 1024, 2, "relu"),
        stage("classifier", 1, 1, 1, 1024, 1024, 1, "relu"),
    ),
    image_size=224,
    title="MobileNetV1",
)

MOBILENET_V2 = Baseline(
    "mobilenet_v2",
    #         operator  kernel stride expansion in  out  layers
    (
        stage("conv", 3, 2, 1, 3, 32, 1, "relu6"),
        stage("inverted_residual", 3, 1, 1, 32, 16, 1, "relu6"),
        stage("inverted_residual", 3, 2, 6, 16, 24, 2, "relu6"),
        stage("inverted_residual", 3, 2, 6, 24, 32, 3, "relu6"),
        stage("inverted_residual", 3, 2, 6, 32, 64, 4, "relu6"),
        stage("inverted_residual", 3, 1, 6, 64, 96, 3, "relu6"),
        stage("inverted_residual", 3, 2, 6, 96, 160, 3, "relu6"),
        stage("inverted_residual", 3, 1, 6, 160, 320, 1, "relu6"),
        stage("head", 1, 1, 1, 320, 1280, 1, "relu6"),
    ),
    image_size=224,
    title="MobileNetV2",
)

RESNET_50 = Baseline(
    "resnet50",
    #         operator  kernel stride expansion in  out  layers
    (
        stage("conv", 7, 2, 1, 3, 64, 1, "relu"),
        stage("max_pool", 3, 2, 1, 64, 64, 1, "relu"),
        stage("bottleneck", 3, 1, 4, 64, 256, 3, "relu"),
        stage("bottleneck", 3, 2, 4, 256, 512, 4, "relu"),
        stage("bottleneck", 3, 2, 4, 512, 1024, 6, "relu"),
        stage("bottleneck", 3, 2, 4, 1024, 2048, 3, "relu"),
        stage("classifier", 1, 1, 1, 2048, 2048, 1, "relu"),
    ),
    image_size=224,
    title="ResNet-50",
)

BASELINES: dict[str, Baseline] = {baseline.name: baseline for baseline in (B0, MOBILENET_V1, MOBILENET_V2, RESNET_50)}


def get_baseline(name: str) -> Baseline:
    """The baseline of that name ("mobilenet_v2", "MobileNetV2", "ResNet-50"); ValueError lists the known ones."""

    def plain(text: str) -> str:
        return text.lower().replace("-", "").replace("_", "").removeprefix("efficientnet")

    for baseline in BASELINES.values():
        if plain(baseline.name) == plain(name):
            return baseline
    raise ValueError(f"unknown baseline {name!r}: the known ones are {', '.join(BASELINES)}")


def get_architecture(name: str) -> Variant | Baseline:
    """The released variant or the baseline of that name; ValueError lists the known ones.

    Names are spelled as for `get_variant` and `get_baseline`.
    """
    for find in (get_variant, get_baseline):
        with contextlib.suppress(ValueError):
            return find(name)
    raise ValueError(
        f"unknown architecture {name!r}: the known ones are {', '.join(VARIANTS | LITE_VARIANTS | BASELINES)}"
    )
