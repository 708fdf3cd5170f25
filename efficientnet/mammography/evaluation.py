"""Evaluate checkpoints of the screening task on a table of mammograms: metrics, predictions, submission."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from efficientnet.common.errors import UserError
from efficientnet.common.extras import require
from efficientnet.mammography.calibration import cross_fitted
from efficientnet.mammography.dataset import BreastDataset, MammogramDataset
from efficientnet.mammography.dicom.headers import check_decoders, refused_in_sample
from efficientnet.mammography.figures import as_text, figures, score_line, scores_by_view
from efficientnet.mammography.image_files import data_folder, find_images, source_folder
from efficientnet.mammography.layouts import find_table
from efficientnet.mammography.loss import lower_first
from efficientnet.mammography.page.assembly import Reader, read_history, report_data
from efficientnet.mammography.page.document import report_files
from efficientnet.mammography.page.single import score_image
from efficientnet.mammography.prepare.folder import check_prepared, otherwise_read
from efficientnet.mammography.preprocessing import MOST_BITS, PICTURE_SETTINGS, SOURCE_SETTINGS, Preprocessing
from efficientnet.mammography.raster import Survey, survey
from efficientnet.mammography.scoring import (
    BreastScores,
    bytes_of,
    score_breasts,
    write_images,
    write_predictions,
    write_submission,
)
from efficientnet.mammography.settings import (
    CALIBRATED,
    DEMO_PATIENTS,
    NO_THRESHOLD,
    OUT_OF_FOLD,
    given_source,
    phantom_folder,
)
from efficientnet.mammography.table import Breast, Table, read_table
from efficientnet.mammography.table_columns import FIELDS, present_columns
from efficientnet.mammography.targets import output_probabilities
from efficientnet.mammography.trained import (
    Trained,
    as_one,
    check_alike,
    held_out,
    is_among,
    shared_calibration,
    shared_threshold,
    split_warnings,
)
from efficientnet.model import EfficientNet
from efficientnet.training.task import Report

SUBMITTED = "cancer"  # the competition's target
HEADLINE = ("pf1", "pf1_best", "auc", "average_precision")


class ScreeningEvaluation:
    """A `training.task.Evaluation` of one split of a data folder.

    data, columns: None for those that the first checkpoint was trained with.
    split: "validation", "test" or "all"; None for "validation" if the folder has a train.csv, else "test".
    aggregate: "mean" or "max" over the images of a breast.  source: SOURCE_SETTINGS that override `as_it_is_read`.
    flip: whether the caller averages each image with its mirror image.  threshold: of --threshold.
    soup: the caller averages the members' weights into one network.  Raises UserError.
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
        threshold: str | float | None = None,
        soup: bool = False,
    ) -> None:
        self.submission = submission
        check_alike(members)
        self.is_joint = members[0].views == "joint"
        if self.is_joint and aggregate == "max":
            raise UserError(f"{members[0].path}: scores a breast from all its views together; omit --aggregate max")
        self.method = "joint" if self.is_joint else aggregate
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
        if columns is None:  # another folder's layout is recognised anew
            own = first.was_trained_on(self.root)
            columns = {ours: theirs for ours, theirs in first.columns.items() if own or ours != "layout"}
        has_train = find_table(self.root, columns).path.exists() and data.name != "test.csv"
        self.split = split or ("validation" if has_train else "test")
        self.is_test = self.split == "test"
        whole = self.read_table(first, columns)
        folder = "test_images" if self.is_test else "train_images"
        files = dict(zip(whole.rows, find_images(whole, self.root, folder), strict=True))
        self.image_folder = self.root / source_folder(whole, folder)
        known = [member.known_patients(whole, self.root) for member in members]
        fitted = set().union(*(member.split.fold_of for member in members if member.split))
        fitted_to = any(is_among(patient, fitted, self.root) for patient in whole.patients)
        self.runs = list(dict.fromkeys(member.path.parent for member in members))
        if soup:
            members, known = [as_one(members)], [set().union(*known)]
        self.members = members
        self.table = held_out(members, known, whole) if self.split == "validation" else whole
        self.files = [files[row] for row in self.table.rows]
        check_decoders([file for file in self.files if file is not None])
        seen = survey(self.files)
        ways = as_it_is_read(self.root, seen, members) | dict(source)
        self.members = [replace(each, preprocessing=replace(each.preprocessing, **ways)) for each in members]
        looks = seen.lines(self.members[0].preprocessing)

        # The members' thresholds were tuned on means, and are honest only for patients whom no member has seen.
        self.threshold, self.tuned = threshold, shared_threshold(members) if aggregate == "mean" else None
        self.is_fresh = not (any(known) or fitted_to) and aggregate == "mean"
        of_mean = "it applies to the mean over images, not to the maximum" if aggregate == "max" else ""
        if threshold == CALIBRATED and not (self.is_fresh and shared_calibration(members)):
            why = (
                "it was trained on or fitted to some of these patients" if any(known) or fitted_to else "none is known"
            )
            raise UserError(f"--threshold {CALIBRATED}: {of_mean or why}; use {NO_THRESHOLD}")
        if threshold == OUT_OF_FOLD and self.tuned is None:
            why = of_mean or "none is recorded"
            raise UserError(f"--threshold {OUT_OF_FOLD}: no threshold is known, {why}; pass a number or {NO_THRESHOLD}")
        scored = self.table.breasts if self.is_joint else self.table.rows
        self.allowed = np.ones((len(members), len(scored)), dtype=bool)
        if self.split == "validation":
            self.allowed = np.array([[each.patient_id not in its for each in scored] for its in known])
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
        before = set().union(*(member.earlier_patients for member in self.members))
        if earlier := [patient for patient in self.table.patients if is_among(patient, before, self.root)]:
            yield f"{len(earlier)} of these patients were used to train the --weights that the run started from"

    def warnings_about_files(self, as_trained: Sequence[Trained], flip: bool) -> Iterator[str]:
        own = next((member for member in as_trained if member.was_trained_on(self.root)), None)
        if own and (text := otherwise_read(self.root, own.preprocessing)):
            yield text
        yield from refused_in_sample(self.files, self.members[0].preprocessing.accept_raw)
        if flip and not all(member.augmentation or member.preprocessing.input_size for member in self.members):
            yield "--flip is set, but a checkpoint was trained without mirror images (--augmentation 0)"

    @classmethod
    def from_arguments(
        cls, checkpoints: Mapping[Path, Mapping[str, Any]], arguments: argparse.Namespace
    ) -> ScreeningEvaluation:
        members = [Trained.from_checkpoint(path, content) for path, content in checkpoints.items()]
        evaluation = cls(
            members,
            arguments.data,
            arguments.split,
            arguments.columns,
            arguments.aggregate,
            arguments.submission,
            given_source(arguments),
            arguments.flip,
            arguments.threshold,
            arguments.soup,
        )
        if arguments.report is not None:
            require("matplotlib", "report", "--report")
            if np.isnan(evaluation.table.labels[:, 0]).all():
                raise UserError(f"--report: {evaluation.table.path} has no labels of {members[0].targets[0]}; omit it")
        return evaluation

    def read_table(self, first: Trained, columns: Mapping[str, str]) -> Table:
        path, mapping, _ = find_table(self.root, columns, "test.csv" if self.is_test else "train.csv")
        # A test table usually has no labels, so drop the label columns that the mapping names but the table lacks.
        present = present_columns(path, mapping, needed=FIELDS) if self.is_test else mapping
        scored = first.targets[0]
        unlabelled = scored in mapping and scored not in present
        return read_table(path, first.heads, present, labels="none" if unlabelled else "optional")

    def input_key(self, member: int) -> Preprocessing:
        return self.members[member].preprocessing

    def dataset(self, member: int) -> MammogramDataset | BreastDataset:
        images = MammogramDataset(self.table, self.files, self.members[member].preprocessing)
        return BreastDataset(images) if self.is_joint else images

    def probabilities(self, member: int, logits: np.ndarray) -> np.ndarray:
        return output_probabilities(lower_first(logits, self.members[member].logit_shift), self.table.targets)

    def breast_scores(self, probabilities: np.ndarray) -> BreastScores:
        """The breasts' scores, from mean probabilities (N, O) of the images, or of the breasts for joint views."""
        scored = np.flatnonzero(~np.isnan(probabilities[:, 0]))
        return score_breasts(self.table, scored, probabilities[scored], self.method)

    def predictions(self, probabilities: np.ndarray) -> bytes:
        return bytes_of(write_predictions, self.breast_scores(probabilities), self.table.targets)

    def headline(self, probabilities: np.ndarray) -> dict[str, float | None]:
        scores = self.breast_scores(probabilities)
        if not len(scores.labelled.breasts):
            return {}
        metrics = scores.metrics()
        return {name: metrics[name] for name in HEADLINE}

    def figures(self, scores: BreastScores, probabilities: np.ndarray) -> dict[str, Any]:
        """`figures.figures` of the breasts, whose images or, for joint views, themselves have these probabilities."""
        given = self.threshold if isinstance(self.threshold, float) else None
        if self.is_fresh and self.threshold in (None, OUT_OF_FOLD):
            given = self.tuned
        calibration = shared_calibration(self.members) if self.is_fresh else None
        readable, by_view = np.flatnonzero(~np.isnan(probabilities[:, 0])), {}
        if not self.is_joint:
            by_view = scores_by_view(self.table, readable, probabilities[readable], self.method)
        return figures(scores, self.table, given, calibration, by_view)

    def report(self, probabilities: np.ndarray, failures: Sequence[str]) -> Report:
        scored = int((~np.isnan(probabilities[:, 0])).sum())
        if scored == 0 and self.submission is None:
            raise UserError(f"no image could be scored; the first error: {failures[0]}")
        scores, counts = self.breast_scores(probabilities), self.table.counts
        values: dict[str, Any] = {
            "data": str(self.root),
            "split": self.split,
            "patients": counts.patients,
            "breasts": counts.breasts,
            "images": counts.images,
            "unreadable_images": len(failures) if self.is_joint else counts.images - scored,
            "unscored_breasts": len(scores.unscored),
        }
        lines = ["the table has no labels, so there are no metrics"]
        if len(scores.labelled.breasts):
            found = self.figures(scores, probabilities)
            values |= found
            lines = [score_line(found, "held-out breasts" if self.split == "validation" else "breasts")]
            lines += ["", as_text(found)]
        files = {Path("predictions.csv"): self.predictions(probabilities)}
        if not self.is_joint:
            files[Path("images.csv")] = bytes_of(write_images, self.table, probabilities)
        if self.submission is not None:
            content, line = self.submitted(scores)
            files[self.submission.absolute()] = content
            lines += ["", line]
        problem = None
        if scored == 0:
            problem = f"{self.image_folder}: no image could be scored; the first error: {failures[0]}"
        return Report(values, "\n".join(lines), files, problem)

    def submitted(self, scores: BreastScores) -> tuple[bytes, str]:
        """The content of --submission, and a line that says what it is."""
        prior = float(np.mean([member.prior for member in self.members]))
        threshold = self.threshold if isinstance(self.threshold, float) else self.tuned
        if self.threshold in (NO_THRESHOLD, CALIBRATED):
            threshold = None
        if self.threshold == CALIBRATED:
            calibration = shared_calibration(self.members)
            scores = replace(scores, probabilities=calibration(scores.probabilities))
        line = f"{self.submission}: {self.table.counts.breasts} breasts of {self.table.path}"
        if self.split == "validation":
            line += ", held-out patients only (for the competition: --split test)"
        if threshold is None:
            line += ", calibrated probabilities" if self.threshold == CALIBRATED else ", probabilities"
            line += "" if self.threshold else ", since no out-of-fold threshold is known"
            line += " (--threshold P writes 1 from P and 0 below it)"
        else:
            which = "the threshold" if isinstance(self.threshold, float) else "the out-of-fold threshold"
            line += f", 1 from {which} {threshold:.4g} and 0 below it (--threshold none writes probabilities)"
        if scores.unscored:
            fallback = f"the prior of {prior:.4f}" if threshold is None else "0"
            line += f"; {len(scores.unscored)} of them without a readable image, at {fallback}"
        return bytes_of(write_submission, self.table, scores, prior, threshold), line

    def page(
        self,
        probabilities: np.ndarray,
        values: Mapping[str, Any],
        networks: Sequence[EfficientNet],
        title: str,
        device: torch.device,
    ) -> dict[str, bytes]:
        scores = self.breast_scores(probabilities)
        known = scores.labelled
        labels, of_first = known.labels[:, 0], known.probabilities[:, 0]
        calibration = shared_calibration(self.members) if self.is_fresh else None
        calibrated = calibration(of_first) if calibration else cross_fitted(labels, of_first, known.patients)
        places = {breast.prediction_id: place for place, breast in enumerate(self.table.breasts)}

        def reader(breast: Breast) -> Reader:
            unit = places[breast.prediction_id] if self.is_joint else breast.rows[0]
            member = int(np.argmax(self.allowed[:, unit]))
            return Reader(networks[member], self.members[member].preprocessing)

        drawn = ["Phantoms: drawn, not acquired. No figure here applies to mammograms."]
        data = report_data(
            f"{title}: {self.split} of {self.root.name}",
            scores,
            values,
            self.table,
            self.files,
            reader,
            device,
            calibrated=calibrated,
            histories=[history for run in self.runs if (history := read_history(run))],
            remarks=[*(drawn if self.members[0].data is None else ()), *self.warnings],
            limits=["The figures apply only to patients and machines like these."],
        )
        return report_files(data)


def score_one_image(
    checkpoint: Path, content: Mapping[str, Any], network: EfficientNet, arguments: argparse.Namespace
) -> Report:
    """The report on --image."""
    trained = Trained.from_checkpoint(checkpoint, content)
    trained = replace(trained, preprocessing=replace(trained.preprocessing, **given_source(arguments)))
    values, text, picture = score_image(arguments.image, trained, network, next(network.parameters()).device)
    files = {arguments.heatmap.absolute(): picture} if arguments.heatmap else {}
    return Report({"image": str(arguments.image), **values}, text, files)


def as_it_is_read(root: Path, seen: Survey, members: Sequence[Trained]) -> dict[str, Any]:
    """SOURCE_SETTINGS for a folder: from a member trained on it, else the first member's with `bits` from the files."""
    own = next((member for member in members if member.was_trained_on(root)), None)
    used = (own or members[0]).preprocessing
    ways = {name: getattr(used, name) for name in SOURCE_SETTINGS}
    return ways if own else ways | {"bits": seen.bits or MOST_BITS}
