"""Which known architecture a file's tensors are of, and where they differ from it."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from efficientnet.baselines.stages import MOBILENET_V1, MOBILENET_V2, RESNET_50
from efficientnet.complexity import complexity
from efficientnet.model import EfficientNet
from efficientnet.scaling import LITE_VARIANTS, VARIANTS, Stage
from efficientnet.weights.names import Names, operator_of, translate

STEM = "stem.conv.weight"
COUNTER = "num_batches_tracked"

ARCHITECTURES: dict[str, tuple[Stage, ...]] = {
    **{name: variant.stages for name, variant in (VARIANTS | LITE_VARIANTS).items()},
    **{baseline.name: baseline.stages for baseline in (MOBILENET_V1, MOBILENET_V2, RESNET_50)},
}


@functools.cache
def architecture_shapes(name: str) -> dict[str, torch.Size]:
    """The shapes of our tensors of a known architecture with 1000 classes."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in EfficientNet(ARCHITECTURES[name]).state_dict().items()}


def compare(
    names: Names, stages: Sequence[Stage], shapes: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]
) -> list[str]:
    """What keeps a file's tensors from fitting our tensors of those shapes: a phrase for each, by the file's names.

    The number of classes and of input channels may differ, a classifier may be missing whole, counters always.
    """
    translation = translate(names, stages, shapes)
    classifier = [tensors.get(names.outer(f"classifier.{leaf}")) for leaf in ("weight", "bias")]
    has_classifier = any(tensor is not None for tensor in classifier)
    problems = []
    for ours, theirs in translation.items():
        if theirs not in tensors:
            if not ours.endswith(COUNTER) and (has_classifier or not ours.startswith("classifier.")):
                problems.append(f"{theirs} is missing")
            continue
        found, wanted = tensors[theirs].shape, shapes[ours]
        if free_dimensions(ours, found) != free_dimensions(ours, wanted):
            problems.append(f"{theirs} is {tuple(found)}, not {tuple(wanted)}")
        elif not (tensors[theirs].is_floating_point() or ours.endswith(COUNTER)):
            problems.append(f"{theirs} holds {tensors[theirs].dtype}, not floating point")
    if all(tensor is not None for tensor in classifier) and classifier[0].shape[:1] != classifier[1].shape:
        problems.append(f"{translation['classifier.bias']} and weight are of different numbers of classes")
    return problems + [f"{theirs} is unknown" for theirs in sorted(tensors.keys() - translation.values())]


def free_dimensions(name: str, shape: torch.Size) -> torch.Size:
    """The part of a tensor's shape that has to fit: all but the classes and the input channels."""
    if name.startswith("classifier."):
        return shape[1:]
    return shape[:1] + shape[2:] if name == STEM else shape


def candidates(names: Names) -> list[str]:
    """The known architectures that such names can be of."""
    return [name for name, stages in ARCHITECTURES.items() if names.operator in ("", operator_of(stages))]


def recognise_variant(names: Names, tensors: Mapping[str, Tensor]) -> str | None:
    """The known architecture whose tensors these are, whole and nothing else; None where there is none."""
    free = {names.outer(name) for name in (STEM, "classifier.weight", "classifier.bias")}
    buffers = ("running_mean", "running_var", COUNTER)
    count = sum(tensor.numel() for name, tensor in tensors.items() if name not in free and not name.endswith(buffers))

    def distance(name: str) -> int:
        return abs(complexity(ARCHITECTURES[name], 224, num_classes=0, in_channels=0).parameters - count)

    nearest = min(candidates(names), key=distance)
    return None if compare(names, ARCHITECTURES[nearest], architecture_shapes(nearest), tensors) else nearest


def closest_variant(names: Names, tensors: Mapping[str, Tensor]) -> str | None:
    """The known architecture from which the fewest tensors differ, for messages; None where most do."""

    def differences(name: str) -> int:
        return len(compare(names, ARCHITECTURES[name], architecture_shapes(name), tensors))

    closest = min(candidates(names), key=differences)
    return closest if differences(closest) < len(tensors) / 2 else None


def variant_of(stages: Sequence[Stage]) -> str | None:
    """The known architecture that these stages are, whatever the image's channels; None for others."""
    return next((name for name, known in ARCHITECTURES.items() if tuple(stages[1:]) == known[1:]), None)
