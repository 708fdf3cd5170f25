"""Evaluate checkpoints or published weights on a folder of images, with or without classes."""

from __future__ import annotations

import argparse
import contextlib
import filecmp
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from efficientnet.common.errors import UserError
from efficientnet.common.options import given_options
from efficientnet.common.text import counted
from efficientnet.imagefolder.dataset import UNKNOWN, FolderDataset, Images, Preprocessing
from efficientnet.imagefolder.listing import class_folders, list_images, split_folders
from efficientnet.imagefolder.pictures import PictureError, read_centre_crop
from efficientnet.imagefolder.run_data import TRAIN, VALIDATION, WHOLE, find_parts, part_of, warnings_of
from efficientnet.imagefolder.scoring import (
    Prediction,
    Scores,
    as_text,
    percent,
    predictions_csv,
    predictions_of,
    score_line,
)
from efficientnet.imagefolder.settings import READING_OPTIONS, ImageFolderSettings
from efficientnet.imagefolder.trained import Trained, as_one, check_alike, fingerprints
from efficientnet.inference.prediction import predict
from efficientnet.model import EfficientNet
from efficientnet.training.task import Report


class ImageFolderEvaluation:
    """A `training.task.Evaluation` of one split of a folder.

    data: None for that of the first checkpoint's training.  split: one of `settings.SPLITS`; None for "validation" or,
    without a validation folder, "test".  reading: READING_OPTIONS that override those of the members.
    flip: whether the caller averages each image with its mirror image.
    soup: the caller averages the members' weights into one network.  Raises UserError.
    """

    def __init__(
        self,
        members: Sequence[Trained],
        data: Path | None = None,
        split: str | None = None,
        reading: Mapping[str, Any] = MappingProxyType({}),
        flip: bool = False,
        soup: bool = False,
    ) -> None:
        check_alike(members)
        if soup:
            members = [as_one(members)]
        self.members = [replace(each, preprocessing=replace(each.preprocessing, **reading)) for each in members]
        self.classes = members[0].classes
        data = data or members[0].data
        if data is None:
            raise UserError("--weights needs --data: the folder of images to score")
        self.root, self.split, folder = folder_of(data, split)
        listing = list_images(folder)
        if not len(listing):
            raise UserError(f"{folder}: no images found")
        folders, places = class_folders(listing)
        of_folder = np.array([*members[0].labels_of(folders), UNKNOWN])
        images = part_of(listing, of_folder[places], np.ones(len(listing), dtype=bool))
        known = np.zeros((len(members), len(images)), dtype=bool)
        trained_on = earlier = 0
        if any(len(member.trained_on) or len(member.earlier) for member in members):
            prints = fingerprints(images).numpy()
            known = np.stack([seen(images, np.isin(prints, member.trained_on), member) for member in members])
            trained_on = int(known.any(axis=0).sum())
            earlier = int(np.isin(prints, np.concatenate([member.earlier for member in members])).sum())
        if self.split == "validation":
            fresh = ~known.all(axis=0)
            if not fresh.any():
                raise UserError(f"{folder}: every image in it was trained on; use --split all to score them anyway")
            images, known = part_of(listing, images.labels, fresh), known[:, fresh]
        self.images = images
        self.allowed = ~known if self.split == "validation" else np.ones_like(known)
        self.labelled = images.labels != UNKNOWN
        strange = [name for name, label in zip(folders, of_folder, strict=False) if label == UNKNOWN]
        self.warnings = [
            *warnings_of(listing),
            *self.warnings_about_classes(strange),
            *self.warnings_about_training(folder, trained_on, earlier),
        ]
        if not all(member.input_known for member in members):
            self.warnings.append(
                "the input of these weights is assumed, since their name is not that of a published file"
            )
        if flip and not all(member.flips for member in members):
            self.warnings.append("--flip is set, but a checkpoint was trained without mirror images (--no-flip)")
        count, every = len(images), len(listing)
        whole = f" of {every:,}" if count < every else ""
        rest = " (the others were trained on)" if whole else ""
        classes = f" of {len(np.unique(images.labels[self.labelled])):,} classes" if self.labelled.any() else ""
        read = self.members[0].preprocessing
        what = self.split if self.labelled.any() else "images"
        self.description = (
            f"{what} of {folder}: {count:,}{whole} images{classes or ', no classes'}{rest}, "
            f"{' x '.join(map(str, read.image_size))} pixels, crop {read.fraction:.3g}, {read.interpolation}"
        )

    def warnings_about_classes(self, strange: Sequence[str]) -> Iterator[str]:
        """Yield a warning if images have no class.  strange: the folders that are named after no class."""
        example = f" (such as the folder {strange[0]!r})" if strange else ""
        if not self.labelled.any():
            yield (
                f"no folder is named after a class of {self.members[0].path}, such as {self.classes[0]}, so there are "
                "predictions but no scores"
            )
        elif not self.labelled.all():
            count = int((~self.labelled).sum())
            where = f"in no folder that is named after a class{example}"
            yield f"{counted(count, 'image', 'are')} {where}: predicted but not scored"

    def warnings_about_training(self, folder: Path, trained_on: int, earlier: int) -> Iterator[str]:
        """Yield warnings about images that a member has seen.

        folder: that of all images.  trained_on, earlier: numbers of its images that a member, or the weights that it
        started from, were trained on.
        """
        if self.split != "validation" and trained_on:
            yield f"{counted(trained_on, 'image', 'were')} trained on, so the scores do not predict those of new images"
        if earlier:
            yield f"{counted(earlier, 'image', 'were')} used to train the --weights that the run started from"
        parts = [find_parts(member.data) for member in self.members if member.data]
        if any(folder.resolve() == each[TRAIN].resolve() for each in parts if TRAIN in each):
            yield "these images were trained on, so the scores do not predict those of new images"
        if self.split == "test" and any(
            folder.resolve() == each[VALIDATION].resolve() for each in parts if TRAIN in each
        ):
            yield "the best epoch was chosen by its score on these images, which is therefore slightly optimistic"

    @classmethod
    def from_arguments(
        cls, checkpoints: Mapping[Path, Mapping[str, Any]], arguments: argparse.Namespace
    ) -> ImageFolderEvaluation:
        members = [Trained.from_checkpoint(path, content) for path, content in checkpoints.items()]
        return cls(members, arguments.data, arguments.split, given_reading(arguments), arguments.flip, arguments.soup)

    def input_key(self, member: int) -> Preprocessing:
        return self.members[member].preprocessing

    def dataset(self, member: int) -> FolderDataset:
        return FolderDataset(self.images, self.members[member].preprocessing)

    def probabilities(self, member: int, logits: np.ndarray) -> np.ndarray:
        return torch.from_numpy(logits).double().softmax(1).numpy()

    def scores(self, probabilities: np.ndarray) -> Scores:
        """The scores of the images that have a label and a probability."""
        scored = self.labelled & ~np.isnan(probabilities[:, 0])
        if scored.all():  # a copy of ImageNet's takes gigabytes
            return Scores.of(self.classes, self.images.labels, probabilities)
        return Scores.of(self.classes, self.images.labels[scored], probabilities[scored])

    def headline(self, probabilities: np.ndarray) -> dict[str, float | None]:
        scores = self.scores(probabilities)
        return {"top1": scores.top(1), "top5": scores.top(5)} if len(scores.labels) else {}

    def predicted(self, probabilities: np.ndarray) -> list[Prediction]:
        labels = ["" if label == UNKNOWN else self.classes[label] for label in self.images.labels]
        names = [self.images.name_below(self.root, index) for index in range(len(self.images))]
        return predictions_of(names, labels, self.classes, probabilities)

    def predictions(self, probabilities: np.ndarray) -> bytes:
        return predictions_csv(self.predicted(probabilities))

    def report(self, probabilities: np.ndarray, failures: Sequence[str]) -> Report:
        readable = int((~np.isnan(probabilities[:, 0])).sum())
        if not readable:
            raise UserError(f"no image could be scored; the first error: {failures[0]}")
        values: dict[str, Any] = {
            "data": str(self.root),
            "split": self.split,
            "listed_images": len(self.images),
            "unreadable_images": len(self.images) - readable,
        }
        lines = [f"{counted(readable, 'image', 'are')} predicted; without classes there are no scores"]
        first = self.predicted(probabilities)[:10]
        lines += ["", *(f"  {each.file}: {each.classes[0]} {percent(each.probabilities[0])} %" for each in first)]
        lines += [f"  and {readable - len(first):,} more: --output writes all"] if readable > len(first) else []
        scores = self.scores(probabilities)
        if len(scores.labels):
            figures = scores.figures()
            values |= figures
            lines = [score_line(figures), "", as_text(figures)]
        return Report(values, "\n".join(lines), {Path("predictions.csv"): self.predictions(probabilities)})


def seen(images: Images, alike: np.ndarray, member: Trained) -> np.ndarray:
    """Which of the images the member was trained on, bool (N,).

    alike: those that have the path and the size of a training image. Elsewhere they may be others, such as small files
    called 0000.jpg: their content counts, if that of the training images can still be read.
    """
    before = find_parts(member.data).get(WHOLE) if member.data else None
    if before is None or not before.is_dir() or before.resolve() == images.root.resolve():
        return alike
    same = alike.copy()
    for index in np.flatnonzero(alike):
        with contextlib.suppress(OSError):
            same[index] = filecmp.cmp(images.path(index), before / images.names[index], shallow=False)
    return same


def folder_of(data: Path, split: str | None) -> tuple[Path, str, Path]:
    """The data folder, the split, and the folder with its images. Raises UserError if there is none.

    In a folder of class folders, "validation" and "all" take all of it.
    """
    if not data.is_dir():
        raise UserError(f"{data}: {'is a file; expected a folder of images' if data.exists() else 'no such folder'}")
    splits, parts = split_folders(data), find_parts(data)
    if split is None:
        split = "test" if "test" in splits and "validation" not in splits else "validation"
    if split in splits:
        return data, split, data / splits[split]
    if split in ("validation", "all") and WHOLE in parts:
        return data, split, parts[WHOLE]
    known = [*splits, *(["validation", "all"] if WHOLE in parts else [])]
    raise UserError(f"{data}: has no split {split}; choose --split {' or '.join(known)}")


def given_reading(arguments: argparse.Namespace) -> dict[str, Any]:
    """The READING_OPTIONS whose flags were given."""
    given = given_options(arguments, ImageFolderSettings)
    return {name: given[name] for name in READING_OPTIONS if name in given}


def score_one_image(
    checkpoint: Path, content: Mapping[str, Any], network: EfficientNet, arguments: argparse.Namespace
) -> Report:
    """The most probable classes of --image."""
    trained, path = Trained.from_checkpoint(checkpoint, content), arguments.image
    used = replace(trained.preprocessing, **given_reading(arguments))
    try:
        picture = read_centre_crop(path, used.mode, used.image_size, used.fraction, used.resampling)
    except PictureError as error:
        raise UserError(str(error)) from None
    logits = predict(network, used.tensor(picture)[None], next(network.parameters()).device)
    if not np.isfinite(logits).all():
        raise UserError(f"{path}: the network's outputs are not finite; use another checkpoint")
    probabilities = torch.from_numpy(logits).double().softmax(1).numpy()
    (found,) = predictions_of([str(path)], [""], trained.classes, probabilities)
    best = dict(zip(found.classes, found.probabilities, strict=True))
    width = max(map(len, best))
    lines = [str(path), *(f"  {name:<{width}}  {percent(value):>6} %" for name, value in best.items())]
    return Report({"image": str(path), "classes": best}, "\n".join(lines))
