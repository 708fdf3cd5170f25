"""Screening mammography as a `training.task.Task`: a folder of mammograms with a table -> a probability per breast."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from efficientnet.architecture import recorded_architecture
from efficientnet.common.errors import UserError
from efficientnet.common.options import add_options
from efficientnet.mammography.augment import augment_draw
from efficientnet.mammography.dataset import MammogramDataset
from efficientnet.mammography.evaluation import ScreeningEvaluation, add_evaluation_arguments
from efficientnet.mammography.image_files import find_images
from efficientnet.mammography.loss import (
    lower_first,
    masked_binary_cross_entropy,
    mean_labels,
    prior_shift,
    start_classifier_at,
)
from efficientnet.mammography.phantom.dataset import write_phantom_dataset
from efficientnet.mammography.prepare.folder import check_prepared, prepared_settings
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.report import model_card, score_line
from efficientnet.mammography.scoring import BreastScores, bytes_of, score_breasts, sigmoid, write_predictions
from efficientnet.mammography.settings import DEMO, DEMO_PATIENTS, RECIPE, ScreeningSettings, phantom_folder
from efficientnet.mammography.table import Table, TableError, assign_folds, available_targets, read_table
from efficientnet.training.distributed import Process
from efficientnet.training.recipe import Recipe
from efficientnet.training.sampler import sampled_share
from efficientnet.training.task import Datasets, Metrics
from efficientnet.weights.load import Provenance

LOGGED = ("pf1", "pf1_best", "threshold", "auc", "average_precision")  # in metrics.jsonl, after val_loss


@dataclass(frozen=True)
class ScreeningMetrics(Metrics):
    """`scores`: of the held-out breasts."""

    scores: BreastScores

    @cached_property
    def with_intervals(self) -> dict[str, Any]:
        return self.scores.metrics(intervals=True)

    @property
    def summary(self) -> str:
        return score_line(self.with_intervals)


class Screening:
    """Mammograms, of patients split into folds; data None is the embedded phantoms.

    After `load`: `train` and `validation` are the two parts of the table, `fold_of` the fold of each patient, `prior`
    the share of positives among the training images. Positives drawn more often than that raise the odds of every
    prediction by one factor; `logit_shift` takes it off again.
    """

    name = "screening"
    Settings = ScreeningSettings
    recipe_defaults = RECIPE

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        group = parser.add_argument_group("data", "a folder with train.csv and train_images/; without --data, phantoms")
        add_options(group, ScreeningSettings)

    @staticmethod
    def defaults(data: Path | None, provenance: Provenance | None) -> dict[str, Any]:
        values = DEMO if data is None else prepared_settings(data)
        if provenance is None:
            return values
        # One number for the channels of a gray image: see `weights.load.adapt_stem`.
        return values | {"mean": float(np.mean(provenance.mean)), "std": float(np.mean(provenance.std))}

    def __init__(self, data: Path | None, settings: ScreeningSettings, recipe: Recipe) -> None:
        if settings.fold >= settings.folds:
            raise ValueError(f"--fold {settings.fold}: folds count from 0 to {settings.folds - 1}")
        self.data, self.settings, self.recipe = data, settings, recipe
        self.preprocessing = Preprocessing(
            settings.image_size,
            settings.in_channels,
            crop=settings.crop,
            side=settings.side,
            window=settings.window,
            **{name: value for name in ("mean", "std") if (value := getattr(settings, name)) is not None},
            reduce_jpeg2000=settings.reduce_jpeg2000,
        )

    def load(self, process: Process, strict: bool) -> None:
        self.root = phantom_folder(DEMO_PATIENTS, self.recipe.seed) if self.data is None else self.data
        if self.data is None:
            if process.is_main:
                workers, progress = max(1, process.local_world_size), sys.stderr.isatty()
                write_phantom_dataset(
                    self.root, DEMO_PATIENTS, seed=self.recipe.seed, workers=workers, progress=progress
                )
            process.barrier()
        check_prepared(self.root, self.preprocessing)
        table = self.read_table()
        self.fold_of = assign_folds(table, self.settings.folds, self.recipe.seed)
        # A patient's fold is that of the whole table, however much of it has been downloaded.
        files = find_images(table, self.root)
        there = [(row, file) for row, file in zip(table.rows, files, strict=True) if file is not None]
        self.without_file = len(files) - len(there)
        if strict and self.without_file:
            raise UserError(f"{self.without_file} rows of {table.path} have no image file")
        parts = []
        for part, held_out in (("train", False), ("hold out", True)):
            chosen = [
                (row, file) for row, file in there if (self.fold_of[row.patient_id] == self.settings.fold) == held_out
            ]
            if not chosen:
                raise TableError(
                    f"{self.root}: no image of the patients to {part} is there; images belong in "
                    "train_images/<patient_id>/<image_id>.dcm (or png, jpg), or flat in the folder itself; links "
                    "in it that lead out of the data folder are not followed"
                )
            parts.append((replace(table, rows=tuple(row for row, _ in chosen)), [file for _, file in chosen]))
        (self.train, self.train_files), (self.validation, self.validation_files) = parts
        self.num_outputs = len(table.target_names)
        self.positives = self.train.labels[:, 0] == 1
        self.prior = float(self.positives.mean())
        self.sampled = sampled_share(self.prior, self.recipe.positive_share)
        self.logit_shift = prior_shift(self.sampled, self.prior) if self.settings.prior_correction else 0.0

    def read_table(self) -> Table:
        path, columns = self.root / "train.csv", self.settings.columns or {}
        targets = self.settings.targets or available_targets(path, columns) or ("cancer",)
        try:
            table = read_table(path, targets, columns)
        except ValueError as error:
            raise TableError(f"--targets {','.join(targets)}: {error}") from None
        if self.settings.folds > len(table.patients):
            raise TableError(f"{path}: {len(table.patients)} patients cannot make {self.settings.folds} --folds")
        return table

    def description(self) -> list[tuple[str, str]]:
        note = " (embedded phantoms, no real mammograms)" if self.data is None else ""
        lines = [("data", f"{self.root}{note}")]
        for name, table in (("training", self.train), ("validation", self.validation)):
            every, positive = table.counts, table.positive_counts
            share = 100 * positive.images / every.images
            lines.append(
                (
                    name,
                    f"{every.patients} patients, {every.breasts} breasts, {every.images} images; "
                    f"{table.target_names[0]}: {positive.patients}, {positive.breasts}, {positive.images} "
                    f"({share:.1f} %)",
                )
            )
        if self.without_file:
            lines.append(("warning", f"{self.without_file} rows of the table have no image file and are left out"))
        lines += [("warning", text) for text in self.train.warnings]
        lines.append(("targets", ", ".join(self.train.target_names)))
        used = self.preprocessing
        lines.append(("normalised", f"mean {used.mean:.4g}, std {used.std:.4g} of pixels in [0, 1]"))
        positives = f"{100 * self.sampled:.1f} % of positives"
        if self.logit_shift:
            positives = (
                f"{self.train.target_names[0]}'s logits lowered by {self.logit_shift:.3f}, from {positives} back to "
                f"{100 * self.prior:.1f} %"
            )
        else:
            positives = f"predictions as learned, from {positives}"
        return [*lines, ("prior", positives)]

    def datasets(self) -> Datasets:
        augmentation = partial(augment_draw, seed=self.recipe.seed, strength=self.recipe.augmentation)
        train = (self.train, self.train_files, self.preprocessing)
        return Datasets(
            MammogramDataset(*train, augmentation, replace_broken=True),
            MammogramDataset(*train, replace_broken=True),
            MammogramDataset(self.validation, self.validation_files, self.preprocessing),
        )

    def start_classifier(self, classifier: nn.Linear) -> None:
        start_classifier_at(classifier, [self.sampled, *np.nan_to_num(mean_labels(self.train.labels[:, 1:]))])

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return masked_binary_cross_entropy(logits, targets, self.settings.auxiliary_weight, self.recipe.label_smoothing)

    def evaluate(self, logits: np.ndarray, indices: Sequence[int]) -> ScreeningMetrics:
        logits = lower_first(logits, self.logit_shift)
        labels = torch.from_numpy(self.validation.labels[list(indices)])
        loss = masked_binary_cross_entropy(torch.from_numpy(logits), labels, self.settings.auxiliary_weight).item()
        scores = score_breasts(self.validation, indices, sigmoid(logits))
        metrics = scores.metrics()
        values = {"val_loss": loss, **{name: metrics[name] for name in LOGGED}}
        shown = {name: "-" if value is None else f"{value:.3f}" for name, value in values.items()}
        text = (
            f"{shown['val_loss']} validation  pF1 {shown['pf1']}  best-threshold F1 {shown['pf1_best']} at "
            f"{shown['threshold']}  AUC {shown['auc']}  AP {shown['average_precision']}"
        )
        score = values[self.settings.select]
        return ScreeningMetrics(values, text, -loss if self.settings.select == "val_loss" else score, scores)

    def files(self, metrics: ScreeningMetrics, checkpoint: Mapping[str, Any]) -> dict[str, bytes]:
        card = model_card(
            checkpoint["plan"],
            recorded_architecture(checkpoint),
            self.train,
            self.validation,
            checkpoint["epoch"],
            metrics.with_intervals,
        )
        predictions = bytes_of(write_predictions, metrics.scores, self.train.target_names, self.fold_of)
        return {"predictions.csv": predictions, "MODEL_CARD.md": card.encode()}

    def state(self) -> dict[str, Any]:
        return {
            "targets": list(self.train.target_names),
            "preprocessing": self.preprocessing.to_dict(),
            "logit_shift": self.logit_shift,
            "prior": self.prior,
            "training_patients": list(self.train.patients),
        }

    @staticmethod
    def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
        add_evaluation_arguments(parser)

    @staticmethod
    def evaluation(checkpoints: Mapping[Path, Mapping[str, Any]], arguments: argparse.Namespace) -> ScreeningEvaluation:
        return ScreeningEvaluation.from_arguments(checkpoints, arguments)
