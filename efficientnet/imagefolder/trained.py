"""The metadata of checkpoints: their classes and preprocessing, and which images they were trained on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efficientnet.imagefolder.dataset import UNKNOWN, Images, Preprocessing
from efficientnet.imagefolder.imagenet import class_indices, imagenet_classes
from efficientnet.training.checkpoint import CheckpointError, misfit


@dataclass(frozen=True)
class Trained:
    """The metadata of a checkpoint, without the network.

    classes: names in the order of the outputs.  data: the folder that it was trained on; None for published weights.
    trained_on, earlier: `fingerprints` of its training images, if a folder without a validation folder was split, and
    of those that its --weights were trained on.
    flips: whether it was trained with mirror images.
    input_known: False if the preprocessing of published weights is the usual one, not the recorded one.
    """

    path: Path
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    data: Path | None
    trained_on: np.ndarray
    earlier: np.ndarray
    flips: bool
    input_known: bool = True

    @classmethod
    def from_checkpoint(cls, path: Path, content: Mapping[str, Any]) -> Trained:
        """Read the metadata from a checkpoint's content. Raises CheckpointError if something is missing."""
        try:
            plan = content.get("plan")  # published weights have none
            if len(content["classes"]) != content["architecture"]["num_classes"]:
                raise ValueError("its classes do not fit its network")
            return cls(
                path,
                tuple(content["classes"]),
                Preprocessing.from_dict(content["preprocessing"]),
                None if plan is None else Path(plan["data"]),
                content["trained_on"].numpy(),
                content["earlier"].numpy(),
                True if plan is None else plan["settings"]["flip"],
                content.get("input_known", True),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise misfit(path, error) from None

    def labels_of(self, folders: Sequence[str]) -> list[int]:
        """The label of each class folder: that of the class of its name in any case, or UNKNOWN.

        Folders of ImageNet's classes may be called by WordNet's ids, by the English names or by the numbers.
        """
        if is_imagenet(self.classes):
            return class_indices(folders, UNKNOWN)
        by_name = {name: label for label, name in enumerate(self.classes)}
        in_any_case = {name.casefold(): label for name, label in by_name.items()}
        if len(in_any_case) == len(by_name):
            return [in_any_case.get(folder.casefold(), UNKNOWN) for folder in folders]
        return [by_name.get(folder, UNKNOWN) for folder in folders]


def is_imagenet(classes: Sequence[str]) -> bool:
    """Whether these are the 1,000 classes of ImageNet in their order, by WordNet's ids or English names."""
    known = imagenet_classes()
    return list(classes) in ([identifier for identifier, _ in known], [name for _, name in known])


def fingerprints(images: Images | None) -> Tensor:
    """64 bits of a hash of each image's relative path and size in bytes, int64 (N,).

    They tell whether a checkpoint was trained on an image, also in a copy of the folder; `evaluation.seen` looks closer
    where another folder may have files of the same names and sizes. None has no images.
    """
    if images is None:
        return torch.zeros(0, dtype=torch.int64)
    digests = []
    for name in images.names:
        try:
            size = os.stat(images.root / name).st_size
        except OSError:  # gone, or cannot be read
            size = -1
        text = f"{name}\0{size}".encode(errors="surrogateescape")
        digests.append(hashlib.blake2b(text, digest_size=8).digest())
    return torch.from_numpy(np.frombuffer(b"".join(digests), dtype=np.int64).copy())


def check_alike(members: Sequence[Trained]) -> None:
    """Raise CheckpointError if the checkpoints cannot be evaluated together."""
    first = members[0]
    for member in members[1:]:
        if member.classes != first.classes:
            raise CheckpointError(
                f"{member.path}: has other classes than {first.path}; an ensemble needs the same classes in the same "
                "order"
            )


def as_one(members: Sequence[Trained]) -> Trained:
    """The metadata of the network whose weights are the mean of the members' (--soup).

    It is trained on the images of all members. Raises CheckpointError if the members do not see the same pixels.
    """
    first = members[0]
    for member in members[1:]:
        if member.preprocessing != first.preprocessing:
            raise CheckpointError(
                f"{member.path}: reads its images in another way than {first.path}; --soup needs the same preprocessing"
            )
    trained_on, earlier = (
        np.unique(np.concatenate([getattr(member, name) for member in members])) for name in ("trained_on", "earlier")
    )
    flips = all(member.flips for member in members)
    return replace(first, trained_on=trained_on, earlier=earlier, flips=flips)
