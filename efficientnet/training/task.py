"""The interface to the data: everything that train.py and evaluate.py know about the images.

A `Task` is one kind of data with its labels, loss and metrics, as in `mammography/task.py`. The class works before any
data is read; an instance is the data of one run. An `Evaluation` is the data on which checkpoints are scored.
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
from torch.nn import functional as F
from torch.utils.data import Dataset

from efficientnet.model import EfficientNet
from efficientnet.training.distributed import Process
from efficientnet.training.recipe import Recipe
from efficientnet.weights.load import Provenance


class Item(NamedTuple):
    """One image of a data set.

    An image that cannot be read does not end a run: `failures` gives the reason, a line for each file. Another image
    takes its place, or a blank one with readable=False, whose target `Task.loss` must ignore (nan or an ignored class).
    """

    image: Tensor  # float32 (C, H, W), normalised; for joint views (V, C, H, W), absent ones nan
    target: Tensor  # for one image, as `Task.loss` expects it
    index: int  # place in the data set
    name: str  # tells a person which image it is
    failures: Sequence[str] = ()
    readable: bool = True


@dataclass(frozen=True)
class Batch:
    """N collated items. `readable` holds the positions in the batch that are not blank."""

    images: Tensor  # (N, C, H, W)
    targets: Tensor  # (N, ...)
    indices: list[int]
    names: list[str]
    failures: list[str]
    readable: list[int]

    def pin_memory(self) -> Batch:
        """Page-locked copies, which a GPU fetches in the background. Called by a DataLoader with pin_memory=True."""
        return replace(self, images=self.images.pin_memory(), targets=self.targets.pin_memory())


def alike(images: Sequence[Tensor], dimensions: int = 4) -> list[Tensor]:
    """Images of breasts (..., V, C, H, W) with so many dimensions, padded with absent views, nan, to the same V.

    Images with fewer dimensions have no views, and are unchanged.
    """
    if images[0].dim() < dimensions:
        return list(images)
    most = max(image.shape[-4] for image in images)
    return [F.pad(image, (0, 0, 0, 0, 0, 0, 0, most - image.shape[-4]), value=torch.nan) for image in images]


def collate(items: Sequence[Item]) -> Batch:
    return Batch(
        torch.stack(alike([item.image for item in items])),
        torch.stack([item.target for item in items]),
        [item.index for item in items],
        [item.name for item in items],
        [line for item in items for line in item.failures],
        [place for place, item in enumerate(items) if item.readable],
    )


class Datasets(NamedTuple):
    """Map-style data sets of `Item`. Their keys are ints, except in `train`."""

    train: Dataset  # augmented; its keys are `sampler.Draw`, whose `generator` seeds the augmentation
    calibration: Dataset  # the same images without augmentation, for batch-norm statistics
    validation: Dataset


@dataclass(frozen=True)
class Metrics:
    """The result of one evaluation.

    values: by name, None if undefined; a line of metrics.jsonl.  text: the same in one line for a person.
    score: decides which epoch is best; higher is better; None if undefined.
    """

    values: Mapping[str, Any]
    text: str
    score: float | None

    @property
    def summary(self) -> str:
        """One line for the end of the run. May take a second to compute, for example for confidence intervals."""
        return self.text


class Task(Protocol):
    """One kind of data.

    name: stored in checkpoints.  Settings: a frozen dataclass of `common.options`, with at least image_size (height,
    width) and in_channels. Its fields are flags, stored in config.json and kept by a resumed run. If image_size has no
    default, the architecture's is used.
    recipes: by the name for --recipe, values for fields of `Settings` and `Recipe`; other fields keep their defaults.
    default_recipes: what `default_recipe` returns, in words for --help.
    """

    name: ClassVar[str]
    Settings: ClassVar[type]
    recipes: ClassVar[Mapping[str, Mapping[str, Any]]]
    default_recipes: ClassVar[str]

    data: Path | None
    settings: Any
    recipe: Recipe
    num_outputs: int  # of the network
    network: Mapping[str, Any]  # further arguments of `create_model`
    positives: np.ndarray | None  # bool per training image, or None; --positive-share draws positives more often

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the flags of `Settings`."""

    @staticmethod
    def recognises(data: Path) -> bool:
        """Whether the folder of --data holds this kind of data, by a look at its first files. Raises nothing."""

    @staticmethod
    def default_recipe(data: Path | None, pretrained: bool) -> str:
        """The recipe without --recipe.  data: the folder of --data.  pretrained: whether there are --weights."""

    @staticmethod
    def defaults(data: Path | None, provenance: Provenance | None, recipe: str) -> dict[str, Any]:
        """Settings and recipe fields that override those of the recipe, unless their flags are given.

        data: the folder of --data.  provenance: of --weights, including their normalisation.
        """

    def __init__(self, data: Path | None, settings: Any, recipe: Recipe) -> None:
        """Store the arguments; raise ValueError for flags that contradict each other. Reads no data."""

    def load(
        self,
        process: Process,
        strict: bool,
        checkpoint: Mapping[str, Any] | None,
        pretrained: Mapping[str, Any] | None,
        folder: Path | None,
    ) -> None:
        """Read the table or list the folders. This sets `num_outputs` and `positives` and enables the methods below.

        strict: fail if an image is missing.  checkpoint: the one to resume from, with this task's `state`; what it held
        out stays held out, even if the data changed.
        pretrained: the checkpoint of --weights, perhaps of another task. Its training data cannot be held out honestly.
        folder: the run folder, if it has a name yet; that of a run to resume holds its `records`.  Raises UserError.
        """

    def records(self) -> dict[str, bytes]:
        """Files by name that a new run folder begins with, for `load` when the run is resumed."""

    def description(self) -> list[tuple[str, str]]:
        """(name, text) lines of the summary that a run begins with."""

    def datasets(self) -> Datasets: ...

    def keeps_classifier(self, recorded: Mapping[str, Any]) -> bool:
        """Whether the classifier of --weights, which has as many outputs, is for these data.

        recorded: the checkpoint, without its tensors; empty for published weights.
        """

    def start_classifier(self, classifier: nn.Linear) -> None:
        """Initialise a classifier that pretrained weights did not fill."""

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Scalar loss of logits (N, T), which may be fp16 or bf16, against collated targets (N, ...)."""

    def evaluate(self, logits: np.ndarray, indices: Sequence[int]) -> Metrics:
        """Metrics from float32 logits (n, T) of the validation images at `indices`, each of them at most once."""

    def files(self, metrics: Metrics, checkpoint: Mapping[str, Any]) -> dict[str, bytes]:
        """Files to write next to a new best checkpoint, by name.  checkpoint: as in `state.checkpoint_of`."""

    def state(self) -> dict[str, Any]:
        """Plain values for the checkpoint, so that it can be evaluated without repeating the flags of training.

        They are stored at its top level, so they must not repeat the names in `state.checkpoint_of`.
        """

    @staticmethod
    def summarise_folds(runs: Sequence[Path]) -> tuple[str, dict[str, bytes]]:
        """A text for the terminal, and files by name, from the finished run folders of all folds.

        Only for a task whose settings have `fold`, which may be "all", and `folds`. Raises UserError.
        """

    @staticmethod
    def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the flags that evaluate.py has for this task."""

    @staticmethod
    def published(model: EfficientNet) -> dict[str, Any]:
        """What `state` gives, for `evaluate.py --weights`.  model: with its `provenance`. Raises UserError."""

    @staticmethod
    def exported(path: Path, content: Mapping[str, Any], network: nn.Module) -> Exported:
        """What `efficientnet.export` writes of a checkpoint.  network: images (N, C, H, W) -> logits (N, O)."""

    @staticmethod
    def evaluation(checkpoints: Mapping[Path, Mapping[str, Any]], arguments: argparse.Namespace) -> Evaluation:
        """Read the data to score these checkpoints (contents by path) on. Raises UserError.

        With arguments.soup they are one member. A checkpoint of a `--fold all` folder has the folder's "summary".
        """

    @staticmethod
    def score_one_image(
        checkpoint: Path, content: Mapping[str, Any], network: EfficientNet, arguments: argparse.Namespace
    ) -> Report:
        """The report on arguments.image, for a task that has the flag --image. Raises UserError."""

    @staticmethod
    def comparison(names: Sequence[str], files: Sequence[bytes]) -> Report:
        """Compare two models by what `Evaluation.predictions` gave for each. Raises UserError."""


class Exported(NamedTuple):
    """What a file for other programs holds.

    network: images (N, C, H, W) -> logits (N, O) as `Evaluation.probabilities` expects them.
    outputs: names of the O logits, in a few words for a person.
    values, of_logits: what a user needs to prepare images, and to interpret logits; text or JSON values by name.
    """

    network: nn.Module
    outputs: str
    values: Mapping[str, Any]
    of_logits: Mapping[str, Any]


@dataclass(frozen=True)
class Report:
    """The output of evaluate.py.

    values: for --json; JSON values only.  text: for the terminal.
    files: contents by path; a relative path is below --output.
    problem: an error message with which the command exits with code 1, after writing all of this.
    """

    values: Mapping[str, Any]
    text: str
    files: Mapping[Path, bytes] = field(default_factory=dict)
    problem: str | None = None


class Evaluation(Protocol):
    """N images that M checkpoints (members of an ensemble) are scored on.

    description: one line.  warnings: a line each.
    allowed: bool (M, N), whether a member may score an image, for example only images that it did not train on.
    """

    description: str
    warnings: Sequence[str]
    allowed: np.ndarray

    def input_key(self, member: int) -> Hashable:
        """A key that is equal for members that see the same pixels, which then share one pass over the images."""

    def dataset(self, member: int) -> Dataset:
        """The N images as this member reads them; keys are 0 to N - 1."""

    def probabilities(self, member: int, logits: np.ndarray) -> np.ndarray:
        """Probabilities (n, T) from float32 logits (n, T); the ensemble averages them."""

    def predictions(self, probabilities: np.ndarray) -> bytes:
        """predictions.csv of mean probabilities (N, O)."""

    def headline(self, probabilities: np.ndarray) -> dict[str, float | None]:
        """The main metrics of mean probabilities (N, O), by name; None if undefined. Empty without labels."""

    def page(
        self,
        probabilities: np.ndarray,
        values: Mapping[str, Any],
        networks: Sequence[EfficientNet],
        title: str,
        device: torch.device,
    ) -> dict[str, bytes]:
        """Files by name for the folder of --report, if the task has the flag.

        values: of `report`.  networks: of the members, not on the fast path.  title: the members' architectures.
        """

    def report(self, probabilities: np.ndarray, failures: Sequence[str]) -> Report:
        """Score mean probabilities (N, T) over the members; nan where no member could score. Raises UserError."""
