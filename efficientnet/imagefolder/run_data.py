"""The images of a run: listed once, divided into training and validation, and the same when the run is resumed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from efficientnet.common.errors import UserError
from efficientnet.common.text import counted
from efficientnet.imagefolder.dataset import UNKNOWN, Images
from efficientnet.imagefolder.listing import (
    SPLITS,
    Listing,
    changes,
    class_folders,
    deal_folds,
    has_image_folder,
    list_images,
    split_folders,
)
from efficientnet.imagefolder.settings import ImageFolderSettings
from efficientnet.training.distributed import Process
from efficientnet.training.folds import fold_folders

# Parts of a data folder: its training and validation folders, or one folder of class folders to be split.
TRAIN, VALIDATION, WHOLE = "train", "validation", "images"
IN_WORDS = {TRAIN: "a training folder", VALIDATION: "a validation folder", WHOLE: "a single folder of classes"}
RECORD = "{part}.txt.gz"  # the listing of a part, in the run folder


@dataclass(frozen=True)
class RunData:
    """The images of a run.

    classes: the class folders of the training images; their places are the labels.
    listings: of the parts of the data folder.
    changes, warnings: lines on what has changed since the run, or its fold 0, began, and on everything else.
    """

    classes: tuple[str, ...]
    train: Images
    validation: Images
    listings: Mapping[str, Listing]
    changes: tuple[str, ...]
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
        """List the images of `root`, or take those that this run, or fold 0 of the same `--fold all`, began with.

        Rank 0 does it for all ranks.  checkpoint: to resume from.  folder: the run folder, if it has a name yet.
        Raises UserError on every rank.
        """
        found: RunData | str | None = None
        if process.is_main:
            try:
                listings, changes = {part: list_images(path) for part, path in find_parts(root).items()}, []
                warnings = [text for listing in listings.values() for text in warnings_of(listing)]
                if checkpoint is not None:
                    listings, changes = as_recorded(listings, folder, checkpoint["listings"])
                elif first := fold_zero(folder):
                    listings, changes = as_recorded(listings, first)
                found = divide(listings, settings, seed, changes, warnings)
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
    train = root / splits.get("train", "")
    if "train" not in splits or not has_image_folder(train):  # perhaps a class of that name
        return {WHOLE: root}
    held_out = splits.get("validation") or splits.get("test")
    return {TRAIN: train, VALIDATION: root / held_out} if held_out else {WHOLE: train}


def warnings_of(listing: Listing) -> Iterator[str]:
    """Yield a line for everything below the folder that is left out."""
    if listing.skipped:
        kinds = Counter(listing.skipped).most_common()
        shown = ", ".join(f"{count:,} {suffix}" for suffix, count in kinds[:5]) + (", ..." if len(kinds) > 5 else "")
        yield f"{listing.root}: left out {counted(sum(listing.skipped.values()), 'file')} of other kinds: {shown}"
    if empty := [name for name in listing.empty_folders if "/" not in name]:
        more = f" and {len(empty) - 3} more folders" if len(empty) > 3 else ""
        yield f"{listing.root}: no images in {', '.join(empty[:3])}{more}: no class of that name"
    yield from listing.problems


def fold_zero(folder: Path | None) -> Path | None:
    """The run folder of fold 0, if `folder` is that of another fold of the same `--fold all`."""
    runs = [] if folder is None else fold_folders(folder.parent)
    return runs[0] if folder in runs[1:] else None


def as_recorded(
    now: Mapping[str, Listing], folder: Path, digests: Mapping[str, str] | None = None
) -> tuple[dict[str, Listing], list[str]]:
    """The listings in a run folder, and a line for each way in which the data have changed since.

    Images that are gone are replaced in training and left out in validation, like all that cannot be read; new ones
    are ignored.  digests: of the listings, in the checkpoint to resume from.
    Raises UserError if the data have changed and the record cannot be used.
    """
    began, changed = {}, []
    if digests is not None and digests.keys() != now.keys():
        had, has = (" and ".join(IN_WORDS[part] for part in parts) for parts in (digests, now))
        raise UserError(f"{folder}: the run began with {had}, but the data now have {has}; restore them")
    for part, listing in now.items():
        if digests is not None and digests[part] == listing.digest:
            began[part] = listing
            continue
        record = folder / RECORD.format(part=part)
        try:
            began[part] = Listing.from_bytes(record.read_bytes(), listing.root)
        except OSError as error:
            raise UserError(
                f"{record}: cannot be read ({error.strerror}), and {listing.root} has changed since the run began; "
                "restore one of them"
            ) from None
        if digests is not None and began[part].digest != digests[part]:
            raise UserError(f"{record}: is not the list that the run began with; restore it")
        gone, new = changes(began[part], listing)
        if gone or new:
            changed.append(
                f"{listing.root}: since the run began, {counted(gone, 'image', 'have')} gone and {new:,} "
                f"{'is' if new == 1 else 'are'} new; new ones are left out"
            )
    return began, changed


def divide(
    listings: Mapping[str, Listing],
    settings: ImageFolderSettings,
    seed: int,
    changes: list[str],
    warnings: list[str],
) -> RunData:
    """Divide the images by their folders or, without a validation folder, into folds of every class."""
    first = listings[TRAIN if TRAIN in listings else WHOLE]
    classes, labels = class_folders(first)
    if len(classes) < 2:
        raise UserError(
            f"{first.root}: has images of {len(classes)} class{'' if len(classes) == 1 else 'es'}; expected a folder "
            "of images for each of two or more (and mammograms need a train.csv)"
        )
    if unsorted := int((labels == UNKNOWN).sum()):
        warnings = [*warnings, f"{first.root}: left out {counted(unsorted, 'image')} outside the class folders"]
    if TRAIN in listings:
        if (settings.fold, settings.folds) != (ImageFolderSettings.fold, ImageFolderSettings.folds):
            raise UserError(not_split(listings[VALIDATION].root))
        if first.root.resolve() == listings[VALIDATION].root.resolve():
            raise UserError(f"{listings[VALIDATION].root}: is the training folder; images must not be in both")
        train = part_of(first, labels, labels != UNKNOWN)
        validation, more = validation_of(listings[VALIDATION], classes, first.root)
        warnings = [*warnings, *more]
    else:
        folds = deal_folds(labels, settings.folds, seed)
        train = part_of(first, labels, (labels != UNKNOWN) & (folds != settings.fold))
        validation = part_of(first, labels, (labels != UNKNOWN) & (folds == settings.fold))
        if (lonely := np.bincount(labels[labels != UNKNOWN]) < 2).any():
            raise UserError(
                f"{first.root}: the class {classes[lonely.argmax()]} has only one image, so it cannot be trained and "
                "validated; add some, or remove the folder"
            )
    if settings.images_per_class is not None:
        train = first_of_each_class(train, settings.images_per_class)
    return RunData(classes, train, validation, listings, tuple(changes), tuple(warnings))


def not_split(held_out: Path) -> str:
    """The error for flags that split a folder which has a validation folder."""
    return f"--fold and --folds split a single folder, but {held_out} is there to validate on"


def part_of(listing: Listing, labels: np.ndarray, chosen: np.ndarray) -> Images:
    """The images of a listing where `chosen`, bool (N,), is True."""
    names = listing.names if chosen.all() else listing.names.take(np.flatnonzero(chosen))
    return Images(listing.root, names, labels[chosen])


def first_of_each_class(images: Images, count: int) -> Images:
    """The first `count` images of each class, in the order of their names."""
    by_class = np.argsort(images.labels, kind="stable")
    starts = np.searchsorted(images.labels[by_class], images.labels[by_class])
    chosen = np.sort(by_class[np.arange(len(by_class)) - starts < count])
    return Images(images.root, images.names.take(chosen), images.labels[chosen])


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
        warnings.append(f"{listing.root}: left out {counted(unsorted, 'image')} outside the class folders")
    if listing.root.name.lower() in SPLITS["test"]:
        warnings.append(f"{listing.root} is used to choose best.pt, so that its scores there are slightly optimistic")
    if lacking := len(classes) - len(own):
        warnings.append(f"{listing.root}: has no images of {lacking} of the {len(classes)} classes")
    place = {name: label for label, name in enumerate(classes)}
    of_training = np.array([place[name] for name in own])
    return part_of(listing, of_training[its_labels], its_labels != UNKNOWN), warnings
