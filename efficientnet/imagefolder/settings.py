"""The options of the image-folder task, in training and in evaluation, and its recipes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientnet.common.command_line import number
from efficientnet.common.options import Several, Size, add_options, option
from efficientnet.training.plan import fold_or_all

# A recipe is the values of settings and of `training.recipe.Recipe` that differ from their own defaults.
#
# The paper's, for ImageNet: section 5.2, and what only the released code states. Its rate is 0.016 for 256 images an
# update, 0.256 at its 4,096. Dropout and stochastic depth are those of the variant in every recipe.
PAPER: dict[str, Any] = {
    "epochs": 350,
    "batch_size": 64,
    "optimizer": "rmsprop",
    "learning_rate": 0.016 * 16 / 256,
    "schedule": "exponential",
    "decay_rate": 0.97,
    "decay_epochs": 2.4,
    "warmup_epochs": 5.0,
    "weight_decay": 1e-5,
    "ema_decay": 0.9999,
    "label_smoothing": 0.1,
    "auto_augment": "autoaugment",
}
# For budgets of a tenth of that: AdamW, a cosine, mixtures of images, RandAugment a little below its usual magnitude,
# and crops of at least a third of the image, since a short run does not see enough of it in smaller ones.
MODERN: dict[str, Any] = {
    "epochs": 30,
    "batch_size": 64,
    "learning_rate": 5e-4,
    "weight_decay": 0.05,
    "clip": 1.0,
    "label_smoothing": 0.1,
    "mixup": 0.2,
    "cutmix": 1.0,
    "auto_augment": "randaugment",
    "magnitude": 7.0,
    "crop_scale": (0.35, 1.0),
}
# From --weights: the new classifier learns alone for an epoch, then all layers do, the pretrained ones more slowly and
# with their batch-norm statistics, which in a short run on small images are better than new ones (README.md).
TRANSFER: dict[str, Any] = {
    "epochs": 10,
    "batch_size": 64,
    "learning_rate": 5e-4,
    "pretrained_rate": 0.3,
    "freeze_epochs": 1,
    "freeze_batch_norm": True,
    "weight_decay": 0.01,
    "clip": 1.0,
    "label_smoothing": 0.1,
    "crop_scale": (0.5, 1.0),
}
RECIPES = {"modern": MODERN, "paper": PAPER, "transfer": TRANSFER}
DEFAULT_RECIPES = "transfer with --weights, else modern"

PADDED = "padded"
CROP_PADDING = 32  # pixels, in the released code
# The settings that determine what the network reads in evaluation; evaluate.py takes these too.
READING_OPTIONS = ("image_size", "crop_fraction", "interpolation")


def crop_fraction(text: str) -> float | str:
    """An argparse type for --crop-fraction."""
    return PADDED if text == PADDED else number(float, 0.05, 1)(text)


@dataclass(frozen=True)
class ImageFolderSettings:
    """Data options that determine a run; stored in its checkpoints."""

    image_size: tuple[int, int] = option(
        number(int, 32),
        "height, and width if it differs, in pixels (default: the architecture's)",
        nargs="+",
        metavar=("H", "W"),
        action=Size,
        group="pictures",
    )
    in_channels: int = option(number(int, 1, 3), "input channels; 3: colour, 1: grey", 3, choices=[1, 3])
    mean: tuple[float, ...] | None = option(
        number(float),
        "mean of each channel of the pixels in [0, 1], for normalisation (default: that of --weights, else ImageNet's)",
        None,
        nargs="+",
        metavar="M",
        action=Several,
    )
    std: tuple[float, ...] | None = option(
        number(float, above=0),
        "standard deviation of each channel (default: likewise)",
        None,
        nargs="+",
        metavar="S",
        action=Several,
    )
    crop_fraction: float | str = option(
        crop_fraction,
        "centre crop in evaluation, as a share of the short side; padded: size / (size + 32), as in older releases of "
        "the authors' code",
        0.875,
        metavar="F|padded",
    )
    interpolation: str = option(str, "how crops are resized", "bicubic", choices=["bicubic", "bilinear"])
    crop_scale: tuple[float, ...] = option(
        number(float, 0.01, 1),
        "least and largest share of the image's area in a training crop",
        (0.08, 1.0),
        nargs=2,
        metavar=("MIN", "MAX"),
        action=Several,
        group="augmentation",
    )
    flip: bool = option(bool, "mirror half of the training images", True)
    auto_augment: str = option(
        str,
        "further augmentation: the ImageNet policy of AutoAugment, or RandAugment with two operations an image",
        "none",
        choices=["none", "autoaugment", "randaugment"],
    )
    magnitude: float = option(
        number(float, 0, 30),
        "magnitude of RandAugment's operations; 10 is the authors'",
        10.0,
        only_with=("auto_augment", "randaugment"),
    )
    folds: int = option(
        number(int, 2), "of a folder without a validation folder: the number of folds", 5, group="data split"
    )
    fold: int | str = option(
        fold_or_all,
        "fold held out for validation, from 0; all: train all folds in turn, and score every image out of fold",
        0,
        metavar="N|all",
    )
    images_per_class: int | None = option(
        number(int, 1), "train on the first images of each class only (default: on all)", None
    )
    select: str = option(
        str, "metric that decides which epoch becomes best.pt", "top1", choices=["top1", "top5", "val_loss"]
    )


SPLITS = ("validation", "test", "train", "all")


def add_evaluation_arguments(parser: argparse.ArgumentParser) -> None:
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of images: with val/ or test/, with a folder for each class, or without classes (default: that of "
        "the training)",
    )
    data.add_argument(
        "--split",
        choices=SPLITS,
        help="validation, test, train: that folder; of a folder of class folders, validation: the images that no "
        "checkpoint was trained on, all: every image (default: validation, or test without it)",
    )
    pictures = parser.add_argument_group("pictures", "default: as in training, or as published")
    add_options(pictures, ImageFolderSettings, dict.fromkeys(READING_OPTIONS), READING_OPTIONS)
    image = parser.add_argument_group("one image")
    image.add_argument("--image", type=Path, metavar="FILE", help="the five most probable classes of this image alone")
