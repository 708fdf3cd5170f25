"""The classes of ImageNet (ILSVRC 2012), and which of them a folder's name means."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

FILE = Path(__file__).with_name("imagenet_classes.txt")
WORDNET_ID = re.compile(r"(n\d{8})(?:[-_ ].*)?", re.IGNORECASE)


@cache
def imagenet_classes() -> list[tuple[str, str]]:
    """(WordNet id, English name) of the 1,000 classes in the order of their indices.

    The name is the first of the synset's words in WordNet; six are made distinct, such as "crane (bird)".
    """
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return [tuple(line.split(" ", 1)) for line in lines]


def class_indices(folders: Sequence[str]) -> list[int] | None:
    """The index of the class that each folder is named after; None unless all are named in one of these ways.

    By WordNet's id, which other words may follow ("n01440764-tench"), by the English name ("great_white_shark"; case,
    "_" and blanks do not matter), or by the index itself ("0" to "999").
    """
    ids, names = zip(*imagenet_classes(), strict=True)

    def by_id(folder: str) -> int:
        return ids.index(WORDNET_ID.fullmatch(folder)[1].lower())

    def by_name(folder: str) -> int:
        return [plain(name) for name in names].index(plain(folder))

    def by_index(folder: str) -> int:
        return range(len(ids)).index(int(folder))

    ways: tuple[Callable[[str], int], ...] = (by_id, by_name, by_index)
    for way in ways:
        try:
            return [way(folder) for folder in folders]
        except (ValueError, TypeError):  # another way, or no class of ImageNet
            continue
    return None


def plain(name: str) -> str:
    return name.lower().replace("_", " ")
