"""Find the network among a file's tensors, and the library that it comes from."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from efficientnet.weights.conventions import BLURRING, CONVENTIONS, published_name
from efficientnet.weights.files import WeightsError
from efficientnet.weights.names import NAMES, OURS, Names
from efficientnet.weights.variants import CLASSIFIER, STEM, foreign_block

# Tensors that belong to no network: those of losses, and the counters of profilers (thop) and of averaged weights.
BESIDE = re.compile(r"^(?:criterion|loss\w*)\.|(?:^|\.)(?:total_ops|total_params|n_averaged|steps)$")
# First parts of the names that users give to their own classifiers.
HEADS = ("classifier", "fc", "_fc", "head", "last_linear")
TIMM_FAMILIES = ("timm", "timm_tf")


OF_NO_VARIANT = (
    "is not a known variant; if it has a custom architecture of this project, pass that too: its stages, or flags such "
    "as --phi"
)


class UnknownFamily(WeightsError):
    """The file's tensors fit both of timm's families."""


@dataclass(frozen=True)
class Network:
    """A network among a file's tensors.

    prefix: the text before each of its names in the file, in addition to the prefix in the library's own files.
    tensors: by the library's names. ignored: names of the file's other tensors, including those of a custom head.
    """

    names: Names
    prefix: str
    tensors: Mapping[str, Tensor]
    ignored: tuple[str, ...]


def find_network(path: Path, tensors: Mapping[str, Tensor]) -> Network:
    """The only network among the tensors, under any prefix. Raises WeightsError if there is none, or several.

    A table's signature identifies the library and the prefix. The stem confirms it: otherwise transformers'
    `encoder.blocks.` would also be timm's `blocks.` under a prefix.
    """
    kept = [name for name in tensors if not BESIDE.search(name)]
    places: Counter[tuple[int, str]] = Counter()
    tables = (*NAMES, OURS)
    for name in kept:
        for number, table in enumerate(tables):
            start = f".{name}".find(f".{table.signature}")
            if start >= 0:
                places[number, name[:start]] += 1
    if not places:
        shown = ", ".join(list(tensors)[:3])
        raise WeightsError(
            f"{path}: no known library names its tensors like this: {shown}; "
            f"the known ones are {', '.join(CONVENTIONS)}"
        )
    whole = [place for place in places if place[1] + tables[place[0]].outer(STEM) in tensors]
    if len(whole) > 1:
        prefixes = [prefix.removesuffix(tables[number].prefix) for number, prefix in whole]
        raise WeightsError(
            f"{path}: holds several networks, with names under {' and '.join(p or 'no prefix' for p in prefixes)}; "
            "save the tensors of one alone, such as "
            f"{{name: tensor for name, tensor in state_dict.items() if name.startswith({prefixes[-1]!r})}}"
        )
    number, prefix = whole[0] if whole else max(places, key=lambda place: (places[place], -len(place[1])))
    names = tables[number]

    inside = {name.removeprefix(prefix): name for name in kept if name.startswith(prefix)}
    outer = prefix.removesuffix(names.prefix)
    inside |= {name: outer + name for name in map(names.outer, CLASSIFIER) if outer + name in tensors}
    own_head = own_head_of(names, inside)
    inside = {name: full for name, full in inside.items() if name not in own_head}
    found = {name: tensors[full] for name, full in inside.items()}
    foreign = foreign_block(names, found)
    if foreign:
        raise WeightsError(f"{path}: unsupported block type, such as EfficientNetV2's or ResNet-18's ({foreign})")
    used = set(inside.values())
    return Network(names, outer, found, tuple(name for name in tensors if name not in used))


def own_head_of(names: Names, tensors: Iterable[str]) -> list[str]:
    """The tensors of a custom classifier, such as one with two layers; empty if the classifier is the library's own.

    Its layers without tensors, such as activations, cannot be recognised, so the whole classifier is left out.
    """
    body = {names.outside.get(part, part).partition(".")[0] for part in ("stem.conv", "body", "head.conv")}
    head = [name for name in tensors if name.partition(".")[0] in HEADS and name.partition(".")[0] not in body]
    return head if set(head) - set(map(names.outer, CLASSIFIER)) else []


def recognise_library(path: Path, names: Names, variant: str | None, source: str | None) -> str:
    """The library that the names belong to. `source` or the file's name decides between timm's two families.

    Raises WeightsError if `source` is another library, or if the file's name is that of a model that only its name
    distinguishes from this project's; UnknownFamily if neither `source` nor the name decides.
    """
    if source is not None and source.removesuffix("_tf") != names.library:
        raise WeightsError(f"{path}: its tensors have {names.library}'s names, not {source}'s")
    published = published_name(path)
    if BLURRING.search(published):
        raise WeightsError(f"{path}: {published} is {variant} with blur layers, which this project does not support")
    if source is not None or names.library != "timm":
        return source or names.library
    for prefix, library in zip(("efficientnet_", "tf_efficientnet_"), TIMM_FAMILIES, strict=True):
        if published.startswith(prefix):
            return library
    raise UnknownFamily(
        f"{path}: timm's plain and tf_ models have the same tensor names but different padding and batch-norm eps; "
        'specify source "timm" or "timm_tf" (--source)' + ("" if variant else f"\nIt {OF_NO_VARIANT}")
    )
