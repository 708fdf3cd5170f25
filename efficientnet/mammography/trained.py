"""The metadata of checkpoints: what they were trained on, and which patients they may score."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from efficientnet.mammography.calibration import Calibration
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.run_data import recorded_targets
from efficientnet.mammography.split import Split
from efficientnet.mammography.table import Table, TableError
from efficientnet.mammography.targets import Target
from efficientnet.training.checkpoint import CheckpointError, misfit


@dataclass(frozen=True)
class Trained:
    """The metadata of a checkpoint, without the network.

    threshold, calibration: fitted to its held-out patients, or to those of all folds if it is one of --fold all.
    earlier_patients: those that its --weights were trained on.  split: None in older checkpoints.  data: the folder
    that it was trained on; None for the embedded phantoms.  views: "mean", or "joint" if it scores the views of a
    breast together.
    """

    path: Path
    preprocessing: Preprocessing
    heads: tuple[Target, ...]
    views: str
    logit_shift: float
    prior: float
    threshold: float | None
    calibration: Calibration | None
    training_patients: frozenset[str]
    earlier_patients: frozenset[str]
    split: Split | None
    data: str | None
    seed: int
    augmentation: float
    folds: int
    columns: dict[str, str]

    @classmethod
    def from_checkpoint(cls, path: Path, content: Mapping[str, Any]) -> Trained:
        """Read the metadata from a checkpoint's content. Raises CheckpointError if something is missing."""
        try:
            plan, fitted = content["plan"], content.get("summary")  # of all folds, see `ensemble.find_checkpoints`
            if fitted is None:
                fitted = {"threshold": content["metrics"].get("threshold"), "calibration": content.get("calibration")}
            calibration, heads = fitted.get("calibration"), recorded_targets(content)
            if sum(head.outputs for head in heads) != content["architecture"]["num_classes"]:
                raise ValueError("its targets do not fit its network")
            return cls(
                path,
                Preprocessing.from_dict(content["preprocessing"]),
                heads,
                content.get("views", "mean"),
                content["logit_shift"],
                content["prior"],
                None if fitted.get("threshold") is None else float(fitted["threshold"]),
                Calibration(calibration["slope"], calibration["bias"]) if calibration else None,
                frozenset(content["training_patients"]),
                frozenset(content.get("earlier_patients", ())),
                Split.of_checkpoint(content),
                plan["data"],
                plan["recipe"]["seed"],
                {**plan["recipe"], **plan["settings"]}["augmentation"],  # older ones have it in the recipe
                plan["settings"]["folds"],
                plan["settings"]["columns"] or {},
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise misfit(path, error) from None

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets."""
        return tuple(target.name for target in self.heads)

    def known_patients(self, table: Table, root: Path) -> set[str]:
        """The patients of a table that the checkpoint was trained on.

        In the folder that it was trained on, they include patients with an image that belonged to a training patient of
        another patient_id. In other folders, image_ids may agree by chance.
        """
        owner = self.split.owner if self.split and self.was_trained_on(root) else {}
        return {
            row.patient_id
            for row in table.rows
            if is_among(row.patient_id, self.training_patients, root)
            or owner.get(row.image_id) in self.training_patients
        }

    def was_trained_on(self, root: Path) -> bool:
        """Whether the checkpoint was trained on this folder."""
        return self.data is not None and Path(self.data).resolve() == root.resolve()


def is_among(patient: str, patients: Collection[str], root: Path) -> bool:
    """Whether a patient of the folder `root` is among these, by herself or as one of --extra-data (see `extra`)."""
    return patient in patients or f"{root.resolve().name}:{patient}" in patients


def split_warnings(members: Sequence[Trained], known: Sequence[set[str]], table: Table, root: Path) -> list[str]:
    """Warnings about a table that is not the one that the members were trained on.

    known: `known_patients` of each member.
    """
    patients, lines = set(table.patients), []
    pairs = list(zip(members, known, strict=True))
    elsewhere = [(member, its) for member, its in pairs if member.data and not member.was_trained_on(root)]
    if trained_on := set().union(*(its for _, its in elsewhere)):
        lines.append(
            f"{len(trained_on)} of these patients have the same identifiers as training patients in "
            f"{elsewhere[0][0].data}, and count as trained on; if they are other people, use --split all to score them"
        )
    renamed = set().union(*(its - member.training_patients for member, its in pairs))
    if renamed:
        lines.append(
            f"{len(renamed)} of these patients have images that were trained on under other patient_ids, and count as "
            f"trained on (such as {min(renamed)})"
        )
    splits = [(member, member.split.fold_of) for member in members if member.split]
    new = len(patients.difference(*(fold_of for _, fold_of in splits)))
    if splits and 0 < new < len(patients):
        lines.append(f"{new} of these patients are not in the original training table")
    for (first, fold_of), (member, its_fold_of) in itertools.pairwise(splits):
        common = patients & set(fold_of) & set(its_fold_of)
        moved = sum(fold_of[patient] != its_fold_of[patient] for patient in common)
        if moved and (first.seed, first.folds) == (member.seed, member.folds):
            lines.append(
                f"{first.path} and {member.path} began with different tables, and put {moved} of {len(common)} "
                "patients in different folds; each patient is scored by the checkpoints that did not train on them"
            )
    return lines


def check_alike(members: Sequence[Trained]) -> None:
    """Raise CheckpointError if the checkpoints cannot be evaluated together."""
    first = members[0]
    for member in members[1:]:
        if member.views != first.views:
            raise CheckpointError(
                f"{member.path}: trained with --views {member.views}, but {first.path} with --views {first.views}; "
                "evaluate them separately"
            )
        if member.heads != first.heads:
            same_names = " with other values" if member.targets == first.targets else ""
            raise CheckpointError(
                f"{member.path}: predicts {', '.join(member.targets)}{same_names}, but {first.path} predicts "
                f"{', '.join(first.targets)}; an ensemble needs the same targets"
            )
        if (member.data is None) != (first.data is None):
            raise CheckpointError(
                "some checkpoints were trained on the embedded phantoms and others on other data; use only one kind"
            )


def shared_threshold(members: Sequence[Trained]) -> float | None:
    """The mean of the members' thresholds; None if none has one."""
    known = [member.threshold for member in members if member.threshold is not None]
    return float(np.mean(known)) if known else None


def shared_calibration(members: Sequence[Trained]) -> Calibration | None:
    """The mean of the members' calibrations; None unless all have one."""
    known = [member.calibration for member in members if member.calibration is not None]
    if len(known) < len(members):
        return None
    return Calibration(*(float(np.mean([getattr(each, name) for each in known])) for name in ("slope", "bias")))


def as_one(members: Sequence[Trained]) -> Trained:
    """The metadata of the network whose weights are the mean of the members' (--soup).

    It is trained on the patients of all members. Raises CheckpointError if the members do not see the same pixels.
    """
    first = members[0]
    for member in members[1:]:
        if member.preprocessing != first.preprocessing:
            raise CheckpointError(
                f"{member.path}: reads its images in another way than {first.path}; --soup needs the same preprocessing"
            )
    return replace(
        first,
        logit_shift=float(np.mean([member.logit_shift for member in members])),
        prior=float(np.mean([member.prior for member in members])),
        threshold=first.threshold if len(members) == 1 else None,  # those of the members are of other networks
        calibration=first.calibration if len(members) == 1 else None,
        training_patients=frozenset().union(*(member.training_patients for member in members)),
        earlier_patients=frozenset().union(*(member.earlier_patients for member in members)),
        augmentation=min(member.augmentation for member in members),
    )


def held_out(members: Sequence[Trained], known: Sequence[set[str]], table: Table) -> Table:
    """The table of the patients that at least one member did not train on.

    known: `known_patients` of each member. Raises TableError if there are no such patients, or if some members, but not
    all, were trained on none of the table's patients.
    """
    patients = set(table.patients) - set.intersection(*known)
    if not patients:
        raise TableError(f"{table.path}: every patient in it was trained on; use --split all to score them anyway")
    strangers = [str(member.path) for member, its in zip(members, known, strict=True) if not its]
    if strangers and len(members) > len(strangers):
        raise TableError(
            f"{', '.join(strangers)}: not trained on any patient of {table.path}, so it would score patients that the "
            "others trained on; leave it out, or use --split all"
        )
    return table.of_patients(patients)
