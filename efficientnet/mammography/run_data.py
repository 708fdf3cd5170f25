"""The data of one training run: the table, its split into training and held-out rows, their files, further data."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from efficientnet.common.errors import UserError
from efficientnet.mammography.augment import augment_draw
from efficientnet.mammography.dataset import BreastDataset, MammogramDataset
from efficientnet.mammography.dicom.headers import check_decoders, refused_in_sample
from efficientnet.mammography.extra import Extra, joined, read_extra
from efficientnet.mammography.image_files import find_images, name_hint
from efficientnet.mammography.layouts import find_table
from efficientnet.mammography.prepare.folder import check_prepared, otherwise_read
from efficientnet.mammography.preprocessing import COMPARED_SETTINGS, MOST_BITS, PICTURE_SETTINGS, Preprocessing
from efficientnet.mammography.raster import survey
from efficientnet.mammography.settings import ScreeningSettings
from efficientnet.mammography.split import Split
from efficientnet.mammography.table import Table, TableError, read_table
from efficientnet.mammography.table_columns import default_targets
from efficientnet.mammography.targets import Target
from efficientnet.training.distributed import Process
from efficientnet.training.recipe import Recipe


class RunData:
    """The images of a run, from the folder `root`.

    train, validation: the two parts of the table, with `train_files` and `validation_files`.  extras: further training
    data.  everything: all rows to train on, those of `train` first.  split: the folds of the patients.
    preprocessing: as given, with `bits` decided.
    """

    def __init__(
        self,
        root: Path,
        settings: ScreeningSettings,
        preprocessing: Preprocessing,
        recipe: Recipe,
        process: Process,
        strict: bool,
        checkpoint: Mapping[str, Any] | None,
    ) -> None:
        self.root, self.settings, self.recipe = root, settings, recipe
        check_prepared(root, preprocessing, PICTURE_SETTINGS if checkpoint else COMPARED_SETTINGS)
        table = self.read_table(checkpoint)
        files = find_images(table, root)
        self.survey = process.broadcast(survey(files) if process.is_main else None)
        # A resumed run that recorded no bits keeps the old default.
        bits = settings.bits or (self.survey.bits if checkpoint is None else None)
        self.preprocessing = replace(preprocessing, bits=bits or MOST_BITS)
        # Folds come from the whole table, even if only some of its images have been downloaded.
        if checkpoint is None:
            self.split = Split.deal(table, settings.folds, recipe.seed)
        else:
            self.split = Split.kept(checkpoint, table, settings.folds, settings.fold, recipe.seed)
        self.divide(table, files, strict)
        extra_folders = [Path(folder) for folder in settings.extra_data or ()]
        self.extras = read_extra(extra_folders, table.targets, settings.columns)
        held_out = {(row.patient_id, row.image_id) for row in self.validation.rows}
        for extra in self.extras:
            check_prepared(extra.root, self.preprocessing)
            own = {(row.patient_id.removeprefix(f"{extra.name}:"), row.image_id) for row in extra.table.rows}
            if common := held_out & own:
                raise TableError(
                    f"--extra-data {extra.root}: {len(common)} of its images have the patient_id and image_id of "
                    "held-out images of --data; omit the folder, or remove them from it"
                )
        self.everything = joined(self.train, self.extras)
        extra_files = [file for extra in self.extras for file in extra.files]
        every_file = [*self.train_files, *self.validation_files, *extra_files]
        self.check_ranks(process)
        check_decoders(every_file[process.rank :: process.world_size], process.gather)
        self.warnings = [*self.changes(table, checkpoint), *self.warnings_of_labels(), *table.warnings]
        self.warnings += [text for extra in self.extras for text in extra.warnings]
        if process.is_main:
            self.warnings += refused_in_sample(every_file, self.preprocessing.accept_raw)

    @property
    def targets(self) -> tuple[Target, ...]:
        return self.train.targets

    def read_table(self, checkpoint: Mapping[str, Any] | None) -> Table:
        given = self.settings.columns or {}
        path, columns, labels = find_table(self.root, given)
        if given and "layout" not in given and columns != given:
            raise TableError(f"{path}: has a published layout, which names its columns; omit --columns")
        if checkpoint is not None:  # even if the table has gained other columns
            targets = recorded_targets(checkpoint)
        else:
            targets = self.settings.targets or default_targets(path, columns)
            if self.settings.views == "joint" and not self.settings.targets:  # a breast has no view
                targets = tuple(name for name in targets if name != "view")
        try:
            return read_table(path, targets, columns, labels)
        except ValueError as error:
            names = ",".join(target if isinstance(target, str) else target.name for target in targets)
            raise TableError(f"--targets {names}: {error}") from None

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
        rows = repr((self.train.rows, self.validation.rows, [extra.table.rows for extra in self.extras])).encode()
        if len(set(process.gather(hashlib.sha256(rows).digest()))) > 1:
            raise UserError(f"{self.root}: the ranks found different images; give every machine the same data")

    def changes(self, table: Table, checkpoint: Mapping[str, Any] | None) -> Iterator[str]:
        """Yield a line for each way in which the data differ from the data that a resumed run began with."""
        if change := self.split.changes(table):
            yield change
        if checkpoint is not None and (text := otherwise_read(self.root, self.preprocessing)):
            yield text
        now = self.image_counts
        before = now if checkpoint is None else checkpoint.get("images", now)  # older checkpoints have no count
        if now != before:
            yield (
                f"the run began with {before[0]} training and {before[1]} validation images, but now finds {now[0]} "
                f"and {now[1]}"
            )

    @property
    def image_counts(self) -> list[int]:
        """The numbers of training and of validation images."""
        return [len(self.train_files) + sum(len(extra.files) for extra in self.extras), len(self.validation_files)]

    def warnings_of_labels(self) -> Iterator[str]:
        scored = self.train.target_names[0]
        labels = self.everything.labels[:, 0]
        known = labels[~np.isnan(labels)]
        if known.size and known.all():
            yield f"every training image is positive for {scored}: nothing can be learned about it"
        if not known.any():
            yield f"no training image is positive for {scored}: nothing can be learned about it"
        if not self.validation.positive_counts.breasts:
            yield f"no held-out breast has {scored}: the epoch with the lowest validation loss becomes best.pt"
        if self.without_file:
            yield f"{self.without_file} rows of the table have no image file and are left out"

    def datasets(self) -> tuple[Dataset, Dataset, Dataset]:
        """The training images with and without augmentation, and the validation images; breasts for joint views."""
        augmentation = partial(
            augment_draw,
            seed=self.recipe.seed,
            strength=self.settings.augmentation,
            crop_size=self.preprocessing.input_size,
        )
        files, readings = list(self.train_files), [self.preprocessing] * len(self.train_files)
        for extra in self.extras:
            files += extra.files
            readings += [self.reading_of(extra)] * len(extra.files)
        train = (self.everything, files, self.preprocessing)
        sets = (
            MammogramDataset(*train, augmentation, replace_broken=True, readings=readings),
            MammogramDataset(*train, replace_broken=True, readings=readings),
            MammogramDataset(self.validation, self.validation_files, self.preprocessing),
        )
        if self.settings.views == "joint":
            return tuple(BreastDataset(images, seed=self.recipe.seed) for images in sets)
        return sets

    def reading_of(self, extra: Extra) -> Preprocessing:
        return replace(self.preprocessing, bits=survey(extra.files).bits or MOST_BITS)


def recorded_targets(content: Mapping[str, Any]) -> tuple[Target, ...]:
    """The targets of a checkpoint; older ones record only the names of 0/1 targets."""
    if "heads" in content:
        return tuple(Target.from_dict(values) for values in content["heads"])
    return tuple(Target(name) for name in content["targets"])


def share_of_positives(labels: np.ndarray) -> float:
    """The share of ones among the known labels (N,); 0 if none is known."""
    known = labels[~np.isnan(labels)]
    return float((known == 1).mean()) if known.size else 0.0
