"""Other libraries' names for our tensors, one table for each library and kind of network. No torch here.

A table maps our module names to theirs; the last part of a tensor's name (weight, bias, running_mean, ...) is the same
everywhere. Templates give a block's place as the library counts it:

    {stage}, {layer}         row of Table 1 (the stem is 0), and layer within it   torchvision
    {body}, {layer}          the same without the stem                             timm, torchvision's ResNet, ours
    {block}, {number}        block in the whole network, from 0 and from 1         lukemelas, transformers; MobileNetV2
    {group}, {group_layer}   group of stages of one resolution (the stem is 0)     mmpretrain
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from efficientnet.scaling import Stage


@dataclass(frozen=True)
class Names:
    """A library's names for one kind of network.

    operator: of the network's blocks, as in `Stage.operator`; empty for any.
    signature: start of a name that occurs in every file of this kind and in no other.
    outside: names of stem, head and classifier. Templates of the head continue the count of the blocks.
    block: template for the start of a block's names.
    parts: names within a block. unexpanded: the same for blocks of expansion 1, if they differ.
    prefix: start of every name except the classifier's in whole models; bare backbones lack it.
    A name that is not in the table is the same as ours.
    """

    library: str
    operator: str
    signature: str
    block: str
    outside: Mapping[str, str] = field(default_factory=dict)
    parts: Mapping[str, str] = field(default_factory=dict)
    unexpanded: Mapping[str, str] | None = None
    prefix: str = ""

    def outer(self, tensor: str) -> str:
        """The library's name of one of our tensors of the stem or the classifier."""
        module, _, leaf = tensor.rpartition(".")
        return f"{self.outside.get(module, module)}.{leaf}"


PARTS = ("conv", "norm")


def convolutions(**pairs: tuple[str, str]) -> dict[str, str]:
    """Entries of a table: the library's names for the convolution and the batch norm of our `ConvNormAct` modules."""
    return {f"{ours}.{part}": name for ours, both in pairs.items() for part, name in zip(PARTS, both, strict=True)}


NAMES = (
    Names(
        "torchvision",
        "mbconv",
        signature="features.1.0.block.",
        block="features.{stage}.{layer}.block.",
        outside={
            **convolutions(stem=("features.0.0", "features.0.1"), head=("features.{stage}.0", "features.{stage}.1")),
            "classifier": "classifier.1",
        },
        parts={
            **convolutions(expand=("0.0", "0.1"), depthwise=("1.0", "1.1"), project=("3.0", "3.1")),
            "gate.squeeze": "2.fc1",
            "gate.expand": "2.fc2",
        },
        unexpanded={
            **convolutions(depthwise=("0.0", "0.1"), project=("2.0", "2.1")),
            "gate.squeeze": "1.fc1",
            "gate.expand": "1.fc2",
        },
    ),
    Names(
        "timm",
        "mbconv",
        signature="blocks.0.0.",
        block="blocks.{body}.{layer}.",
        outside=convolutions(stem=("conv_stem", "bn1"), head=("conv_head", "bn2")),
        parts={
            **convolutions(expand=("conv_pw", "bn1"), depthwise=("conv_dw", "bn2"), project=("conv_pwl", "bn3")),
            "gate.squeeze": "se.conv_reduce",
            "gate.expand": "se.conv_expand",
        },
        unexpanded={
            **convolutions(depthwise=("conv_dw", "bn1"), project=("conv_pw", "bn2")),
            "gate.squeeze": "se.conv_reduce",
            "gate.expand": "se.conv_expand",
        },
    ),
    Names(
        "lukemelas",
        "mbconv",
        signature="_blocks.0.",
        block="_blocks.{block}.",
        outside={**convolutions(stem=("_conv_stem", "_bn0"), head=("_conv_head", "_bn1")), "classifier": "_fc"},
        parts={
            **convolutions(
                expand=("_expand_conv", "_bn0"),
                depthwise=("_depthwise_conv", "_bn1"),
                project=("_project_conv", "_bn2"),
            ),
            "gate.squeeze": "_se_reduce",
            "gate.expand": "_se_expand",
        },
    ),
    Names(
        "transformers",
        "mbconv",
        signature="encoder.blocks.0.",
        block="encoder.blocks.{block}.",
        outside=convolutions(
            stem=("embeddings.convolution", "embeddings.batchnorm"), head=("encoder.top_conv", "encoder.top_bn")
        ),
        parts={
            **convolutions(
                expand=("expansion.expand_conv", "expansion.expand_bn"),
                depthwise=("depthwise_conv.depthwise_conv", "depthwise_conv.depthwise_norm"),
                project=("projection.project_conv", "projection.project_bn"),
            ),
            "gate.squeeze": "squeeze_excite.reduce",
            "gate.expand": "squeeze_excite.expand",
        },
        prefix="efficientnet.",
    ),
    Names(
        "mmpretrain",
        "mbconv",
        signature="layers.1.0.",
        block="layers.{group}.{group_layer}.",
        outside={
            **convolutions(stem=("layers.0.conv", "layers.0.bn"), head=("layers.{group}.conv", "layers.{group}.bn")),
            "classifier": "head.fc",
        },
        parts={
            **convolutions(
                expand=("expand_conv.conv", "expand_conv.bn"),
                depthwise=("depthwise_conv.conv", "depthwise_conv.bn"),
                project=("linear_conv.conv", "linear_conv.bn"),
            ),
            "gate.squeeze": "se.conv1.conv",
            "gate.expand": "se.conv2.conv",
        },
        prefix="backbone.",
    ),
    Names(
        "torchvision",
        "inverted_residual",
        signature="features.1.conv.",
        block="features.{number}.conv.",
        outside={
            **convolutions(stem=("features.0.0", "features.0.1"), head=("features.{number}.0", "features.{number}.1")),
            "classifier": "classifier.1",
        },
        parts=convolutions(expand=("0.0", "0.1"), depthwise=("1.0", "1.1"), project=("2", "3")),
        unexpanded=convolutions(depthwise=("0.0", "0.1"), project=("1", "2")),
    ),
    Names(
        "torchvision",
        "bottleneck",
        signature="layer1.0.",
        block="layer{body}.{layer}.",
        outside={**convolutions(stem=("conv1", "bn1")), "classifier": "fc"},
        parts=convolutions(
            reduce=("conv1", "bn1"),
            spatial=("conv2", "bn2"),
            restore=("conv3", "bn3"),
            shortcut=("downsample.0", "downsample.1"),
        ),
    ),
)

# Our own names, for blocks of any operator.
OURS = Names("ours", "", signature="body.0.0.", block="body.{body}.{layer}.")


def operator_of(stages: Sequence[Stage]) -> str:
    """The operator of the network's blocks, taken from the last stage before the head."""
    return stages[-2].operator


def find_names(library: str, operator: str) -> Names:
    """The library's table for networks of this operator. Raises ValueError if there is none.

    timm's two families, "timm" and "timm_tf", have the same names.
    """
    if library == OURS.library:
        return OURS
    for names in NAMES:
        if (names.library, names.operator) == (library.removesuffix("_tf"), operator):
            return names
    raise ValueError(f"there is no table of {library}'s names for networks of {operator!r} blocks")


def translate(names: Names, stages: Sequence[Stage], tensors: Iterable[str]) -> dict[str, str]:
    """Map each of our names in `tensors` to the library's, without prefix, for a network of these stages."""
    places: dict[str, dict[str, int]] = {}
    number = group = group_layer = 0
    for body, stage in enumerate(stages[1:-1]):
        if stage.stride > 1 or body == 0:
            group, group_layer = group + 1, 0
        for layer in range(stage.layers):
            place = {"stage": body + 1, "body": body, "layer": layer, "block": number, "number": number + 1}
            places[f"{body}.{layer}"] = {**place, "group": group, "group_layer": group_layer}
            number, group_layer = number + 1, group_layer + 1
    last = {"stage": len(stages) - 1, "number": number + 1, "group": group + 1}

    result = {}
    for tensor in tensors:
        module, _, leaf = tensor.rpartition(".")
        if module.startswith("body."):
            _, body, layer, part = module.split(".", 3)
            plain = names.unexpanded is not None and stages[int(body) + 1].expansion == 1
            parts = names.unexpanded if plain else names.parts
            theirs = names.block.format(**places[f"{body}.{layer}"]) + parts.get(part, part)
        else:
            theirs = names.outside.get(module, module).format(**last)
        result[tensor] = f"{theirs}.{leaf}"
    return result
