"""Find the known architecture that fits a file's tensors, or list how the tensors differ from one."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from efficientnet.baselines.stages import MOBILENET_V1, MOBILENET_V2, RESNET_50
from efficientnet.complexity import complexity
from efficientnet.model import EfficientNet
from efficientnet.scaling import LITE_VARIANTS, VARIANTS, Stage
from efficientnet.weights.names import OURS, Names, operator_of, translate

STEM = "stem.conv.weight"
CLASSIFIER = ("classifier.weight", "classifier.bias")
COUNTER = "num_batches_tracked"
# Starts of the names of tensors that only some poolings and `JointViews` have. No other library has them.
ADDITIONS = ("pooling.", "attention.")

ARCHITECTURES: dict[str, tuple[Stage, ...]] = {
    **{name: variant.stages for name, variant in (VARIANTS | LITE_VARIANTS).items()},
    **{baseline.name: baseline.stages for baseline in (MOBILENET_V1, MOBILENET_V2, RESNET_50)},
}


@functools.cache
def architecture_shapes(name: str) -> dict[str, torch.Size]:
    """The shape of each of our tensors for a known architecture with 1000 classes."""
    with torch.device("meta"):
        return {name: tensor.shape for name, tensor in EfficientNet(ARCHITECTURES[name]).state_dict().items()}


def compare(
    names: Names, stages: Sequence[Stage], shapes: Mapping[str, torch.Size], tensors: Mapping[str, Tensor]
) -> list[str]:
    """The reasons why a file's tensors do not fit our tensors of these shapes: one phrase each, in the file's names.

    The file may have another number of classes or input channels, and may lack the classifier, or classifier and head,
    and the batch-norm counters. `ADDITIONS` may be missing, and superfluous in a file of this project.
    """
    translation = translate(names, stages, shapes)
    classifier = [tensors.get(names.outer(name)) for name in CLASSIFIER]
    optional: tuple[str, ...] = ()
    if all(tensor is None for tensor in classifier):
        has_head = any(theirs in tensors for ours, theirs in translation.items() if ours.startswith("head."))
        optional = ("classifier.",) if has_head else ("classifier.", "head.")
    problems, unused = [], set() if "classifier.weight" in shapes else set(map(names.outer, CLASSIFIER))
    if names is OURS:
        unused |= {name for name in tensors if name.startswith(ADDITIONS)}
    for ours, theirs in translation.items():
        if theirs not in tensors:
            if not ours.endswith(COUNTER) and not ours.startswith((*optional, *ADDITIONS)):
                problems.append(f"{theirs} is missing")
            continue
        found, wanted = tensors[theirs].shape, shapes[ours]
        if fixed_dimensions(ours, found) != fixed_dimensions(ours, wanted):
            problems.append(f"{theirs} is {tuple(found)}, not {tuple(wanted)}")
        elif not (tensors[theirs].is_floating_point() or ours.endswith(COUNTER)):
            problems.append(f"{theirs} holds {tensors[theirs].dtype}, not floating point")
    if all(tensor is not None for tensor in classifier) and classifier[0].shape[:1] != classifier[1].shape:
        problems.append(f"{names.outer('classifier.bias')} and its weight have different numbers of classes")
    return problems + [f"{theirs} is unknown" for theirs in sorted(tensors.keys() - translation.values() - unused)]


def foreign_block(names: Names, tensors: Iterable[str]) -> str | None:
    """A tensor that shows that the blocks are not those of this table, whatever the stages; None if they may be."""
    if not names.parts:
        return None
    template = re.sub(r"\\\{\w+\\\}", r"\\d+", re.escape(names.block))
    block_of = re.compile(f"({template})(.+)\\.\\w+")
    found = [match.groups() for name in tensors if (match := block_of.fullmatch(name))]
    tables = (names.parts, names.unexpanded or {})
    for block, part in found:
        if not any(part in table.values() for table in tables):
            return f"{block}{part}"
    last = [table[end] for table in tables for end in ("project.conv", "restore.conv") if end in table]
    first = [part for block, part in found if block == found[0][0]]
    return None if not found or set(first) & set(last) else f"{found[0][0]}{last[0]} is missing"


def fixed_dimensions(name: str, shape: torch.Size) -> torch.Size:
    """The part of a tensor's shape that must match: all but the numbers of classes and input channels."""
    if name.startswith("classifier."):
        return shape[1:]
    if name == STEM:
        return shape[:1] + shape[2:]
    return shape


def candidates(names: Names) -> list[str]:
    """The known architectures whose blocks the table of names can describe."""
    return [name for name, stages in ARCHITECTURES.items() if names.operator in ("", operator_of(stages))]


def recognise_variant(names: Names, tensors: Mapping[str, Tensor]) -> str | None:
    """The known architecture that has exactly these tensors, or None.

    Only the architecture with the nearest parameter count is compared, since building all of them takes seconds.
    """
    free = {names.outer(name) for name in (STEM, *CLASSIFIER)}
    buffers = ("running_mean", "running_var", COUNTER)
    ours = {name: tensor for name, tensor in tensors.items() if not name.startswith(ADDITIONS)}
    count = sum(tensor.numel() for name, tensor in ours.items() if name not in free and not name.endswith(buffers))

    def distance(name: str) -> int:
        """The difference in parameters, with or without the head, whichever is smaller."""
        *_, last, head = stages = ARCHITECTURES[name]
        whole = complexity(stages, 224, num_classes=0, in_channels=0).parameters
        return min(abs(whole - count), abs(whole - head.out_channels * (last.out_channels + 2) - count))

    nearest = min(candidates(names), key=distance)
    return None if compare(names, ARCHITECTURES[nearest], architecture_shapes(nearest), tensors) else nearest


def nearest_architecture(names: Names, tensors: Mapping[str, Tensor]) -> tuple[str | None, list[str]]:
    """The known architecture that differs least from the tensors, and how it differs (see `compare`), for messages.

    None and no differences if at least half of the tensors differ from every known architecture.
    """
    problems = {
        name: compare(names, ARCHITECTURES[name], architecture_shapes(name), tensors) for name in candidates(names)
    }
    nearest = min(problems, key=lambda name: len(problems[name]))
    return (nearest, problems[nearest]) if len(problems[nearest]) < len(tensors) / 2 else (None, [])


def variant_of(stages: Sequence[Stage]) -> str | None:
    """The name of the known architecture with these stages, or None. The stem, with the image channels, may differ."""
    return next((name for name, known in ARCHITECTURES.items() if tuple(stages[1:]) == known[1:]), None)
