"""Checkpoints of the screening task on a table of mammograms: who may score which row, metrics, submission."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from efficientnet.common.errors import UserError
from efficientnet.mammography.dataset import MammogramDataset
from efficientnet.mammography.image_files import find_images
from efficientnet.mammography.loss import lower_first
from efficientnet.mammography.prepare.folder import check_prepared
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.report import metric_texts, score_line
from efficientnet.mammography.scoring import bytes_of, score_breasts, sigmoid, write_predictions, write_submission
from efficientnet.mammography.settings import DEMO_PATIENTS, column_mapping, phantom_folder
from efficientnet.mammography.table import Table, TableError, available_targets, read_table
from efficientnet.training.checkpoint import CheckpointError, misfit
from efficientnet.training.task import Report


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, help="folder with train.csv or test.csv (default: the checkpoint's own)")
    parser.add_argument(
        "--split",
        choices=["validation", "test", "all"],
        help="validation: patients of train.csv that the checkpoint did not train on (default where there is a "
        "train.csv); test: test.csv and test_images/; all: everybody in train.csv",
    )
    parser.add_argument("--submission", type=Path, metavar="FILE", help="write prediction_id,cancer, a row a breast")
    parser.add_argument("--aggregate", choices=["mean", "max"], default="mean", help="images to breast (default mean)")
    parser.add_argument("--columns", type=column_mapping, metavar="OURS=THEIRS,...", help="default: the checkpoint's")


@dataclass(frozen=True)
class Trained:
    """A checkpoint without its network.

    threshold: tuned on its held-out patients.  data: what it was trained on; None: the embedded phantoms.
    """

    path: Path
    preprocessing: Preprocessing
    targets: tuple[str, ...]
    logit_shift: float
    prior: float
    threshold: float | None
    training_patients: frozenset[str]
    data: str | None
    seed: int
    columns: dict[str, str]

    @classmethod
    def from_checkpoint(cls, path: Path, content: Mapping[str, Any]) -> Trained:
        """Raises CheckpointError where something is missing."""
        try:
            return cls(
                path,
                Preprocessing.from_dict(content["preprocessing"]),
                tuple(content["targets"]),
                content["logit_shift"],
                content["prior"],
                content["metrics"].get("threshold"),
                frozenset(content["training_patients"]),
                content["plan"]["data"],
                content["plan"]["recipe"]["seed"],
                content["plan"]["settings"]["columns"] or {},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise misfit(path, error) from None


class ScreeningEvaluation:
    """A `training.task.Evaluation` of one split of a data folder.

    data, split, columns: None is what the first checkpoint was trained with, and its held-out patients.
    aggregate: images to breast.  Raises TableError and CheckpointError.
    """

    def __init__(
        self,
        members: Sequence[Trained],
        data: Path | None = None,
        split: str | None = None,
        columns: dict[str, str] | None = None,
        aggregate: str = "mean",
        submission: Path | None = None,
    ) -> None:
        self.members, self.aggregate, self.submission = members, aggregate, submission
        check_alike(members)
        first = members[0]
        self.root = data or (Path(first.data) if first.data else phantom_folder(DEMO_PATIENTS, first.seed))
        if not self.root.is_dir():
            raise TableError(f"{self.root}: no such folder; --data names the folder with train.csv or test.csv")
        for member in members:
            check_prepared(self.root, member.preprocessing)
        self.split = split or ("validation" if (self.root / "train.csv").exists() else "test")
        table = self.read_table(first.columns if columns is None else columns)
        trained_on = [member.training_patients & set(table.patients) for member in members]
        self.warnings = list(table.warnings) if self.split != "test" else []  # a test table need not have labels
        if self.split == "validation":
            table = held_out(members, table)
            self.allowed = np.array(
                [[row.patient_id not in member.training_patients for row in table.rows] for member in members]
            )
        else:
            self.allowed = np.ones((len(members), len(table.rows)), dtype=bool)
        if self.split == "all" and any(trained_on):
            count = len(frozenset.union(*trained_on))
            self.warnings.append(f"{count} of these patients were trained on; their scores say nothing about new ones")
        # Whether the members' thresholds were tuned on other patients than these.
        self.is_fresh = self.split == "test" or not any(trained_on)
        self.table = table
        folder = "test_images" if self.split == "test" else "train_images"
        self.files = find_images(table, self.root, folder)
        counts = table.counts
        self.description = (
            f"{self.split} of {self.root}: {counts.patients} patients, {counts.breasts} breasts, {counts.images} images"
        )

    @classmethod
    def from_arguments(
        cls, checkpoints: Mapping[Path, Mapping[str, Any]], arguments: argparse.Namespace
    ) -> ScreeningEvaluation:
        members = [Trained.from_checkpoint(path, content) for path, content in checkpoints.items()]
        return cls(
            members, arguments.data, arguments.split, arguments.columns, arguments.aggregate, arguments.submission
        )

    def read_table(self, mapping: Mapping[str, str]) -> Table:
        targets, is_test = self.members[0].targets, self.split == "test"
        path = self.root / ("test.csv" if is_test else "train.csv")
        # A test table has no labels as a rule, so that a target with another name in train.csv is not asked for there.
        renamed = {name for name in mapping if name in targets}
        unlabelled = is_test and renamed and not renamed & set(available_targets(path, mapping))
        return read_table(path, targets, mapping, labels="none" if unlabelled else "optional")

    def input_key(self, member: int) -> Preprocessing:
        return self.members[member].preprocessing

    def dataset(self, member: int) -> MammogramDataset:
        return MammogramDataset(self.table, self.files, self.members[member].preprocessing)

    def probabilities(self, member: int, logits: np.ndarray) -> np.ndarray:
        return sigmoid(lower_first(logits, self.members[member].logit_shift))

    def report(self, probabilities: np.ndarray, failures: Sequence[str]) -> Report:
        readable = np.flatnonzero(~np.isnan(probabilities[:, 0]))
        if readable.size == 0 and self.submission is None:
            raise UserError(f"not one image could be scored; the first: {failures[0]}")
        scores = score_breasts(self.table, readable, probabilities[readable], self.aggregate)
        counts, prior = self.table.counts, float(np.mean([member.prior for member in self.members]))
        values: dict[str, Any] = {
            "data": str(self.root),
            "split": self.split,
            "patients": counts.patients,
            "breasts": counts.breasts,
            "images": counts.images,
            "unreadable_images": counts.images - readable.size,
            "unscored_breasts": len(scores.unscored),
        }
        lines = ["the table has no labels, so there are no metrics"]
        if (~np.isnan(scores.labels[:, 0])).any():
            thresholds = [member.threshold for member in self.members if member.threshold is not None]
            given = float(np.mean(thresholds)) if thresholds and self.is_fresh else None
            metrics = scores.metrics(given, intervals=True)
            values |= metrics
            lines = [score_line(metrics), ""]
            lines += [f"{name:<32} {text}" for name, text in metric_texts(metrics).items()]
        files = {
            Path("images.csv"): bytes_of(write_images, self.table, probabilities),
            Path("predictions.csv"): bytes_of(write_predictions, scores, self.table.target_names),
        }
        if self.submission is not None:
            files[self.submission.absolute()] = bytes_of(write_submission, self.table, scores, prior)
            line = f"{self.submission}: {counts.breasts} breasts"
            if scores.unscored:
                line += f", {len(scores.unscored)} of them without a readable image at the prior of {prior:.4f}"
            lines += ["", line]
        return Report(values, "\n".join(lines), files)


def check_alike(members: Sequence[Trained]) -> None:
    """Raises CheckpointError for checkpoints that cannot be scored together."""
    first = members[0]
    for member in members[1:]:
        if member.targets != first.targets:
            raise CheckpointError(
                f"{member.path}: predicts {', '.join(member.targets)}, but {first.path} predicts "
                f"{', '.join(first.targets)}; an ensemble needs the same targets"
            )
        if (member.data is None) != (first.data is None):
            raise CheckpointError(
                "some of these checkpoints were trained on the embedded phantoms and some on other data: name those of "
                "one"
            )


def held_out(members: Sequence[Trained], table: Table) -> Table:
    """The patients that at least one member did not train on. Raises TableError where there is none."""
    patients = {p for p in table.patients if any(p not in member.training_patients for member in members)}
    if not patients:
        raise TableError(f"{table.path}: every patient in it was trained on; --split all scores them nevertheless")
    strangers = [str(member.path) for member in members if not member.training_patients & set(table.patients)]
    if strangers and len(members) > len(strangers):
        raise TableError(
            f"{', '.join(strangers)}: trained on no patient of {table.path}, so that it would score those whom the "
            "others trained on; leave it out, or use --split all"
        )
    return table.of_patients(patients)


def write_images(file: IO[str], table: Table, probabilities: np.ndarray) -> None:
    """One line an image that could be read: patient_id, image_id, laterality, then each target's probability."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["patient_id", "image_id", "laterality", *(f"{n}_probability" for n in table.target_names)])
    for row, values in zip(table.rows, probabilities, strict=True):
        if not np.isnan(values[0]):
            writer.writerow([row.patient_id, row.image_id, row.laterality, *(f"{value:.7g}" for value in values)])
