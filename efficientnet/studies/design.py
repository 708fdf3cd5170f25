"""What a study compares: its networks, its data and the recipe of its runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from efficientnet.baselines.stages import MOBILENET_V2, RESNET_50
from efficientnet.imagefolder.run_data import RunData
from efficientnet.imagefolder.settings import ImageFolderSettings
from efficientnet.scaling import B0, Baseline
from efficientnet.studies.networks import (
    Network,
    matched_networks,
    small_baseline,
    step1_networks,
    unscaled_network,
)
from efficientnet.training.distributed import Process
from efficientnet.training.learner import default_precision

FIG8, STEP1, TABLE3 = "fig8", "step1", "table3"
SCALED_BASELINES = {FIG8: (B0,), STEP1: (B0,), TABLE3: (MOBILENET_V2, RESNET_50)}
# The same for all networks. Short runs underfit, so there is nothing that prevents overfitting.
RECIPE = (
    *("--recipe", "modern", "--mixup", "0", "--cutmix", "0", "--auto-augment", "none", "--crop-scale", "0.5", "1"),
    *("--weight-decay", "0.01", "--dropout", "0", "--stochastic-depth", "0"),
)


@dataclass(frozen=True)
class Data:
    """An image folder.  class_images: training images of each class.  validation: images."""

    path: str
    class_images: tuple[int, ...]
    validation: int

    @classmethod
    def of(cls, path: Path) -> Data:
        """Raises UserError for a folder that train.py could not train on as an image folder."""
        settings = ImageFolderSettings(image_size=(64, 64))
        run = RunData.find(path, settings, 0, Process(0, 1, 0, 1, torch.device("cpu")), None, None)
        counts = np.bincount(run.train.labels, minlength=len(run.classes))
        return cls(str(path.resolve()), tuple(counts.tolist()), len(run.validation.labels))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Data:
        """The inverse of `dataclasses.asdict`, from JSON."""
        return cls(values["path"], tuple(values["class_images"]), values["validation"])

    def __str__(self) -> str:
        numbers = f"{self.train:,} training and {self.validation:,} validation images of {self.classes:,} classes"
        return f"{self.path}: {numbers}"

    @property
    def classes(self) -> int:
        return len(self.class_images)

    @property
    def train(self) -> int:
        return sum(self.class_images)

    def first(self, images_per_class: int | None) -> int:
        """How many images --images-per-class trains on; None for all."""
        return sum(min(count, images_per_class or count) for count in self.class_images)


def usual_precision() -> str:
    """What train.py uses here. A study keeps it where it is continued, or its runs could not be compared."""
    return default_precision(Process(0, 1, 0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu")))


def recipe_flags(epochs: int, images_per_class: int | None, precision: str) -> tuple[str, ...]:
    """Of train.py.  images_per_class: None for all."""
    few = () if images_per_class is None else ("--images-per-class", str(images_per_class))
    return (*RECIPE, *few, "--epochs", str(epochs), "--precision", precision)


@dataclass(frozen=True)
class Design:
    """What determines the networks of a study and their runs.

    growths: multiply-adds of the scaled networks, in those of their baseline.  candidates: of STEP 1.
    sizes: width and image size of each small baseline.
    images_per_class: to train on; None for all.  precision: see `usual_precision`.
    """

    study: str
    data: Data
    budget_hours: float = 2.0
    seeds: int = 3
    growths: tuple[float, ...] = (4.0,)
    candidates: int = 8
    sizes: tuple[tuple[float, int], ...] = ()
    epochs: int = 1
    images_per_class: int | None = None
    precision: str = field(default_factory=usual_precision)

    @property
    def train_images(self) -> int:
        """How many a run trains on."""
        return self.data.first(self.images_per_class)

    def baselines(self) -> list[Baseline]:
        return [
            small_baseline(full, *size) for full, size in zip(SCALED_BASELINES[self.study], self.sizes, strict=True)
        ]

    def networks(self) -> list[Network]:
        """Each baseline, followed by its scaled networks."""
        return [network for baseline in self.baselines() for network in self.networks_of(baseline)]

    def networks_of(self, baseline: Baseline) -> list[Network]:
        """Raises ValueError if the baseline cannot be scaled as the study asks."""
        networks = [unscaled_network(baseline, self.data.classes)]
        if self.study == STEP1:
            return networks + step1_networks(baseline, self.candidates, self.data.classes)
        for growth in self.growths:
            networks += matched_networks(baseline, growth, self.data.classes)
        return networks

    def flags(self, network: Network, folder: Path) -> tuple[str, ...]:
        """Of train.py, without seed and machine.  folder: of the study, with the files of the baselines."""
        baseline = str(folder / f"{network.baseline.name}.json")
        return (
            *("--data", self.data.path, "--baseline", baseline, *network.flags.split()),
            *recipe_flags(self.epochs, self.images_per_class, self.precision),
        )
