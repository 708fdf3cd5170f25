"""The options of the screening task, in training and in evaluation, and its recipes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientnet.common.command_line import number, output_file, output_folder
from efficientnet.common.options import Several, Size, add_options, given_options, group_of, option
from efficientnet.mammography.loss import LOSSES
from efficientnet.mammography.preprocessing import MOST_BITS, SOURCE_SETTINGS
from efficientnet.mammography.table_columns import parse_column_mapping
from efficientnet.mammography.table_text import TableError
from efficientnet.training.plan import fold_or_all

# A recipe is the values of settings and of `training.recipe.Recipe` that differ from their own defaults. This one is
# what the leaders of the competition agree on: high resolution at 2:1, positives drawn more often, weights averaged.
# `RANDOM_START` replaces the rate for a run without pretrained weights.
SCREENING: dict[str, Any] = {
    "image_size": (1024, 512),
    "epochs": 10,
    "batch_size": 8,
    "learning_rate": 1.5e-4,
    "weight_decay": 5e-4,
    "clip": 5.0,
    "positive_share": 0.25,
    "augmentation": 1.0,
}
RANDOM_START: dict[str, Any] = {"learning_rate": 1e-3}

# The model card of clshub's EfficientNet-B3 (pF1 14.83), which starts from Noisy Student weights. Its loss is the mean
# over four outputs. This one, cancer + 3 * mean of the others, is four times that, and so is the limit on its gradient,
# 5 on the card; AdamW cancels the rest. The card normalises each channel by itself, this the grey image.
CLSHUB: dict[str, Any] = {
    "image_size": (224, 224),
    "picture_size": (512, 512),
    "short_edge": 256,
    "in_channels": 3,
    "crop": False,
    "side": "as-is",
    "targets": ("cancer", "biopsy", "invasive", "difficult_negative_case"),
    "auxiliary_weight": 3.0,
    "select": "clshub_pf1",
    "epochs": 100,
    "batch_size": 8,
    "learning_rate": 1e-4,
    "warmup_epochs": 5.0,
    "weight_decay": 5e-4,
    "clip": 20.0,
    "ema_decay": 0.0,
}

# For the embedded phantoms: a run of some minutes from random weights on two CPU cores. Its 200 updates are too few for
# regularisation to pay off. At four images per update, the peak learning rate is 1e-3.
DEMO: dict[str, Any] = {
    "epochs": 2,
    "warmup_epochs": 0.2,
    "batch_size": 2,
    "learning_rate": 4e-3,
    "weight_decay": 5e-4,
    "clip": 5.0,
    "positive_share": 0.5,
    "ema_decay": 0.95,
    "augmentation": 0.1,
    "stochastic_depth": 0.0,
    "dropout": 0.0,
    "auxiliary_weight": 0.2,
    "folds": 3,
}
RECIPES = {"screening": SCREENING, "clshub": CLSHUB, "demo": DEMO}
DEMO_PATIENTS = 150

# The settings that determine an image's picture, and how the table is read; `prepare` takes these too.
PICTURE_OPTIONS = ("image_size", "columns", "crop", "side", "window", "reduce_jpeg2000", *SOURCE_SETTINGS)
SELECTABLE = ("pf1", "pf1_best", "auc", "average_precision", "clshub_pf1", "val_loss")


def names(text: str) -> tuple[str, ...]:
    """An argparse type: comma-separated names."""
    return tuple(name for name in text.split(",") if name)


def column_mapping(text: str) -> dict[str, str]:
    """An argparse type for --columns."""
    try:
        return parse_column_mapping(text)
    except TableError as error:
        raise argparse.ArgumentTypeError(str(error).replace("\n", " ")) from None


@dataclass(frozen=True)
class ScreeningSettings:
    """Data options that determine a run; stored in its checkpoints."""

    image_size: tuple[int, int] = option(
        number(int, 32),
        "height, and width if it differs, in pixels",
        nargs="+",
        metavar=("H", "W"),
        action=Size,
        group="pictures",
    )
    picture_size: tuple[int, int] | None = option(
        number(int, 32),
        "height, and width if it differs, of a larger picture: training takes random resized crops of it, evaluation "
        "its centre (default: none; the network reads the whole picture)",
        None,
        nargs="+",
        metavar=("H", "W"),
        action=Size,
    )
    short_edge: int | None = option(
        number(int, 32),
        "with --picture-size: its short edge in evaluation, before the centre of the image size is taken (default: as "
        "it is)",
        None,
    )
    in_channels: int = option(number(int, 1), "input channels; 1: grey, 3: grey repeated", 1)
    crop: bool = option(bool, "crop the picture to the breast", True)
    side: str = option(
        str, "side of every picture that the chest wall is on", "left", choices=["left", "right", "as-is"]
    )
    window: int = option(number(int, 0), "index of the window, in files that have several", 0)
    mean: float | None = option(
        number(float),
        "mean of the pixels in [0, 1], for normalisation (default: that of --weights, else the average of ImageNet's "
        "three)",
        None,
    )
    std: float | None = option(
        number(float, above=0), "standard deviation of the pixels in [0, 1] (default: likewise)", None
    )
    augmentation: float = option(number(float, 0, 2), "strength of the augmentation; 0: none", 0.0)
    targets: tuple[str, ...] | None = option(
        names,
        "columns to learn, the scored one first; cancer alone turns the auxiliary ones off (default: cancer, and "
        "biopsy, invasive, difficult_negative_case, implant, BIRADS, density, view, site_id, machine_id, age if the "
        "table has them)",
        None,
        metavar="NAME,...",
        group="table and folds",
    )
    columns: dict[str, str] | None = option(  # noqa: RUF009, it is a dataclasses.field
        column_mapping,
        "names of the table's columns that differ from RSNA's, such as cancer=malignant,laterality=side; or a "
        "published layout, vindr or cbis (default: recognised)",
        None,
        metavar="OURS=THEIRS,...|NAME",
    )
    extra_data: tuple[str, ...] | None = option(
        str,
        "further data folders to train on, whose patients are never held out",
        None,
        nargs="+",
        metavar="DIR",
        action=Several,
    )
    folds: int = option(number(int, 2), "number of folds that the patients are split into", 4)
    fold: int | str = option(
        fold_or_all,
        "fold held out for validation, from 0; all: train all folds in turn, and score every patient out of fold",
        0,
        metavar="N|all",
    )
    select: str = option(str, "metric that decides which epoch becomes best.pt", "pf1", choices=SELECTABLE)
    views: str = option(
        str,
        "mean: score each image, and a breast by their mean; joint: score all views of a breast together, by attention",
        "mean",
        choices=["mean", "joint"],
        group="loss",
    )
    loss: str = option(str, "loss of the scored target", "bce", choices=LOSSES)
    positive_weight: float = option(number(float, above=0), "weight of the loss of its positives", 1.0)
    positive_target: float = option(
        number(float, 0.5, 1), "label of its positives; the competition's winner softened them to 0.8 to 0.9", 1.0
    )
    auxiliary_weight: float = option(number(float, 0), "weight of the mean loss of the auxiliary targets", 0.5)
    prior_correction: bool = option(bool, "correct predictions for the positives that --positive-share adds", True)
    bits: int | None = option(
        number(int, 1, MOST_BITS),
        "bits of PNG and TIFF files of more than 8; white is 2^N - 1 (default: decided by a sample of the files)",
        None,
        group="source files",
    )
    invert_bright: bool = option(
        bool, "invert each PNG, JPEG or TIFF picture that has a bright background (uninverted MONOCHROME1)", False
    )
    accept_raw: bool = option(bool, "read DICOM files FOR PROCESSING, which are not meant for display", False)
    reduce_jpeg2000: bool = option(
        bool,
        "decode JPEG 2000 at a reduced resolution, at least twice the image size: faster, and within some grey "
        "levels of the same",
        False,
    )


OUT_OF_FOLD, NO_THRESHOLD, CALIBRATED = "oof", "none", "calibrated"  # for --threshold


def threshold_option(text: str) -> str | float:
    """An argparse type for --threshold."""
    return text if text in (OUT_OF_FOLD, NO_THRESHOLD, CALIBRATED) else number(float, 0, 1)(text)


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
    output = group_of(parser, "output")
    output.add_argument(
        "--submission", type=output_file, metavar="FILE.csv", help="write prediction_id,cancer, one row for each breast"
    )
    output.add_argument(
        "--threshold",
        type=threshold_option,
        metavar="oof|none|calibrated|P",
        help="what --submission writes: 1 from this threshold and 0 below it, where oof is the one found on held-out "
        "patients; or probabilities, as they are (none) or calibrated on held-out patients (default: oof if it is "
        "known; the competition's metric prefers it)",
    )
    output.add_argument(
        "--report",
        type=output_folder,
        metavar="DIR",
        help="write report.html there, and its pictures (needs matplotlib)",
    )
    image = parser.add_argument_group("one image")
    image.add_argument("--image", type=Path, metavar="FILE", help="score this image alone, without a table")
    image.add_argument(
        "--heatmap", type=output_file, metavar="FILE.png", help="with --image: where the network found evidence"
    )


def given_source(arguments: argparse.Namespace) -> dict[str, Any]:
    """The SOURCE_SETTINGS whose flags were given."""
    given = given_options(arguments, ScreeningSettings)
    return {name: given[name] for name in SOURCE_SETTINGS if name in given}


def phantom_folder(patients: int, seed: int) -> Path:
    """The folder in which train.py keeps the embedded data set with these parameters."""
    return Path("runs") / f"phantoms-{patients}-{seed}"
