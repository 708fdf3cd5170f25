"""The classes of ImageNet (ILSVRC 2012), and which of them a folder's name means."""

from __future__ import annotations

import re
from collections.abc import Sequence
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


def class_indices(folders: Sequence[str], otherwise: int) -> list[int]:
    """The index of the class that each folder is named after, or `otherwise`, by the way that most are named in:

    by WordNet's id, which other words may follow ("n01440764-tench"), by the English name ("great_white_shark"; case,
    "_" and blanks do not matter), or by the index itself ("0" to "999").
    """
    ids, names = zip(*imagenet_classes(), strict=True)
    numbers, by_way = map(str, range(len(ids))), []
    for keys, key_of in ((ids, wordnet_id), (map(plain, names), plain), (numbers, without_zeros)):
        places = {key: index for index, key in enumerate(keys)}
        by_way.append([places.get(key_of(folder), otherwise) for folder in folders])
    return min(by_way, key=lambda indices: indices.count(otherwise))


def wordnet_id(folder: str) -> str:
    found = WORDNET_ID.fullmatch(folder)
    return found[1].lower() if found else ""


def plain(name: str) -> str:
    return name.lower().replace("_", " ")


def without_zeros(number: str) -> str:
    return number.lstrip("0") or "0"
