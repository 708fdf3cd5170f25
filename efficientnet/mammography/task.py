"""Screening mammography as a `training.task.Task`: a folder of mammograms with a table -> a probability per breast."""

from __future__ import annotations

import argparse
import hashlib
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
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
from efficientnet.mammography.dicom.headers import check_decoders, refused_in_sample
from efficientnet.mammography.evaluation import ScreeningEvaluation, add_evaluation_arguments
from efficientnet.mammography.image_files import data_folder, find_images, folder_of, name_hint
from efficientnet.mammography.loss import (
    lower_first,
    masked_binary_cross_entropy,
    mean_labels,
    prior_shift,
    start_classifier_at,
)
from efficientnet.mammography.phantom.dataset import write_phantom_dataset
from efficientnet.mammography.prepare.folder import check_prepared, otherwise_read, prepared_settings
from efficientnet.mammography.preprocessing import COMPARED_SETTINGS, MOST_BITS, PICTURE_SETTINGS, Preprocessing
from efficientnet.mammography.raster import survey
from efficientnet.mammography.report import model_card, score_line
from efficientnet.mammography.scoring import BreastScores, bytes_of, score_breasts, sigmoid, write_predictions
from efficientnet.mammography.settings import DEMO, DEMO_PATIENTS, RECIPE, ScreeningSettings, phantom_folder
from efficientnet.mammography.split import Split
from efficientnet.mammography.table import Table, TableError, read_table
from efficientnet.mammography.table_columns import default_targets
from efficientnet.training.distributed import Process
from efficientnet.training.recipe import Recipe
from efficientnet.training.sampler import sampled_share
from efficientnet.training.task import Datasets, Metrics
from efficientnet.weights.load import Provenance

LOGGED = ("pf1", "pf1_best", "threshold", "auc", "average_precision")  # in metrics.jsonl, after val_loss


@dataclass(frozen=True)
class ScreeningMetrics(Metrics):
    """`Metrics` with the `scores` of the held-out breasts."""

    scores: BreastScores

    @cached_property
    def with_intervals(self) -> dict[str, Any]:
        return self.scores.metrics(intervals=True)

    @property
    def summary(self) -> str:
        return score_line(self.with_intervals)


class Screening:
    """Mammograms of patients who are split into folds. With data None, the embedded phantoms.

    After `load`, `train` and `validation` are the two parts of the table, `split` holds the folds of its patients, and
    `prior` is the share of positives among the training images. Drawing positives more often multiplies the odds of
    every prediction by the same factor; `logit_shift` corrects for it.
    """

    name = "screening"
    Settings = ScreeningSettings
    recipe_defaults = RECIPE

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        demo = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in DEMO.items())
        text = (
            "--data is a folder with train.csv and train_images/. Without it, the embedded set of "
            f"{DEMO_PATIENTS} phantom patients is trained on, with these defaults instead of those above: {demo}."
        )
        parser.epilog = textwrap.fill(text, 100)
        add_options(parser, ScreeningSettings, {"image_size": "the variant's own, square"})

    @staticmethod
    def defaults(data: Path | None, provenance: Provenance | None) -> dict[str, Any]:
        values = DEMO if data is None else prepared_settings(folder_of(data))
        if provenance is None:
            return values
        # One value for all channels of a gray image: see `weights.load.adapt_stem`.
        return values | {"mean": float(np.mean(provenance.mean)), "std": float(np.mean(provenance.std))}

    def __init__(self, data: Path | None, settings: ScreeningSettings, recipe: Recipe) -> None:
        if settings.fold >= settings.folds:
            raise ValueError(f"--fold {settings.fold}: folds count from 0 to {settings.folds - 1}")
        self.data, self.settings, self.recipe = data and folder_of(data), settings, recipe
        self.preprocessing = Preprocessing(
            settings.image_size,
            settings.in_channels,
            crop=settings.crop,
            side=settings.side,
            window=settings.window,
            **{name: value for name in ("mean", "std") if (value := getattr(settings, name)) is not None},
            reduce_jpeg2000=settings.reduce_jpeg2000,
            bits=settings.bits or MOST_BITS,
            invert_bright=settings.invert_bright,
            accept_raw=settings.accept_raw,
        )

    def load(
        self,
        process: Process,
        strict: bool,
        checkpoint: Mapping[str, Any] | None,
        pretrained: Mapping[str, Any] | None,
    ) -> None:
        if self.data is None:
            self.root = phantom_folder(DEMO_PATIENTS, self.recipe.seed)
            if process.is_main:
                workers, progress = max(1, process.local_world_size), sys.stderr.isatty()
                write_phantom_dataset(
                    self.root, DEMO_PATIENTS, seed=self.recipe.seed, workers=workers, progress=progress
                )
            process.barrier()
        else:
            self.root = data_folder(self.data)
        check_prepared(self.root, self.preprocessing, PICTURE_SETTINGS if checkpoint else COMPARED_SETTINGS)
        table = self.read_table(checkpoint)
        files = find_images(table, self.root)
        self.survey = process.broadcast(survey(files) if process.is_main else None)
        if self.settings.bits is None:  # a resumed run that recorded none keeps the old default
            bits = self.survey.bits if checkpoint is None else None
            self.settings = replace(self.settings, bits=bits or MOST_BITS)
            self.preprocessing = replace(self.preprocessing, bits=self.settings.bits)
        # Folds come from the whole table, even if only some of its images have been downloaded.
        if checkpoint is None:
            self.split = Split.deal(table, self.settings.folds, self.recipe.seed)
        else:
            self.split = Split.kept(checkpoint, table, self.settings.folds, self.settings.fold, self.recipe.seed)
        self.divide(table, files, strict)
        self.check_ranks(process)
        check_decoders([*self.train_files, *self.validation_files][process.rank :: process.world_size], process.gather)
        self.num_outputs = len(table.target_names)
        self.positives = self.train.labels[:, 0] == 1
        present = (~np.isnan(self.train.labels)).mean(0, dtype=np.float32)
        self.label_shares = torch.from_numpy(np.where(present > 0, present, np.float32(1))).to(process.device)
        self.prior = float(self.positives.mean())
        self.sampled = sampled_share(self.prior, self.recipe.positive_share)
        self.logit_shift = prior_shift(self.sampled, self.prior) if self.settings.prior_correction else 0.0
        before, start = checkpoint or {}, pretrained or {}
        # Patients who are no longer in the table count too: the weights have seen them.
        self.training_patients = list(dict.fromkeys([*self.train.patients, *before.get("training_patients", ())]))
        self.earlier_patients = [
            *before.get("earlier_patients", ()),
            *start.get("training_patients", ()),
            *start.get("earlier_patients", ()),
        ]
        self.warnings = [*self.changes(table, checkpoint), *self.warnings_of_labels(), *table.warnings]
        if process.is_main:
            self.warnings += refused_in_sample(files, self.preprocessing.accept_raw)
        if leaked := set(self.earlier_patients) & set(self.validation.patients):
            self.warnings.append(
                f"{len(leaked)} held-out patients were used to train --weights, so the scores are too good (unless "
                "these are other people); use weights of the same --fold, --folds and --seed"
            )

    def divide(self, table: Table, files: Sequence[Path | None], strict: bool) -> None:
        """Divide the rows that have a file into training rows and held-out rows."""
        rows = [pair for pair in zip(table.rows, files, strict=True) if pair[0].patient_id in self.split.fold_of]
        there = [(row, file) for row, file in rows if file is not None]
        self.without_file = len(rows) - len(there)
        if strict and self.without_file:
            raise UserError(f"{self.without_file} rows of {table.path} have no image file")
        parts = []
        held_out_patients = self.split.held_out(self.settings.fold)
        for part, held_out in (("train on", False), ("hold out", True)):
            chosen = [(row, file) for row, file in there if (row.patient_id in held_out_patients) == held_out]
            if not chosen:
                hint = name_hint(table, files, self.root, "train_images")
                hint = hint or "run prepare --check to list what is there"
                raise TableError(f"{self.root}: no images found for the patients to {part}; {hint}")
            parts.append((replace(table, rows=tuple(row for row, _ in chosen)), [file for _, file in chosen]))
        (self.train, self.train_files), (self.validation, self.validation_files) = parts

    def check_ranks(self, process: Process) -> None:
        """Raise UserError if the ranks have found different images: an index must mean the same image on every rank.

        Each machine may have the data on its own disk.
        """
        rows = repr((self.train.rows, self.validation.rows)).encode()
        if len(set(process.gather(hashlib.sha256(rows).digest()))) > 1:
            raise UserError(f"{self.root}: the ranks found different images; give every machine the same data")

    def changes(self, table: Table, checkpoint: Mapping[str, Any] | None) -> Iterator[str]:
        """Yield a line for each way in which the data differ from the data that a resumed run began with."""
        if change := self.split.changes(table):
            yield change
        if checkpoint is not None and (text := otherwise_read(self.root, self.preprocessing)):
            yield text
        now = [len(self.train_files), len(self.validation_files)]
        before = now if checkpoint is None else checkpoint.get("images", now)  # older checkpoints have no count
        if now != before:
            yield (
                f"the run began with {before[0]} training and {before[1]} validation images, but now finds {now[0]} "
                f"and {now[1]}"
            )

    def warnings_of_labels(self) -> Iterator[str]:
        scored = self.train.target_names[0]
        if self.positives.all():
            yield f"every training image is positive for {scored}: nothing can be learned about it"
        if not self.positives.any():
            yield f"no training image is positive for {scored}: nothing can be learned about it"
        if not self.validation.positive_counts.breasts:
            yield f"no held-out breast has {scored}: the epoch with the lowest validation loss becomes best.pt"
        if self.without_file:
            yield f"{self.without_file} rows of the table have no image file and are left out"

    def read_table(self, checkpoint: Mapping[str, Any] | None) -> Table:
        path, columns = self.root / "train.csv", self.settings.columns or {}
        targets = self.settings.targets or default_targets(path, columns)
        if checkpoint is not None:  # even if the table has gained other columns
            targets = tuple(checkpoint["targets"])
        try:
            return read_table(path, targets, columns)
        except ValueError as error:
            raise TableError(f"--targets {','.join(targets)}: {error}") from None

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
                    f"{table.target_names[0]} in {positive.patients} patients, {positive.breasts} breasts, "
                    f"{positive.images} images ({share:.1f} %)",
                )
            )
        lines += [("warning", text) for text in self.warnings]
        lines += self.survey.lines(self.preprocessing)
        lines.append(("targets", ", ".join(self.train.target_names)))
        used = self.preprocessing
        lines.append(("normalised", f"mean {used.mean:.4g}, std {used.std:.4g} of pixels in [0, 1]"))
        if self.logit_shift:
            positives = (
                f"{self.train.target_names[0]} logits lowered by {self.logit_shift:.3f}, correcting from "
                f"{100 * self.sampled:.1f} % to {100 * self.prior:.1f} % positives"
            )
        else:
            positives = f"no correction, trained with {100 * self.sampled:.1f} % positives"
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
        return masked_binary_cross_entropy(
            logits,
            targets,
            self.settings.auxiliary_weight,
            self.recipe.label_smoothing,
            self.label_shares,
        )

    def evaluate(self, logits: np.ndarray, indices: Sequence[int]) -> ScreeningMetrics:
        logits = lower_first(logits, self.logit_shift)
        labels = torch.from_numpy(self.validation.labels[list(indices)])
        loss = masked_binary_cross_entropy(torch.from_numpy(logits), labels, self.settings.auxiliary_weight).item()
        scores = score_breasts(self.validation, indices, sigmoid(logits))
        metrics = scores.metrics()
        values = {"val_loss": loss, **{name: metrics[name] for name in LOGGED}}
        if not self.positives.any():  # nothing was learned that could separate the held-out breasts
            values["threshold"] = None
        shown = {name: "-" if value is None else f"{value:.3f}" for name, value in values.items()}
        text = (
            f"{shown['val_loss']} validation  pF1 {shown['pf1']}  best-threshold F1 {shown['pf1_best']} at "
            f"{shown['threshold']}  AUC {shown['auc']}  AP {shown['average_precision']}"
        )
        by_loss = self.settings.select == "val_loss" or not metrics["positives"]
        return ScreeningMetrics(values, text, -loss if by_loss else values[self.settings.select], scores)

    def files(self, metrics: ScreeningMetrics, checkpoint: Mapping[str, Any]) -> dict[str, bytes]:
        card = model_card(
            checkpoint["plan"],
            recorded_architecture(checkpoint),
            self.train,
            self.validation,
            checkpoint["epoch"],
            metrics.with_intervals,
        )
        predictions = bytes_of(write_predictions, metrics.scores, self.train.target_names, self.split.fold_of)
        return {"predictions.csv": predictions, "MODEL_CARD.md": card.encode(errors="surrogateescape")}

    def state(self) -> dict[str, Any]:
        return {
            "targets": list(self.train.target_names),
            "preprocessing": self.preprocessing.to_dict(),
            "logit_shift": self.logit_shift,
            "prior": self.prior,
            "training_patients": self.training_patients,
            "earlier_patients": self.earlier_patients,
            "split": self.split.to_dict(),
            "images": [len(self.train_files), len(self.validation_files)],
        }

    @staticmethod
    def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
        add_evaluation_arguments(parser)

    @staticmethod
    def evaluation(checkpoints: Mapping[Path, Mapping[str, Any]], arguments: argparse.Namespace) -> ScreeningEvaluation:
        return ScreeningEvaluation.from_arguments(checkpoints, arguments)
