"""The split of a run's patients into folds: assigned once from its table, and kept even if the table changes.

A new split of a corrected table would hold out patients that the run has already trained on.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from efficientnet.mammography.table import Row, Table, TableError
from efficientnet.training.checkpoint import misfit


@dataclass(frozen=True)
class Split:
    """The patients of a table as they were when a run began.

    fold_of: patient_id -> fold.  positives: the patients with the scored target.  images: patient_id -> image_ids.
    """

    fold_of: Mapping[str, int]
    positives: list[str]
    images: Mapping[str, list[str]]

    @classmethod
    def deal(cls, table: Table, folds: int, seed: int) -> Split:
        """Make a new split with `assign_folds`. Raises TableError if there are fewer patients than folds."""
        if folds > len(table.patients):
            raise TableError(
                f"{table.path}: --folds {folds} needs at least {folds} patients; the table has {len(table.patients)}"
            )
        images: dict[str, list[str]] = {patient: [] for patient in table.patients}
        for row in table.rows:
            images[row.patient_id].append(row.image_id)
        return cls(assign_folds(table, folds, seed), positive_patients(table), images)

    @classmethod
    def of_checkpoint(cls, checkpoint: Mapping[str, Any]) -> Split | None:
        """The split stored in a checkpoint; None in older ones. Raises CheckpointError if it is damaged."""
        try:
            return cls(**checkpoint["split"]) if "split" in checkpoint else None
        except TypeError as error:
            raise misfit("the split of the checkpoint", error) from None

    @classmethod
    def kept(cls, checkpoint: Mapping[str, Any], table: Table, folds: int, fold: int, seed: int) -> Split:
        """The split of the checkpoint's run. Raises TableError if the table contradicts it."""
        if split := cls.of_checkpoint(checkpoint):
            split.check(table, fold)
            return split
        # Older checkpoints store only the patients that they were trained on.
        split = cls.deal(table, folds, seed)
        if moved := split.held_out(fold) & set(checkpoint["training_patients"]):
            raise TableError(
                f"{table.path} has changed since the run began: it would hold out {len(moved)} patients (such as "
                f"{min(moved)}) that the run has trained on; resume with the original table, or start a new run"
            )
        return split

    def to_dict(self) -> dict[str, Any]:
        return {"fold_of": self.fold_of, "positives": self.positives, "images": self.images}

    @cached_property
    def owner(self) -> dict[str, str]:
        """The patient of each image_id that only one patient has, to notice an image that moves to another patient."""
        owners = Counter(image for images in self.images.values() for image in images)
        return {image: patient for patient, images in self.images.items() for image in images if owners[image] == 1}

    def held_out(self, fold: int) -> set[str]:
        """The patients of this fold."""
        return {patient for patient, its in self.fold_of.items() if its == fold}

    def changes(self, table: Table) -> str | None:
        """One line on how the table's patients differ from those at the beginning; None if they do not."""
        now, before = set(table.patients), set(self.fold_of)
        relabelled = set(positive_patients(table)).symmetric_difference(self.positives) & now & before
        counts = {
            "new (ignored; start a new run to use them)": len(now - before),
            "missing": len(before - now),
            "with a changed label (used from now on)": len(relabelled),
        }
        parts = [f"{count} {what}" for what, count in counts.items() if count]
        return f"{table.path} has changed since the run began; patients: {', '.join(parts)}" if parts else None

    def check(self, table: Table, fold: int) -> None:
        """Raise TableError if the table moves an image between training and validation, or has only other patients."""
        if not set(table.patients) & set(self.fold_of):
            raise TableError(f"{table.path}: contains none of the run's patients; use the data that it was trained on")
        held_out = self.held_out(fold)
        for row in table.rows:
            before, now = self.owner.get(row.image_id, row.patient_id), row.patient_id
            if now in self.fold_of and (before in held_out) != (now in held_out):
                raise TableError(
                    f"{table.path}: image {row.image_id} belonged to patient {before} when the run began and now "
                    f"belongs to patient {now}, but the run trains on one and holds out the other; resume with the "
                    "original table, or start a new run"
                )


def positive_patients(table: Table) -> list[str]:
    """The patients with the scored target, in the table's order."""
    positive = {row.patient_id for row in table.rows if row.targets[0] == 1}
    return [patient for patient in table.patients if patient in positive]


def assign_folds(table: Table, folds: int, seed: int = 0) -> dict[str, int]:
    """Split the patients into folds: patient_id -> fold, from 0 to folds - 1, in the table's order of patients.

    The patients are sorted by cancer, then site, then number of images, then a hash keyed by the seed, and dealt to the
    folds in turn. That spreads neighbours in the order evenly. Between folds, the numbers of patients, of cancer
    patients, and at each site of patients with and of patients without cancer differ by at most one, and the numbers of
    images by little. The only randomness is a cryptographic hash: the same patients, labels and seed give the same
    folds on every machine and in every version, in any order of the rows.

    Raises ValueError for fewer than two folds, or more folds than patients.
    """
    if not 2 <= folds <= len(table.patients):
        raise ValueError(f"folds must be between 2 and the number of patients ({len(table.patients)}), not {folds}")
    by_patient: dict[str, list[Row]] = {patient: [] for patient in table.patients}
    for row in table.rows:
        by_patient[row.patient_id].append(row)

    def place_in_line(patient: str) -> tuple[bool, str, int, bytes]:
        rows = by_patient[patient]
        has_cancer = any(row.targets[0] == 1 for row in rows)
        site = min(row.site_id or "" for row in rows)
        return not has_cancer, site, len(rows), hashlib.sha256(f"{seed}:{patient}".encode()).digest()

    line = sorted(table.patients, key=place_in_line)
    dealt = {patient: place % folds for place, patient in enumerate(line)}
    return {patient: dealt[patient] for patient in table.patients}
