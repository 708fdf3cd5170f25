"""The images of a run: listed once, divided into training and validation, and the same when the run is resumed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from efficientnet.common.errors import UserError
from efficientnet.imagefolder.dataset import UNKNOWN, Images
from efficientnet.imagefolder.listing import Listing, changes, class_folders, deal_folds, list_images, split_folders
from efficientnet.imagefolder.settings import ImageFolderSettings
from efficientnet.training.distributed import Process

# Parts of a data folder: its training and validation folders, or one folder of class folders to be split.
TRAIN, VALIDATION, WHOLE = "train", "validation", "images"
RECORD = "{part}.txt.gz"  # the listing of a part, in the run folder


@dataclass(frozen=True)
class RunData:
    """The images of a run.

    classes: the class folders of the training images; their places are the labels.
    listings: of the parts of the data folder.  warnings: a line each.
    """

    classes: tuple[str, ...]
    train: Images
    validation: Images
    listings: Mapping[str, Listing]
    warnings: tuple[str, ...]

    @classmethod
    def find(
        cls,
        root: Path,
        settings: ImageFolderSettings,
        seed: int,
        process: Process,
        checkpoint: Mapping[str, Any] | None,
        folder: Path | None,
    ) -> RunData:
        """List the images of `root` or, to resume a run, take those that it began with.

        Rank 0 does it for all ranks.  checkpoint, folder: of the run to resume.  Raises UserError on every rank.
        """
        found: RunData | str | None = None
        if process.is_main:
            try:
                listings = {part: list_images(path) for part, path in find_parts(root).items()}
                warnings = [text for listing in listings.values() for text in warnings_of(listing)]
                if checkpoint is not None:
                    listings, warnings = resumed(listings, checkpoint, folder)
                found = divide(listings, settings, seed, warnings)
            except UserError as error:
                found = str(error)
        found = process.broadcast(found)
        if isinstance(found, str):
            raise UserError(found)
        return found

    def records(self) -> dict[str, bytes]:
        """The listings as files for the run folder, by name."""
        return {RECORD.format(part=part): listing.to_bytes() for part, listing in self.listings.items()}


def find_parts(root: Path) -> dict[str, Path]:
    """The folders of the parts: TRAIN and VALIDATION, or WHOLE if there is no validation folder.

    A test folder is the validation folder if there is no other.
    """
    splits = split_folders(root)
    if "train" not in splits:
        return {WHOLE: root}
    train = root / splits["train"]
    held_out = splits.get("validation") or splits.get("test")
    return {TRAIN: train, VALIDATION: root / held_out} if held_out else {WHOLE: train}


def warnings_of(listing: Listing) -> Iterator[str]:
    """Yield a line for everything below the folder that is left out."""
    if listing.skipped:
        yield f"{listing.root}: {listing.skipped:,} files are no images and are left out"
    if empty := [name for name in listing.empty_folders if "/" not in name]:
        more = f" and {len(empty) - 3} more folders" if len(empty) > 3 else ""
        yield f"{listing.root}: no images in {', '.join(empty[:3])}{more}: no class of that name"
    yield from listing.problems


def resumed(
    now: Mapping[str, Listing], checkpoint: Mapping[str, Any], folder: Path
) -> tuple[dict[str, Listing], list[str]]:
    """The listings that a run began with, and a line for each way in which the folder has changed since.

    Images that have gone are replaced in training and left out in validation, like all that cannot be read; new ones
    are ignored. Raises UserError if the run folder has lost its record and the data have changed.
    """
    digests, began, warnings = checkpoint["listings"], {}, []
    if digests.keys() != now.keys():
        raise UserError(
            f"{folder}: the run began with the folders {', '.join(digests)}, but the data now have {', '.join(now)}; "
            "restore them"
        )
    for part, digest in digests.items():
        record, root = folder / RECORD.format(part=part), now[part].root
        if now[part].digest == digest:
            began[part] = now[part]
            continue
        if not record.exists():
            raise UserError(f"{record}: is missing, and {root} has changed since the run began; restore one of them")
        began[part] = Listing.from_bytes(record.read_bytes(), root)
        gone, new = changes(began[part], now[part])
        warnings.append(
            f"{root}: since the run began, {gone:,} images have gone and {new:,} are new; the new ones are left out"
        )
    return began, warnings


def divide(listings: Mapping[str, Listing], settings: ImageFolderSettings, seed: int, warnings: list[str]) -> RunData:
    """Divide the images by their folders or, without a validation folder, into folds of every class."""
    first = listings[TRAIN if TRAIN in listings else WHOLE]
    classes, labels = class_folders(first)
    if len(classes) < 2:
        raise UserError(
            f"{first.root}: has images of {len(classes)} class{'' if len(classes) == 1 else 'es'}; expected a folder "
            "of images for each of two or more"
        )
    if unsorted := int((labels == UNKNOWN).sum()):
        warnings = [*warnings, f"{first.root}: {unsorted:,} images are in no class folder and are left out"]
    if TRAIN in listings:
        if (settings.fold, settings.folds) != (ImageFolderSettings.fold, ImageFolderSettings.folds):
            held_out = listings[VALIDATION].root
            raise UserError(f"--fold and --folds split a single folder, but {held_out} is there to validate on")
        train = part_of(first, labels, labels != UNKNOWN)
        validation, more = validation_of(listings[VALIDATION], classes, first.root)
        warnings = [*warnings, *more]
    else:
        folds = deal_folds(labels, settings.folds, seed)
        train = part_of(first, labels, (labels != UNKNOWN) & (folds != settings.fold))
        validation = part_of(first, labels, (labels != UNKNOWN) & (folds == settings.fold))
        if lacking := set(range(len(classes))) - set(train.labels.tolist()):
            names = ", ".join(classes[label] for label in sorted(lacking)[:3])
            raise UserError(f"{first.root}: too few images to train on {names}; add some, or raise --folds")
    return RunData(classes, train, validation, listings, tuple(warnings))


def part_of(listing: Listing, labels: np.ndarray, chosen: np.ndarray) -> Images:
    """The images of a listing where `chosen`, bool (N,), is True."""
    names = listing.names if chosen.all() else listing.names.take(np.flatnonzero(chosen))
    return Images(listing.root, names, labels[chosen])


def validation_of(listing: Listing, classes: tuple[str, ...], trained: Path) -> tuple[Images, list[str]]:
    """The validation images labelled by the classes of training, and warnings.  trained: the training folder."""
    own, its_labels = class_folders(listing)
    if not own:
        raise UserError(
            f"{listing.root}: has no class folders; sort its {len(listing):,} images into a folder for each class, "
            f"named as in {trained}"
        )
    if strange := [name for name in own if name not in classes]:
        raise UserError(f"{listing.root}: the class {strange[0]} ({len(strange)} such) has no folder in {trained}")
    warnings = []
    if unsorted := int((its_labels == UNKNOWN).sum()):
        warnings.append(f"{listing.root}: {unsorted:,} images are in no class folder and are left out")
    if lacking := len(classes) - len(own):
        warnings.append(f"{listing.root}: has no images of {lacking} of the {len(classes)} classes")
    place = {name: label for label, name in enumerate(classes)}
    of_training = np.array([place[name] for name in own])
    return part_of(listing, of_training[its_labels], its_labels != UNKNOWN), warnings
