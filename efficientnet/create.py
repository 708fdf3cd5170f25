"""`create_model`: build a network from a variant's name, from stages, or from a weights file."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from efficientnet.architecture import KNOWN, named_architecture
from efficientnet.baselines.stages import BASELINES
from efficientnet.layers import AUTHORS
from efficientnet.model import EfficientNet, JointViews
from efficientnet.scaling import Stage
from efficientnet.weights.files import WEIGHT_SUFFIXES
from efficientnet.weights.load import read_weights
from efficientnet.weights.variants import variant_of


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
    pooling: str | None = None,
    joint_views: bool | None = None,
) -> EfficientNet:
    """Build a network from the name of a released variant or baseline, from stages of `scale`, or from a file.

    name_or_stages: a name, stages (or the dicts that a checkpoint keeps of them), or a weights file. A Path, or a
        string with a weights file's suffix, means the same as `weights`. None takes the architecture of the weights:
        a file of this project records its architecture, a file of another library must hold a known one.
    num_classes, in_channels: None takes those of the weights, or else 1000 and 3. If the number of classes differs
        from the weights', the classifier stays random; if the number of channels differs, the stem is adapted.
        num_classes 0 leaves out the classifier: the output is the pooled features (N, model.num_features).
    weights: a file of this project or of another library, its URL, "lite0" to "lite2" for the installed package, or a
        published name: "torchvision", "timm:efficientnet_b3.ra2_in1k" (see `weights.published`). None initialises at
        random.
    source, mean, std: the library and the normalisation of the weights, if they cannot be recognised (see
        `weights.load.read_weights`).
    dropout: None takes the released variant's rate, or else 0.2.
    stochastic_depth: None means 0.2 for networks with MBConv stages and 0 for others, published without it.
    padding, batch_norm_eps, batch_norm_momentum: see `layers.Convention`; None takes the convention of the weights,
        or else the authors'.
    pooling: "mean", "gem" or "max", see `layers.Pooling`.
    joint_views: build a `JointViews`, which scores all views of a breast together.
        For both, None takes what a file of this project records, or else "mean" and False. The exponent of "gem" and
        the attention stay as initialised if the weights lack them, and are ignored if the model lacks them.

    The model's `load_report` says what was done with each tensor of the weights. Its `provenance` says where the
    weights come from and which mean and std they expect. Both are None without weights. Its `classes` are the names of
    the outputs, if the weights are a checkpoint that records them and the model keeps its classifier, else None.

    Raises ValueError for an unknown name (listing the known ones), for values out of range, and for weights that do
    not fit the architecture.
    """
    if is_file(name_or_stages):
        if weights is not None:
            raise ValueError(f"weights are given twice: {name_or_stages} and {weights}")
        name_or_stages, weights = None, name_or_stages
    pretrained = stages = default_dropout = None
    if isinstance(name_or_stages, str):
        known = named_architecture(name_or_stages)
        stages, default_dropout = known.stages, known.dropout
    elif name_or_stages is not None:
        stages = tuple(stage if isinstance(stage, Stage) else Stage(**stage) for stage in name_or_stages)
    if weights is not None:
        pretrained = read_weights(weights, source, mean, std, stages and variant_of(stages))
    elif any(value is not None for value in (source, mean, std)):
        raise ValueError("source, mean and std describe weights: pass weights too")
    elif name_or_stages is None:
        raise ValueError('pass a name such as "b0", stages, or weights')
    if stages is None:
        known = pretrained.known_architecture()
        stages, default_dropout = known.stages, known.dropout
    num_classes = first_given(num_classes, pretrained and pretrained.num_classes, 1000)
    in_channels = first_given(in_channels, pretrained and pretrained.in_channels, 3)
    for name, value, least in (("num_classes", num_classes, 0), ("in_channels", in_channels, 1)):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    if stochastic_depth is None:
        stochastic_depth = 0.2 if any(stage.operator == "mbconv" for stage in stages) else 0.0
    chosen = {
        "padding": padding,
        "batch_norm_eps": batch_norm_eps,
        "batch_norm_momentum": batch_norm_momentum,
    }
    convention = pretrained.provenance.convention if pretrained else AUTHORS
    recorded = pretrained.recorded.get("architecture", {}) if pretrained else {}
    kind = JointViews if first_given(joint_views, recorded.get("joint_views"), False) else EfficientNet
    model = kind(
        (replace(stages[0], in_channels=in_channels), *stages[1:]),
        num_classes,
        first_given(dropout, default_dropout, 0.2),
        stochastic_depth,
        replace(convention, **{name: value for name, value in chosen.items() if value is not None}),
        checkpoint_activations,
        first_given(pooling, recorded.get("pooling"), "mean"),
    )
    model.load_report = pretrained.load_into(model) if pretrained else None
    model.provenance = pretrained.provenance if pretrained else None
    classes = pretrained.recorded.get("classes") if pretrained and num_classes == pretrained.num_classes else None
    model.classes = tuple(classes) if classes else None
    return model


def list_models(pattern: str = "*") -> list[str]:
    """The names that `create_model` accepts, filtered by an `fnmatch` pattern such as "lite*" or "b[0-3]".

    First the released variants by size, then EfficientNet-Lite, then the other baselines that the paper scales.
    """
    return fnmatch.filter(KNOWN | BASELINES, pattern)


def is_file(name: object) -> bool:
    """Whether `name_or_stages` is a file: a Path, or a string with a weights file's suffix or of a run folder."""
    if isinstance(name, str):
        return Path(name).suffix in WEIGHT_SUFFIXES or (
            name not in KNOWN | BASELINES and Path(name, "best.pt").exists()
        )
    return isinstance(name, Path)


def first_given(*values: Any) -> Any:
    """The first value that is not None."""
    return next(value for value in values if value is not None)
