"""`create_model`: a network by the name of a variant, from stages, or from a file of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from efficientnet.baselines.stages import get_architecture
from efficientnet.layers import AUTHORS
from efficientnet.model import EfficientNet
from efficientnet.scaling import Stage, Variant
from efficientnet.weights.files import WEIGHT_SUFFIXES
from efficientnet.weights.load import read_weights


def is_file(name: object) -> bool:
    """Whether what stands for an architecture is rather a file that holds one."""
    return isinstance(name, Path) or (isinstance(name, str) and Path(name).suffix in WEIGHT_SUFFIXES)


def create_model(
    name_or_stages: str | Path | Sequence[Stage | Mapping[str, Any]] | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    *,
    weights: str | Path | None = None,
    source: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    dropout: float | None = None,
    stochastic_depth: float | None = None,
    padding: str | None = None,
    batch_norm_eps: float | None = None,
    batch_norm_momentum: float | None = None,
    checkpoint_activations: bool = False,
) -> EfficientNet:
    """A released variant or a baseline by name, what `scale(baseline, coefficients)` returns, or what a file holds.

    name_or_stages: the name, the stages (or the dicts that a checkpoint keeps of them), or the file: a Path, or a text
        with a file's ending, is the same as `weights`.

    weights: None initialises at random.  A file of this project or of another library, or "lite0" to "lite2" for the
        installed package; source: its library, mean and std: its normalisation, which the model's `provenance` then
        has, where they cannot be recognised (see `weights.read_weights`).
    name_or_stages, num_classes, in_channels: None takes what the weights have, or else 1000 classes and 3 channels.
        A file of this project knows the stages of any architecture, another library's those of the known ones.
        With another number of classes the classifier stays random, another number of channels adapts the stem.
    dropout: None takes Table 2's rate of the variant, 0.2 for other stages.
    stochastic_depth: None is 0.2 where there are MBConv stages, 0 for other baselines, which were published without.
    padding, batch_norm_eps, batch_norm_momentum: see `layers.Convention`; None takes that of the weights, or else the
        authors'.

    Raises ValueError for an unknown name (listing the known ones), values out of range, and weights that are not of
    the architecture.
    """
    pretrained, convention, default_classes, default_channels = None, AUTHORS, 1000, 3
    if is_file(name_or_stages):
        if weights is not None:
            raise ValueError(f"weights are named twice: {name_or_stages} and {weights}")
        name_or_stages, weights = None, name_or_stages
    if weights is not None:
        pretrained = read_weights(weights, source, mean, std)
        convention = pretrained.provenance.convention
        default_classes = pretrained.num_classes or default_classes
        default_channels = pretrained.in_channels or default_channels
        if name_or_stages is None:
            architecture = pretrained.known_architecture()
            name_or_stages = architecture.stages
            dropout = architecture.dropout if dropout is None else dropout
    elif any(value is not None for value in (source, mean, std)):
        raise ValueError("source, mean and std say what weights are: give weights too")
    if name_or_stages is None:
        raise ValueError("name a variant, such as b0, or give stages or weights")
    num_classes = default_classes if num_classes is None else num_classes
    in_channels = default_channels if in_channels is None else in_channels
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")

    default_dropout = 0.2
    if isinstance(name_or_stages, str):
        named = get_architecture(name_or_stages)
        stages = named.stages
        default_dropout = named.dropout if isinstance(named, Variant) else default_dropout
    else:
        stages = tuple(stage if isinstance(stage, Stage) else Stage(**stage) for stage in name_or_stages)
    if stochastic_depth is None:
        stochastic_depth = 0.2 if any(stage.operator == "mbconv" for stage in stages) else 0.0
    chosen = {
        "padding": padding,
        "batch_norm_eps": batch_norm_eps,
        "batch_norm_momentum": batch_norm_momentum,
    }
    model = EfficientNet(
        (replace(stages[0], in_channels=in_channels), *stages[1:]),
        num_classes,
        default_dropout if dropout is None else dropout,
        stochastic_depth,
        replace(convention, **{name: value for name, value in chosen.items() if value is not None}),
        checkpoint_activations,
    )
    model.load_report = None if pretrained is None else pretrained.load_into(model)
    model.provenance = None if pretrained is None else pretrained.provenance
    return model
