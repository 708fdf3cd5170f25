"""Screening mammography as a `training.task.Task`: a folder of mammograms with a table -> a probability per breast."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from efficientnet.architecture import recorded_architecture
from efficientnet.common.errors import UserError
from efficientnet.common.options import add_options
from efficientnet.mammography.calibration import Calibration, cross_fitted, fit_calibration
from efficientnet.mammography.comparison import compare_predictions
from efficientnet.mammography.evaluation import ScreeningEvaluation, score_one_image
from efficientnet.mammography.exporting import exported
from efficientnet.mammography.figures import figures, score_line, scores_by_view
from efficientnet.mammography.fold_summary import summarise_folds
from efficientnet.mammography.image_files import data_folder, folder_of, is_screening_folder
from efficientnet.mammography.layouts import LAYOUTS
from efficientnet.mammography.loss import lower_first, prior_shift, screening_loss, start_classifier_at
from efficientnet.mammography.phantom.dataset import write_phantom_dataset
from efficientnet.mammography.prepare.folder import prepared_settings
from efficientnet.mammography.preprocessing import MOST_BITS, Preprocessing
from efficientnet.mammography.report import model_card
from efficientnet.mammography.run_data import RunData, share_of_positives
from efficientnet.mammography.scoring import BreastScores, bytes_of, score_breasts, write_predictions
from efficientnet.mammography.settings import (
    DEMO_PATIENTS,
    RANDOM_START,
    RECIPES,
    ScreeningSettings,
    add_evaluation_arguments,
    phantom_folder,
)
from efficientnet.mammography.table import Table
from efficientnet.mammography.targets import Target, output_probabilities
from efficientnet.metrics import probabilistic_f1
from efficientnet.model import EfficientNet
from efficientnet.training.distributed import Process
from efficientnet.training.plan import ALL_FOLDS
from efficientnet.training.recipe import Recipe
from efficientnet.training.sampler import sampled_share
from efficientnet.training.task import Datasets, Metrics
from efficientnet.weights.load import Provenance

LOGGED = ("pf1", "pf1_best", "threshold", "auc", "average_precision", "clshub_pf1")  # in metrics.jsonl, after val_loss


@dataclass(frozen=True)
class ScreeningMetrics(Metrics):
    """`Metrics` with the `scores` of the held-out breasts of a table.

    images: the indices (n,) and outputs (n, O) that they come from; None for joint views.
    """

    scores: BreastScores
    table: Table
    images: tuple[Sequence[int], np.ndarray] | None

    @cached_property
    def with_intervals(self) -> dict[str, Any]:
        by_view = {} if self.images is None else scores_by_view(self.table, *self.images)
        return figures(self.scores, self.table, by_view=by_view)

    @property
    def summary(self) -> str:
        return score_line(self.with_intervals)


class Screening:
    """Mammograms of patients who are split into folds. With data None, the embedded phantoms.

    After `load`, `run` has the tables and files, and `prior` is the share of positives among the training images
    (without --extra-data). Drawing positives more often multiplies the odds of every prediction by the same factor;
    `logit_shift` corrects for it. After `evaluate`, `calibration` is that of the held-out breasts.
    """

    name = "screening"
    Settings = ScreeningSettings
    recipes = RECIPES
    default_recipes = "screening with --data, else demo"
    summarise_folds = staticmethod(summarise_folds)
    comparison = staticmethod(compare_predictions)
    score_one_image = staticmethod(score_one_image)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        demo, random_start = (
            " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in values.items())
            for values in (RECIPES["demo"], RANDOM_START)
        )
        text = (
            "--data is a folder with train.csv and train_images/; for one with a folder for each class, --data DIR "
            "--help shows the flags. Without --data, the embedded set of "
            f"{DEMO_PATIENTS} phantom patients is trained on, with these defaults instead of those above: {demo}, and "
            f"the variant's own image size. With --data but without --weights, the default is {random_start}."
        )
        parser.epilog = textwrap.fill(text, 100)
        add_options(parser, ScreeningSettings, RECIPES["screening"])

    @staticmethod
    def recognises(data: Path) -> bool:
        return is_screening_folder(data)

    @staticmethod
    def default_recipe(data: Path | None, pretrained: bool) -> str:
        return "demo" if data is None else "screening"

    @staticmethod
    def defaults(data: Path | None, provenance: Provenance | None, recipe: str) -> dict[str, Any]:
        values = {} if data is None else prepared_settings(folder_of(data))
        if "picture_size" in RECIPES[recipe] and "image_size" in values:
            values["picture_size"] = values.pop("image_size")
        if provenance is None:
            return values | (RANDOM_START if recipe == "screening" else {})
        # One value for all channels of a gray image: see `weights.load.adapt_stem`.
        return values | {"mean": float(np.mean(provenance.mean)), "std": float(np.mean(provenance.std))}

    def __init__(self, data: Path | None, settings: ScreeningSettings, recipe: Recipe) -> None:
        if settings.fold != ALL_FOLDS and settings.fold >= settings.folds:
            raise ValueError(f"--fold {settings.fold}: folds count from 0 to {settings.folds - 1}, or all")
        if settings.short_edge and not settings.picture_size:
            raise ValueError("--short-edge needs --picture-size")
        self.data, self.settings, self.recipe = data and folder_of(data), settings, recipe
        self.preprocessing = Preprocessing(
            settings.picture_size or settings.image_size,
            settings.in_channels,
            crop=settings.crop,
            side=settings.side,
            window=settings.window,
            **{name: value for name in ("mean", "std") if (value := getattr(settings, name)) is not None},
            reduce_jpeg2000=settings.reduce_jpeg2000,
            bits=settings.bits or MOST_BITS,
            invert_bright=settings.invert_bright,
            accept_raw=settings.accept_raw,
            input_size=settings.image_size if settings.picture_size else None,
            short_edge=settings.short_edge,
        )
        self.calibration: Calibration | None = None
        self.network = {"joint_views": settings.views == "joint"}

    def load(
        self,
        process: Process,
        strict: bool,
        checkpoint: Mapping[str, Any] | None,
        pretrained: Mapping[str, Any] | None,
        folder: Path | None,
    ) -> None:
        if self.data is None:
            root = phantom_folder(DEMO_PATIENTS, self.recipe.seed)
            if process.is_main:
                workers, progress = max(1, process.local_world_size), sys.stderr.isatty()
                write_phantom_dataset(root, DEMO_PATIENTS, seed=self.recipe.seed, workers=workers, progress=progress)
            process.barrier()
        else:
            root = data_folder(self.data)
        self.run = run = RunData(root, self.settings, self.preprocessing, self.recipe, process, strict, checkpoint)
        self.preprocessing = run.preprocessing
        self.settings = replace(self.settings, bits=run.preprocessing.bits)
        self.sets = Datasets(*run.datasets())
        self.num_outputs = sum(target.outputs for target in run.targets)
        labels = self.sets.train.labels
        self.positives = labels[:, 0] == 1
        present = (~np.isnan(labels)).mean(0, dtype=np.float32)
        self.label_shares = torch.from_numpy(np.where(present > 0, present, np.float32(1))).to(process.device)
        own = len(run.train.breasts if self.settings.views == "joint" else run.train.rows)
        self.prior = share_of_positives(labels[:own, 0])
        drawn = sampled_share(float(self.positives.mean()), self.recipe.positive_share)
        # Of the images drawn, those without a label for the scored target do not count.
        known = float((labels[~self.positives, 0] == 0).mean()) if not self.positives.all() else 0.0
        self.sampled = drawn / (drawn + (1 - drawn) * known) if drawn else 0.0
        if self.settings.loss == "bce":  # a positive counts as that many images
            weighted = self.sampled * self.settings.positive_weight
            self.sampled = weighted / (weighted + 1 - self.sampled)
        self.logit_shift = prior_shift(self.sampled, self.prior) if self.settings.prior_correction else 0.0
        before, start = checkpoint or {}, pretrained or {}
        if before.get("calibration"):
            self.calibration = Calibration(**before["calibration"])
        # Patients who are no longer in the table count too: the weights have seen them.
        trained_on = [*run.train.patients, *(patient for extra in run.extras for patient in extra.table.patients)]
        self.training_patients = list(dict.fromkeys([*trained_on, *before.get("training_patients", ())]))
        self.earlier_patients = [
            *before.get("earlier_patients", ()),
            *start.get("training_patients", ()),
            *start.get("earlier_patients", ()),
        ]
        self.warnings = list(run.warnings)
        if leaked := set(self.earlier_patients) & set(run.validation.patients):
            self.warnings.append(
                f"{len(leaked)} held-out patients were used to train --weights, so the scores are too good (unless "
                "these are other people); use weights of the same --fold, --folds and --seed"
            )

    def records(self) -> dict[str, bytes]:
        return {}  # a checkpoint holds the split, and the table may be corrected meanwhile

    def description(self) -> list[tuple[str, str]]:
        run = self.run
        note = " (embedded phantoms, no real mammograms)" if self.data is None else ""
        lines = [("data", f"{run.root}{note}")]
        parts = [("training", run.train), ("validation", run.validation)]
        parts += [("extra", extra.table) for extra in run.extras]
        for name, table in parts:
            every, positive = table.counts, table.positive_counts
            share = 100 * positive.images / every.images
            where = f"; {table.path}" if name == "extra" else ""
            where += f", recognised as {LAYOUTS[table.layout].title}" if table.layout else ""
            lines.append(
                (
                    name,
                    f"{every.patients} patients, {every.breasts} breasts, {every.images} images; "
                    f"{table.target_names[0]} in {positive.patients} patients, {positive.breasts} breasts, "
                    f"{positive.images} images ({share:.1f} %){where}",
                )
            )
        lines += [("warning", text) for text in self.warnings]
        lines += run.survey.lines(self.preprocessing)
        if self.settings.views == "joint":
            lines.append(("views", "joint: where it says images below, it means breasts with two images each"))
        lines.append(("targets", ", ".join(map(target_text, run.targets))))
        used = self.preprocessing
        lines.append(("normalised", f"mean {used.mean:.4g}, std {used.std:.4g} of pixels in [0, 1]"))
        if self.logit_shift:
            positives = (
                f"{run.train.target_names[0]} logits lowered by {self.logit_shift:.3f}, correcting from "
                f"{100 * self.sampled:.1f} % to {100 * self.prior:.1f} % positives"
            )
        else:
            positives = f"no correction, trained with {100 * self.sampled:.1f} % positives"
        return [*lines, ("prior", positives)]

    def datasets(self) -> Datasets:
        return self.sets

    def keeps_classifier(self, recorded: Mapping[str, Any]) -> bool:
        return recorded.get("task", self.name) == self.name

    def start_classifier(self, classifier: nn.Linear) -> None:
        start_classifier_at(classifier, self.run.targets, self.sets.train.labels, self.sampled)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        return screening_loss(
            logits,
            targets,
            self.run.targets,
            loss=self.settings.loss,
            positive_weight=self.settings.positive_weight,
            positive_target=self.settings.positive_target,
            auxiliary_weight=self.settings.auxiliary_weight,
            label_smoothing=self.recipe.label_smoothing,
            label_shares=self.label_shares,
        )

    def evaluate(self, logits: np.ndarray, indices: Sequence[int]) -> ScreeningMetrics:
        run, joint = self.run, self.settings.views == "joint"
        logits = lower_first(logits, self.logit_shift)
        labels = torch.from_numpy(self.sets.validation.labels[list(indices)])
        weight = self.settings.auxiliary_weight
        loss = screening_loss(torch.from_numpy(logits), labels, run.targets, auxiliary_weight=weight).item()
        probabilities = output_probabilities(logits, run.targets)
        scores = score_breasts(run.validation, indices, probabilities, "joint" if joint else "mean")
        metrics = scores.metrics()
        values = {"val_loss": loss, **{name: metrics[name] for name in LOGGED}}
        values["pf1_calibrated"] = self.calibrate(scores)
        if not self.positives.any():  # nothing was learned that could separate the held-out breasts
            values["threshold"] = None
        shown = {name: "-" if value is None else f"{value:.3f}" for name, value in values.items()}
        text = (
            f"{shown['val_loss']} validation  pF1 {shown['pf1']}, calibrated {shown['pf1_calibrated']}  "
            f"F1 {shown['pf1_best']} at {shown['threshold']}  AUC {shown['auc']}  AP {shown['average_precision']}"
        )
        by_loss = self.settings.select == "val_loss" or not metrics["positives"]
        score = -loss if by_loss else values[self.settings.select]
        images = None if joint else (indices, probabilities)
        return ScreeningMetrics(values, text, score, scores, run.validation, images)

    def calibrate(self, scores: BreastScores) -> float:
        """Fit `calibration` to the held-out breasts; return their pF1 when each is calibrated by the other patients."""
        known = scores.labelled
        labels, probabilities = known.labels[:, 0], known.probabilities[:, 0]
        self.calibration = fit_calibration(labels, probabilities)
        return probabilistic_f1(labels, cross_fitted(labels, probabilities, known.patients))

    def files(self, metrics: ScreeningMetrics, checkpoint: Mapping[str, Any]) -> dict[str, bytes]:
        card = model_card(
            checkpoint["plan"],
            recorded_architecture(checkpoint),
            self.run.train,
            self.run.validation,
            checkpoint["epoch"],
            metrics.with_intervals,
            [extra.table for extra in self.run.extras],
        )
        predictions = bytes_of(write_predictions, metrics.scores, self.run.targets, self.run.split.fold_of)
        return {"predictions.csv": predictions, "MODEL_CARD.md": card.encode(errors="surrogateescape")}

    def state(self) -> dict[str, Any]:
        run = self.run
        return {
            "targets": list(run.train.target_names),
            "heads": [target.to_dict() for target in run.targets],
            "views": self.settings.views,
            "preprocessing": self.preprocessing.to_dict(),
            "logit_shift": self.logit_shift,
            "prior": self.prior,
            "calibration": self.calibration and asdict(self.calibration),
            "training_patients": self.training_patients,
            "earlier_patients": self.earlier_patients,
            "split": run.split.to_dict(),
            "images": run.image_counts,
        }

    @staticmethod
    def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
        add_evaluation_arguments(parser)

    @staticmethod
    def published(model: EfficientNet) -> dict[str, Any]:
        raise UserError(f"{model.provenance.file}: was not trained on mammograms; fine-tune it with train.py --weights")

    exported = staticmethod(exported)

    @staticmethod
    def evaluation(checkpoints: Mapping[Path, Mapping[str, Any]], arguments: argparse.Namespace) -> ScreeningEvaluation:
        return ScreeningEvaluation.from_arguments(checkpoints, arguments)


def target_text(target: Target) -> str:
    """A target as the summary of a run shows it."""
    if target.kind == "category":
        return f"{target.name} ({len(target.values)} categories)"
    return f"{target.name} (number)" if target.kind == "number" else target.name
