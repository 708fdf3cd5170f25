"""What a study compares: its networks, its data and the recipe of its runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

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

FIG8, STEP1, TABLE3 = "fig8", "step1", "table3"
BASELINES = {FIG8: (B0,), STEP1: (B0,), TABLE3: (MOBILENET_V2, RESNET_50)}
# The same for all networks. Short runs underfit, so there is nothing that prevents overfitting.
RECIPE = (
    *("--recipe", "modern", "--mixup", "0", "--cutmix", "0", "--auto-augment", "none", "--crop-scale", "0.5", "1"),
    *("--weight-decay", "0.01", "--dropout", "0", "--stochastic-depth", "0"),
)


@dataclass(frozen=True)
class Data:
    """An image folder, with its numbers of classes, training and validation images."""

    path: str
    classes: int
    train: int
    validation: int

    def __str__(self) -> str:
        numbers = f"{self.train:,} training and {self.validation:,} validation images of {self.classes:,} classes"
        return f"{self.path}: {numbers}"

    def first(self, images_per_class: int | None) -> int:
        """How many images --images-per-class trains on; about, if classes have different numbers of them."""
        return min(self.train, (images_per_class or self.train) * self.classes)

    @classmethod
    def of(cls, path: Path) -> Data:
        """Raises UserError for a folder that train.py could not train on as an image folder."""
        settings = ImageFolderSettings(image_size=(64, 64))
        run = RunData.find(path, settings, 0, Process(0, 1, 0, 1, torch.device("cpu")), None, None)
        return cls(str(path.resolve()), len(run.classes), len(run.train.labels), len(run.validation.labels))


@dataclass(frozen=True)
class Design:
    """What determines the networks of a study and their runs.

    growths: multiply-adds of the scaled networks, in those of their baseline.  candidates: of STEP 1.
    sizes: width and image size of each small baseline.
    images_per_class: to train on; None for all.
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

    @property
    def train_images(self) -> int:
        """How many a run trains on."""
        return self.data.first(self.images_per_class)

    def baselines(self) -> list[Baseline]:
        return [small_baseline(full, *size) for full, size in zip(BASELINES[self.study], self.sizes, strict=True)]

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
        few = () if self.images_per_class is None else ("--images-per-class", str(self.images_per_class))
        baseline = str(folder / f"{network.baseline.name}.json")
        return (
            *("--data", self.data.path, "--baseline", baseline, *network.flags.split()),
            *(*RECIPE, *few, "--epochs", str(self.epochs)),
        )
