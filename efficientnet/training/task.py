"""The interface to the data: all that train.py and evaluate.py know about the images.

A `Task` is one kind of data with its labels, loss and metrics; `mammography/task.py` has one. The class answers before
any data is read; an instance is the data of one run. An `Evaluation` is the data that checkpoints are scored on.
"""

from __future__ import annotations

import argparse
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from efficientnet.training.distributed import Process
from efficientnet.training.recipe import Recipe
from efficientnet.weights.load import Provenance


class Item(NamedTuple):
    """One image of a data set.

    An image that cannot be read does not end a run: `failures` says why in a line for each file. Another image takes
    its place, or a blank one with readable=False, whose target `Task.loss` must ignore (nan, or an ignored class).
    """

    image: Tensor  # float32 (C, H, W), normalised
    target: Tensor  # what `Task.loss` takes, for one image
    index: int  # place in the data set
    name: str  # by which a person finds the image
    failures: Sequence[str] = ()
    readable: bool = True


@dataclass(frozen=True)
class Batch:
    """N items, collated. `readable` holds the places in the batch that are not blank."""

    images: Tensor  # (N, C, H, W)
    targets: Tensor  # (N, ...)
    indices: list[int]
    names: list[str]
    failures: list[str]
    readable: list[int]

    def pin_memory(self) -> Batch:
        """Called by a DataLoader with pin_memory=True: page-locked copies, which a GPU fetches in the background."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())


def collate(items: Sequence[Item]) -> Batch:
    return Batch(
        torch.stack([item.image for item in items]),
        torch.stack([item.target for item in items]),
        [item.index for item in items],
        [item.name for item in items],
        [line for item in items for line in item.failures],
        [place for place, item in enumerate(items) if item.readable],
    )


class Datasets(NamedTuple):
    """Map-style data sets of `Item`. Their keys are ints, but for those of `train`."""

    train: Dataset  # augmented; its keys are `sampler.Draw`, whose `generator` seeds the augmentation
    calibration: Dataset  # the same images without augmentation, for batch-norm statistics
    validation: Dataset


@dataclass(frozen=True)
class Metrics:
    """The result of one evaluation.

    values: by name, None where undefined; a line of metrics.jsonl.  text: the same for a person, in one line.
    score: decides which epoch is best, the higher the better; None where undefined.
    """

    values: Mapping[str, Any]
    text: str
    score: float | None

    @property
    def summary(self) -> str:
        """One line for the end of the run. May take a second, such as for confidence intervals."""
        return self.text


class Task(Protocol):
    """One kind of data.

    name: stored in checkpoints.  Settings: a frozen dataclass of `common.options` with at least image_size (height,
    width) and in_channels: the flags, stored in config.json and kept by a resumed run. An image_size without a default
    is the architecture's.
    recipe_defaults: fields of `Recipe`, shown by --help; the others keep `Recipe`'s neutral defaults.
    """

    name: ClassVar[str]
    Settings: ClassVar[type]
    recipe_defaults: ClassVar[Mapping[str, Any]]

    data: Path | None
    settings: Any
    recipe: Recipe
    num_outputs: int  # of the network
    positives: np.ndarray | None  # bool, for each training image: those that --positive-share draws more often

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the flags of `Settings`."""

    @staticmethod
    def defaults(data: Path | None, provenance: Provenance | None) -> dict[str, Any]:
        """Settings, and fields of the recipe that differ from `recipe_defaults`, where the command line is silent.

        data: the folder of --data.  provenance: of --weights, such as their normalisation.
        """

    def __init__(self, data: Path | None, settings: Any, recipe: Recipe) -> None:
        """Keep these; raise ValueError for flags that contradict each other. No data is read yet."""

    def load(
        self,
        process: Process,
        strict: bool,
        checkpoint: Mapping[str, Any] | None,
        pretrained: Mapping[str, Any] | None,
    ) -> None:
        """Read the table or list the folders: `num_outputs`, `positives` and the methods below work from here on.

        strict: fail for an image that is not there.  checkpoint: of the run that is resumed, with this task's `state`:
        what it held out stays held out, even if the data have changed.  pretrained: the checkpoint that --weights
        names, perhaps of another task: what it was trained on cannot be held out honestly.  Raises UserError.
        """

    def description(self) -> list[tuple[str, str]]:
        """(name, text) lines of the page that a run begins with."""

    def datasets(self) -> Datasets: ...

    def start_classifier(self, classifier: nn.Linear) -> None:
        """Initialise a classifier that no pretrained weights have filled."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of logits (N, T), which may be fp16 or bf16, against collated targets (N, ...)."""

    def evaluate(self, logits: np.ndarray, indices: Sequence[int]) -> Metrics:
        """Metrics of float32 logits (n, T) of the validation images at these places; each place at most once."""

    def files(self, metrics: Metrics, checkpoint: Mapping[str, Any]) -> dict[str, bytes]:
        """Files that stand beside a new best checkpoint, by name.  checkpoint: as in `state.checkpoint_of`."""

    def state(self) -> dict[str, Any]:
        """Plain values for the checkpoint: what evaluation needs to use it without being told again.

        They stand at its top, beside the names of `state.checkpoint_of`, which they must not repeat.
        """

    @staticmethod
    def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the flags that evaluate.py has for this task."""

    @staticmethod
    def evaluation(checkpoints: Mapping[Path, Mapping[str, Any]], arguments: argparse.Namespace) -> Evaluation:
        """Read the data that these checkpoints (contents by path) are to be scored on. Raises UserError."""


@dataclass(frozen=True)
class Report:
    """The output of evaluate.py.

    values: for --json, without anything that is not JSON.  text: for the terminal.
    files: contents by path; a relative path is below --output.  problem: why the command ends with exit code 1, though
    with all of this.
    """

    values: Mapping[str, Any]
    text: str
    files: Mapping[Path, bytes] = field(default_factory=dict)
    problem: str | None = None


class Evaluation(Protocol):
    """N images that M checkpoints (members of an ensemble) are scored on.

    description: one line.  warnings: a line each.
    allowed: bool (M, N), which member may score which image, such as only those it did not train on.
    """

    description: str
    warnings: Sequence[str]
    allowed: np.ndarray

    def input_key(self, member: int) -> Hashable:
        """Equal for members that see the same pixels: one pass over the images serves them all."""

    def dataset(self, member: int) -> Dataset:
        """The N images as this member reads them; its keys are 0 to N - 1."""

    def probabilities(self, member: int, logits: np.ndarray) -> np.ndarray:
        """Probabilities (n, T) of float32 logits (n, T), which ensembles average."""

    def report(self, probabilities: np.ndarray, failures: Sequence[str]) -> Report:
        """Score the means over the members (N, T), nan where no member could score an image. Raises UserError."""
