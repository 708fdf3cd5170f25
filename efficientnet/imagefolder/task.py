"""Image folders as a `training.task.Task`: a folder of images for each class -> a probability for each class."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efficientnet.architecture import recorded_architecture
from efficientnet.common.errors import UserError
from efficientnet.common.options import add_options
from efficientnet.common.text import counted
from efficientnet.imagefolder.dataset import IGNORED, Augmentation, FolderDataset, Preprocessing
from efficientnet.imagefolder.evaluation import ImageFolderEvaluation, score_one_image
from efficientnet.imagefolder.imagenet import imagenet_classes
from efficientnet.imagefolder.listing import looks_like_image_folder
from efficientnet.imagefolder.report import PREDICTIONS, compare_predictions, model_card, summarise_folds
from efficientnet.imagefolder.run_data import VALIDATION, WHOLE, RunData, find_parts, not_split
from efficientnet.imagefolder.scoring import TOP, Scores, percent, predictions_csv, predictions_of, score_line
from efficientnet.imagefolder.settings import (
    DEFAULT_RECIPES,
    RECIPES,
    ImageFolderSettings,
    add_evaluation_arguments,
)
from efficientnet.imagefolder.trained import Trained, fingerprints, is_imagenet
from efficientnet.model import EfficientNet
from efficientnet.training.distributed import Process
from efficientnet.training.plan import ALL_FOLDS
from efficientnet.training.recipe import Recipe
from efficientnet.training.task import Datasets, Exported, Metrics
from efficientnet.weights.conventions import IMAGENET
from efficientnet.weights.load import Provenance


@dataclass(frozen=True)
class ImageFolderMetrics(Metrics):
    """`Metrics` with the `scores` of the validation images, and the logits (n, C) of those at `indices` (n,)."""

    scores: Scores
    indices: Sequence[int]
    logits: np.ndarray

    @cached_property
    def figures(self) -> dict[str, Any]:
        return self.scores.figures()

    @property
    def summary(self) -> str:
        line = f"validation: {score_line(self.figures)}"
        if worst := self.figures["confusions"][:3]:
            pairs = (f"{each['class']} taken for {each['predicted']} ({each['images']:,})" for each in worst)
            line += f"\nmost frequent confusions: {', '.join(pairs)}"
        return line


class ImageFolder:
    """A folder of images for each class, divided into train/ and val/, or into folds. One class per image, softmax."""

    name = "imagefolder"
    Settings = ImageFolderSettings
    recipes = RECIPES
    default_recipes = DEFAULT_RECIPES
    summarise_folds = staticmethod(summarise_folds)
    comparison = staticmethod(compare_predictions)
    score_one_image = staticmethod(score_one_image)
    recognises = staticmethod(looks_like_image_folder)
    add_evaluation_arguments = staticmethod(add_evaluation_arguments)
    evaluation = staticmethod(ImageFolderEvaluation.from_arguments)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.epilog = (
            "--data is a folder with train/ and val/ (or validation/, test/) that hold a folder for each class, or a\n"
            "folder of class folders, which is split. The defaults shown are those of the recipe modern; --dry-run\n"
            "prints those of a run."
        )
        add_options(parser, ImageFolderSettings, RECIPES["modern"])

    @staticmethod
    def default_recipe(data: Path | None, pretrained: bool) -> str:
        return "transfer" if pretrained else "modern"

    @staticmethod
    def defaults(data: Path | None, provenance: Provenance | None, recipe: str) -> dict[str, Any]:
        if provenance is None:
            if recipe == "transfer":
                raise ValueError("--recipe transfer fine-tunes pretrained weights: pass --weights, such as lite0")
            return {}
        return {"mean": provenance.mean, "std": provenance.std}

    def __init__(self, data: Path | None, settings: ImageFolderSettings, recipe: Recipe) -> None:
        if data is None:
            raise ValueError("--data is missing: the folder of images")
        if settings.fold != ALL_FOLDS and settings.fold >= settings.folds:
            raise ValueError(f"--fold {settings.fold}: folds count from 0 to {settings.folds - 1}, or all")
        if settings.fold == ALL_FOLDS and VALIDATION in (parts := find_parts(data)):
            raise ValueError(not_split(parts[VALIDATION]))
        if settings.crop_scale[0] > settings.crop_scale[1]:
            raise ValueError("--crop-scale: the least share is above the largest")
        self.data, self.settings, self.recipe = data, settings, recipe
        channels = settings.in_channels
        mean, std = (
            of_channels(name, getattr(settings, name) or default, channels)
            for name, default in zip(("mean", "std"), IMAGENET, strict=True)
        )
        self.preprocessing = Preprocessing(
            settings.image_size, channels, mean, std, settings.crop_fraction, settings.interpolation
        )
        self.network: dict[str, Any] = {}
        self.positives = None

    def load(
        self,
        process: Process,
        strict: bool,
        checkpoint: Mapping[str, Any] | None,
        pretrained: Mapping[str, Any] | None,
        folder: Path | None,
    ) -> None:
        run = RunData.find(self.data, self.settings, self.recipe.seed, process, checkpoint, folder)
        if strict and run.changes:
            raise UserError(run.changes[0])
        if checkpoint is not None and list(run.classes) != checkpoint["classes"]:
            raise UserError(f"{self.data}: the class folders have changed since the run began; restore them")
        self.run, self.num_outputs = run, len(run.classes)
        if self.settings.select == "top5" and self.num_outputs <= TOP:
            raise UserError(f"--select top5: always 1 with {self.num_outputs} classes; use top1 or val_loss")
        self.warnings = [*run.changes, *run.warnings]
        self.trained_on = fingerprints(run.train if WHOLE in run.listings else None).unique()
        before, start = checkpoint or {}, pretrained or {}
        seen = [each[name] for each in (before, start) for name in ("trained_on", "earlier") if name in each]
        self.earlier = before["earlier"] if before else torch.cat([fingerprints(None), *seen]).unique()
        if leaked := self.held_out_before():
            self.warnings.append(
                f"{counted(leaked, 'held-out image', 'were')} used to train --weights, so the scores are too good; use "
                "weights of the same --fold, --folds and --seed"
            )

    def held_out_before(self) -> int:
        """The number of validation images that --weights were trained on."""
        if not len(self.earlier):
            return 0
        return int(torch.isin(fingerprints(self.run.validation), self.earlier).sum())

    def keeps_classifier(self, recorded: Mapping[str, Any]) -> bool:
        if "classes" in recorded:
            return list(recorded["classes"]) == list(self.run.classes)
        return is_imagenet(self.run.classes)  # the classes of published weights

    def records(self) -> dict[str, bytes]:
        return self.run.records()

    def description(self) -> list[tuple[str, str]]:
        run = self.run
        names = ", ".join(run.classes[:5]) + (", ..." if len(run.classes) > 5 else "")
        lines = [("data", f"{self.data}, recognised as an image folder of {len(run.classes):,} classes: {names}")]
        lines += self.images_text()
        lines += [("warning", text) for text in self.warnings]
        used, settings = self.preprocessing, self.settings
        low, high = settings.crop_scale
        policy = {"none": "", "autoaugment": ", AutoAugment", "randaugment": f", RandAugment {settings.magnitude:g}"}
        return [
            *lines,
            (
                "augmented",
                f"crops of {100 * low:g} to {100 * high:g} % of the area{', mirrored' if settings.flip else ''}"
                f"{policy[settings.auto_augment]}",
            ),
            ("evaluated", f"centre crop of {used.fraction:.3g} of the short side, {used.interpolation}"),
            ("normalised", f"mean {numbers(used.mean)}, std {numbers(used.std)} of pixels in [0, 1]"),
        ]

    def images_text(self) -> list[tuple[str, str]]:
        """Lines (name, text) on the training and the validation images."""
        run, settings = self.run, self.settings
        split = f", fold {settings.fold} of {settings.folds}, split by class" if WHOLE in run.listings else ""
        return [
            ("training", f"{len(run.train):,} images of {run.train.root}"),
            ("validation", f"{len(run.validation):,} images of {run.validation.root}{split}"),
        ]

    def datasets(self) -> Datasets:
        run, settings = self.run, self.settings
        augmentation = Augmentation(
            self.recipe.seed, settings.crop_scale, settings.flip, settings.auto_augment, settings.magnitude
        )
        return Datasets(
            FolderDataset(run.train, self.preprocessing, augmentation, replace_broken=True),
            FolderDataset(run.train, self.preprocessing, replace_broken=True),
            FolderDataset(run.validation, self.preprocessing),
        )

    def start_classifier(self, classifier: nn.Linear) -> None:
        """Start at zero where there are fewer classes than ImageNet's, which start as in the released code.

        Its weights are uniform within 1 / sqrt(number of classes). With ten classes, the first logits are so large that
        the loss begins far above chance: after two epochs of 8,000 images of CIFAR-10, from random weights, a Lite0 had
        a top-1 of 32.0 %, and 36.9 % from a classifier of zeros.
        """
        if classifier.out_features < len(imagenet_classes()):
            nn.init.zeros_(classifier.weight)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """The mean softmax cross-entropy of the images with a target, with label smoothing; 0 if there is none."""
        smoothing, count = self.recipe.label_smoothing, (targets != IGNORED).sum().clamp(min=1)
        total = F.cross_entropy(
            logits.float(), targets, ignore_index=IGNORED, reduction="sum", label_smoothing=smoothing
        )
        return total / count

    def evaluate(self, logits: np.ndarray, indices: Sequence[int]) -> ImageFolderMetrics:
        labels = self.run.validation.labels[list(indices)]
        loss = F.cross_entropy(torch.from_numpy(logits), torch.from_numpy(labels)).item()
        scores = Scores.of(self.run.classes, labels, logits)
        values = {"val_loss": loss, "top1": scores.top(1), "top5": scores.top(5)}
        text = f"{loss:.3f} validation  top-1 {percent(values['top1'])} %"
        text += f", top-5 {percent(values['top5'])} %" if self.num_outputs > TOP else ""
        score = -loss if self.settings.select == "val_loss" else values[self.settings.select]
        return ImageFolderMetrics(values, text, score, scores, indices, logits)

    def files(self, metrics: ImageFolderMetrics, checkpoint: Mapping[str, Any]) -> dict[str, bytes]:
        run, order = self.run, np.argsort(metrics.indices)
        indices = [metrics.indices[place] for place in order]
        predictions = predictions_of(
            [run.validation.name_below(self.data, index) for index in indices],
            [run.classes[run.validation.labels[index]] for index in indices],
            run.classes,
            torch.from_numpy(metrics.logits[order]).softmax(1).numpy(),
        )
        card = model_card(
            checkpoint["plan"],
            recorded_architecture(checkpoint),
            run.classes,
            self.images_text(),
            checkpoint["epoch"],
            metrics.figures,
        )
        return {PREDICTIONS: predictions_csv(predictions), "MODEL_CARD.md": card.encode(errors="surrogateescape")}

    def state(self) -> dict[str, Any]:
        run = self.run
        return {
            "classes": list(run.classes),
            "preprocessing": self.preprocessing.to_dict(),
            "listings": {part: listing.digest for part, listing in run.listings.items()},
            "trained_on": self.trained_on,
            "earlier": self.earlier,
        }

    @staticmethod
    def published(model: EfficientNet) -> dict[str, Any]:
        classes, found, channels = [name for _, name in imagenet_classes()], model.provenance, model.in_channels
        if model.num_classes != len(classes):
            raise UserError(f"{found.file}: has {model.num_classes} classes, not ImageNet's {len(classes):,}")
        if found.evaluation is None:
            raise UserError(
                f"{found.file}: the input of its images is unknown; a checkpoint of train.py is scored by --checkpoint"
            )
        if channels not in (1, 3):
            raise UserError(f"{found.file}: has {channels} input channels, which image files do not have")
        size, fraction, interpolation = found.evaluation
        mean, std = of_channels("mean", found.mean, channels), of_channels("std", found.std, channels)
        used = Preprocessing((size, size), channels, mean, std, fraction, interpolation)
        return {
            "classes": classes,
            "preprocessing": used.to_dict(),
            "trained_on": fingerprints(None),
            "earlier": fingerprints(None),
            "input_known": found.evaluation_known and found.normalisation_known,
        }

    @staticmethod
    def exported(path: Path, content: Mapping[str, Any], network: nn.Module) -> Exported:
        trained = Trained.from_checkpoint(path, content)
        count = len(trained.classes)
        of_logits = {"classes": list(trained.classes), "probability": "softmax(logits)"}
        return Exported(network, f"{count:,} classes", {"preprocessing": trained.preprocessing.to_dict()}, of_logits)


def of_channels(name: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    """One value for each channel: a single one is repeated, and grey takes the mean of three.

    Raises ValueError for another number of values.
    """
    if len(values) == channels:
        return tuple(values)
    if channels == 1:  # what comes closest: see `weights.load.adapt_stem`
        return (float(np.mean(values)),)
    if len(values) == 1:
        return tuple(values) * channels
    raise ValueError(f"--{name}: {len(values)} values for {channels} channels")


def numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)
