"""Evaluate checkpoints of the screening task on a table of mammograms: metrics, predictions, submission."""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np

from efficientnet.common.command_line import output_file
from efficientnet.common.errors import UserError
from efficientnet.common.options import add_options, given_options, group_of
from efficientnet.mammography.dataset import MammogramDataset
from efficientnet.mammography.dicom.headers import check_decoders, refused_in_sample
from efficientnet.mammography.image_files import data_folder, find_images
from efficientnet.mammography.loss import lower_first
from efficientnet.mammography.prepare.folder import check_prepared, otherwise_read
from efficientnet.mammography.preprocessing import MOST_BITS, PICTURE_SETTINGS, SOURCE_SETTINGS, Preprocessing
from efficientnet.mammography.raster import Survey, survey
from efficientnet.mammography.report import metric_texts, score_line
from efficientnet.mammography.scoring import bytes_of, score_breasts, sigmoid, write_predictions, write_submission
from efficientnet.mammography.settings import DEMO_PATIENTS, ScreeningSettings, column_mapping, phantom_folder
from efficientnet.mammography.table import Table, read_table
from efficientnet.mammography.table_columns import without_absent_labels
from efficientnet.mammography.trained import Trained, check_alike, held_out, split_warnings
from efficientnet.training.task import Report

SUBMITTED = "cancer"  # the competition's target


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data", type=Path, metavar="DIR", help="folder with train.csv or test.csv (default: that of the training)"
    )
    data.add_argument(
        "--split",
        choices=["validation", "test", "all"],
        help="validation: patients of train.csv that no checkpoint was trained on; test: test.csv and test_images/; "
        "all: every patient in train.csv (default: validation, or test without a train.csv)",
    )
    data.add_argument(
        "--aggregate",
        choices=["mean", "max"],
        default="mean",
        help="how a breast is scored from its images (default: mean)",
    )
    data.add_argument(
        "--columns",
        type=column_mapping,
        metavar="OURS=THEIRS,...",
        help="names of the table's columns that differ from RSNA's (default: as in training)",
    )
    files = parser.add_argument_group(
        "source files", "default: as in training; --bits of another folder is decided by its own files"
    )
    add_options(files, ScreeningSettings, dict.fromkeys(SOURCE_SETTINGS), SOURCE_SETTINGS)
    group_of(parser, "output").add_argument(
        "--submission", type=output_file, metavar="FILE.csv", help="write prediction_id,cancer, one row for each breast"
    )


class ScreeningEvaluation:
    """A `training.task.Evaluation` of one split of a data folder.

    data, columns: None for those that the first checkpoint was trained with.
    split: "validation", "test" or "all"; None for "validation" if the folder has a train.csv, else "test".
    aggregate: "mean" or "max" over the images of a breast.  source: SOURCE_SETTINGS that override `as_it_is_read`.
    flip: whether the caller averages each image with its mirror image.  Raises UserError.
    """

    def __init__(
        self,
        members: Sequence[Trained],
        data: Path | None = None,
        split: str | None = None,
        columns: dict[str, str] | None = None,
        aggregate: str = "mean",
        submission: Path | None = None,
        source: Mapping[str, Any] = MappingProxyType({}),
        flip: bool = False,
    ) -> None:
        self.members, self.aggregate, self.submission = members, aggregate, submission
        check_alike(members)
        first = members[0]
        if submission is not None and first.targets[0] != SUBMITTED:
            raise UserError(
                f"--submission needs a checkpoint trained for {SUBMITTED}, but {first.path} was trained for "
                f"{first.targets[0]}; use --output for its predictions"
            )
        data = data or (Path(first.data) if first.data else phantom_folder(DEMO_PATIENTS, first.seed))
        self.root = data_folder(data, ("train.csv", "test.csv"))
        for member in members:
            check_prepared(self.root, replace(member.preprocessing, **source), (*PICTURE_SETTINGS, *source))
        has_train = (self.root / "train.csv").exists() and data.name != "test.csv"
        self.split = split or ("validation" if has_train else "test")
        self.is_test = self.split == "test"
        whole = self.read_table(first.columns if columns is None else columns)
        self.image_folder = self.root / ("test_images" if self.is_test else "train_images")
        files = dict(zip(whole.rows, find_images(whole, self.root, self.image_folder.name), strict=True))
        known = [member.known_patients(whole, self.root) for member in members]
        self.table = held_out(members, known, whole) if self.split == "validation" else whole
        self.files = [files[row] for row in self.table.rows]
        check_decoders([file for file in self.files if file is not None])
        seen = survey(self.files)
        ways = as_it_is_read(self.root, seen, members) | dict(source)
        self.members = [replace(each, preprocessing=replace(each.preprocessing, **ways)) for each in members]
        looks = seen.lines(self.members[0].preprocessing)

        # The members' thresholds apply only if they were tuned on other patients, with breasts scored in the same way.
        self.is_fresh = not any(known) and aggregate == "mean"
        self.allowed = np.ones((len(members), len(self.table.rows)), dtype=bool)
        if self.split == "validation":
            self.allowed = np.array([[row.patient_id not in its for row in self.table.rows] for its in known])
        self.warnings = [
            *self.warnings_about_patients(whole, known),
            *self.warnings_about_files(members, flip),
            *(text for name, text in looks if name == "warning"),
        ]
        counts, everybody = self.table.counts, len(whole.patients)
        whole_set = f" of {everybody}" if counts.patients < everybody else ""
        rest = " (the others were trained on)" if whole_set else ""
        self.description = (
            f"{self.split} of {self.root}: {counts.patients}{whole_set} patients{rest}, {counts.breasts} breasts, "
            f"{counts.images} images" + "".join(f", {text}" for name, text in looks if name != "warning")
        )

    def warnings_about_patients(self, whole: Table, known: Sequence[set[str]]) -> Iterator[str]:
        """Yield warnings about patients.  whole: the table before the split.  known: `known_patients` by member."""
        if not self.is_test:  # a test table need not have labels
            yield from whole.warnings
        if self.split == "validation":
            yield from split_warnings(self.members, known, whole, self.root)
        elif trained_on := set().union(*known):
            yield (
                f"{len(trained_on)} of these patients (by identifier) were trained on; their scores do not predict "
                "performance on new patients"
            )
        if earlier := set(self.table.patients) & set().union(*(member.earlier_patients for member in self.members)):
            yield f"{len(earlier)} of these patients were used to train the --weights that the run started from"

    def warnings_about_files(self, as_trained: Sequence[Trained], flip: bool) -> Iterator[str]:
        own = next((member for member in as_trained if member.was_trained_on(self.root)), None)
        if own and (text := otherwise_read(self.root, own.preprocessing)):
            yield text
        yield from refused_in_sample(self.files, self.members[0].preprocessing.accept_raw)
        if flip and not all(member.augmentation for member in self.members):
            yield "--flip is set, but a checkpoint was trained without mirror images (--augmentation 0)"

    @classmethod
    def from_arguments(
        cls, checkpoints: Mapping[Path, Mapping[str, Any]], arguments: argparse.Namespace
    ) -> ScreeningEvaluation:
        members = [Trained.from_checkpoint(path, content) for path, content in checkpoints.items()]
        given = given_options(arguments, ScreeningSettings)
        source = {name: given[name] for name in SOURCE_SETTINGS if name in given}
        return cls(
            members,
            arguments.data,
            arguments.split,
            arguments.columns,
            arguments.aggregate,
            arguments.submission,
            source,
            arguments.flip,
        )

    def read_table(self, mapping: Mapping[str, str]) -> Table:
        targets = self.members[0].targets
        path = self.root / ("test.csv" if self.is_test else "train.csv")
        # A test table usually has no labels, so drop the label columns that the mapping names but the table lacks.
        present = without_absent_labels(path, mapping) if self.is_test else mapping
        unlabelled = targets[0] in mapping and targets[0] not in present
        return read_table(path, targets, present, labels="none" if unlabelled else "optional")

    def input_key(self, member: int) -> Preprocessing:
        return self.members[member].preprocessing

    def dataset(self, member: int) -> MammogramDataset:
        return MammogramDataset(self.table, self.files, self.members[member].preprocessing)

    def probabilities(self, member: int, logits: np.ndarray) -> np.ndarray:
        return sigmoid(lower_first(logits, self.members[member].logit_shift))

    def report(self, probabilities: np.ndarray, failures: Sequence[str]) -> Report:
        readable = np.flatnonzero(~np.isnan(probabilities[:, 0]))
        if readable.size == 0 and self.submission is None:
            raise UserError(f"no image could be scored; the first error: {failures[0]}")
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
            lines = [score_line(metrics, "held-out breasts" if self.split == "validation" else "breasts"), ""]
            lines += [f"{name:<32} {text}" for name, text in metric_texts(metrics).items()]
        files = {
            Path("images.csv"): bytes_of(write_images, self.table, probabilities),
            Path("predictions.csv"): bytes_of(write_predictions, scores, self.table.target_names),
        }
        if self.submission is not None:
            files[self.submission.absolute()] = bytes_of(write_submission, self.table, scores, prior)
            line = f"{self.submission}: {counts.breasts} breasts of {self.table.path}"
            if self.split == "validation":
                line += ", held-out patients only (for the competition: --split test)"
            if scores.unscored:
                line += f", {len(scores.unscored)} of them without a readable image at the prior of {prior:.4f}"
            lines += ["", line]
        problem = None
        if readable.size == 0:
            problem = f"{self.image_folder}: no image could be scored; the first error: {failures[0]}"
        return Report(values, "\n".join(lines), files, problem)


def as_it_is_read(root: Path, seen: Survey, members: Sequence[Trained]) -> dict[str, Any]:
    """SOURCE_SETTINGS for a folder: from a member trained on it, else the first member's with `bits` from the files."""
    own = next((member for member in members if member.was_trained_on(root)), None)
    used = (own or members[0]).preprocessing
    ways = {name: getattr(used, name) for name in SOURCE_SETTINGS}
    return ways if own else ways | {"bits": seen.bits or MOST_BITS}


def write_images(file: IO[str], table: Table, probabilities: np.ndarray) -> None:
    """Write one line per readable image: patient_id, image_id, laterality, then each target's probability."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["patient_id", "image_id", "laterality", *(f"{n}_probability" for n in table.target_names)])
    for row, values in zip(table.rows, probabilities, strict=True):
        if not np.isnan(values[0]):
            writer.writerow([row.patient_id, row.image_id, row.laterality, *(f"{value:.7g}" for value in values)])
