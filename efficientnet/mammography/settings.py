"""What a run reads and how: the flags about data, and the values of the recipe that mammograms want."""

from __future__ import annotations

import argparse
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from efficientnet.common.command_line import number
from efficientnet.mammography.table import TableError, parse_column_mapping

# As clshub's EfficientNet-B3 for this task was trained, but for what better-placed solutions did otherwise: positives
# are drawn more often (12.5 % of a batch), the weights are averaged, and the picture is the whole breast, not a crop.
RECIPE: dict[str, Any] = {
    "epochs": 30,
    "batch_size": 8,
    "learning_rate": 1e-4,
    "warmup_epochs": 5.0,
    "weight_decay": 5e-4,
    "clip": 5.0,
    "auxiliary_weight": 0.5,
    "positive_share": 0.125,
    "ema_decay": 0.9998,
    "augmentation": 1.0,
}

# The embedded phantoms: a run of some minutes on two CPU cores from random weights.  200 updates are too few for
# regularisation to pay, and for four images an update the rate comes to 1e-3.
DEMO_RECIPE: dict[str, Any] = {
    **RECIPE,
    "epochs": 2,
    "warmup_epochs": 0.2,
    "batch_size": 2,
    "learning_rate": 4e-3,
    "positive_share": 0.5,
    "ema_decay": 0.95,
    "augmentation": 0.1,
    "stochastic_depth": 0.0,
    "dropout": 0.0,
    "auxiliary_weight": 0.2,
}
DEMO_PATIENTS = 150
DEMO_FOLDS = 3


@dataclass(frozen=True)
class DataSettings:
    """What of the data decides a run; stored in its checkpoints.  See the help of each flag."""

    image_size: tuple[int, int]
    in_channels: int = 1
    targets: tuple[str, ...] | None = None
    columns: dict[str, str] | None = None
    folds: int = 4
    fold: int = 0
    crop: bool = True
    side: str = "left"
    window: int = 0
    mean: float | None = None
    std: float | None = None
    reduce_jpeg2000: bool = False

    def to_dict(self) -> dict[str, Any]:
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def from_dict(values: dict[str, Any]) -> DataSettings:
    """The inverse of `to_dict`: lists become tuples again."""
    return DataSettings(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `DataSettings`; one that is not given leaves no trace in the namespace."""
    group = parser.add_argument_group("data", argument_default=argparse.SUPPRESS)
    group.add_argument("--in-channels", type=number(int, 1), metavar="N", help="1: gray (default); 3: gray repeated")
    group.add_argument(
        "--targets",
        type=lambda text: tuple(name for name in text.split(",") if name),
        metavar="NAME,...",
        help="0/1 columns to learn, the scored one first (default: cancer, and biopsy, invasive, "
        "difficult_negative_case where the table has them)",
    )
    group.add_argument("--folds", type=number(int, 2), metavar="N", help="parts that the patients are split into (4)")
    group.add_argument("--fold", type=number(int, 0), metavar="N", help="the part held out for validation (0)")
    for name, above in (("mean", None), ("std", 0)):
        group.add_argument(
            f"--{name}",
            type=number(float, above=above),
            metavar="X",
            help=f"{name} of pixels in [0, 1] that the input is normalised with (default: that of --weights, or the "
            "average of ImageNet's three)",
        )
    add_picture_arguments(group)


def add_picture_arguments(group: argparse._ArgumentGroup) -> None:
    """The flags that decide the picture of an image, and how the table of the images is read."""
    group.add_argument(
        "--image-size",
        type=number(int, 32),
        nargs="+",
        metavar="N",
        help="height, and width if it differs, in pixels (default: the variant's own, square)",
    )
    group.add_argument(
        "--columns",
        type=columns,
        metavar="OURS=THEIRS,...",
        help="names of the table's columns where they are not RSNA's, such as cancer=malignant,laterality=side",
    )
    group.add_argument("--crop", action=argparse.BooleanOptionalAction, help="cut the picture to the breast (default)")
    group.add_argument("--side", choices=["left", "right", "as-is"], help="where every chest wall goes (default left)")
    group.add_argument(
        "--reduce-jpeg2000",
        action=argparse.BooleanOptionalAction,
        help="decode JPEG 2000 at half its resolution or less, where that is still twice the image size: faster, and "
        "within some grey levels of the same",
    )
    group.add_argument("--window", type=number(int, 0), metavar="N", help="which of a file's windows (default 0)")


def columns(text: str) -> dict[str, str]:
    """An argparse type for --columns."""
    try:
        return parse_column_mapping(text)
    except TableError as error:
        raise argparse.ArgumentTypeError(str(error).replace("\n", " ")) from None


def given_values(arguments: argparse.Namespace) -> dict[str, Any]:
    """The data settings that the command line names."""
    values = {
        item.name: getattr(arguments, item.name) for item in fields(DataSettings) if hasattr(arguments, item.name)
    }
    if "image_size" in values:
        size = values["image_size"]
        if len(size) > 2:
            raise ValueError(f"--image-size takes one or two numbers, not {len(size)}")
        values["image_size"] = (size[0], size[-1])
    return values


def phantom_folder(patients: int, seed: int) -> Path:
    """Where train.py keeps the embedded data set of these parameters."""
    return Path("runs") / f"phantoms-{patients}-{seed}"
