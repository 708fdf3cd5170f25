"""What train.py is to train: settled from flags, defaults and, on resume, the checkpoint; then the data it names.

Like train.py itself this stands above the rooms and knows all three.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efficientnet import architecture as architectures
from efficientnet.architecture import (
    Architecture,
    chosen_architecture,
    chosen_way,
    named_architecture,
    recorded_architecture,
)
from efficientnet.common.command_line import Parser, number, rank
from efficientnet.mammography import settings as data_settings
from efficientnet.mammography.image_files import find_images
from efficientnet.mammography.phantom.dataset import write_phantom_dataset
from efficientnet.mammography.prepare.folder import check_prepared, prepared_settings
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.settings import DEMO_FOLDS, DEMO_PATIENTS, DEMO_RECIPE, RECIPE, DataSettings
from efficientnet.mammography.table import Table, TableError, assign_folds, available_targets, read_table
from efficientnet.training import recipe as recipes
from efficientnet.training.checkpoint import NUMBERED, CheckpointError, load_checkpoint, load_newest
from efficientnet.training.distributed import Process
from efficientnet.training.folder import is_free, is_run_folder, own_folder, restarted
from efficientnet.training.recipe import Recipe
from efficientnet.training.store import interval
from efficientnet.weights.conventions import CONVENTIONS
from efficientnet.weights.load import read_weights


def make_parser(description: str) -> Parser:
    parser = Parser(prog="train.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    architectures.add_arguments(parser, default="--variant b3, or that of --weights")
    parser.add_argument("--data", type=Path, help="folder with train.csv and train_images/ (default: phantoms)")
    parser.add_argument("--output", type=Path, help="run folder (default: runs/<architecture>-<n>)")
    parser.add_argument("--weights", metavar="FILE|lite0", help="start from a file of weights, or an installed package")
    parser.add_argument("--source", metavar="LIBRARY", help=f"whose weights, where unclear: {', '.join(CONVENTIONS)}")
    parser.add_argument(
        "--resume",
        metavar="auto|DIR|FILE",
        help="go on from the newest whole checkpoint of a run folder, or from this one; auto: of --output, if any",
    )
    parser.add_argument(
        "--checkpoint-every",
        type=interval,
        default="10m",
        metavar="10m|500",
        help="save after so much time (s, m, h) or so many updates, besides after every epoch (default 10m)",
    )
    parser.add_argument(
        "--keep-checkpoints", type=number(int, 1), default=3, metavar="N", help="newest ones to keep (default 3)"
    )
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained, and stop")
    parser.add_argument("--strict", action="store_true", help="stop at the first image that cannot be read")
    parser.add_argument("--workers", type=number(int, 0), metavar="N", help="processes a rank that read images")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda where there is one")
    parser.add_argument("--backend", choices=["nccl", "gloo"], help="default: nccl on CUDA, else gloo")
    parser.add_argument(
        "--timeout",
        type=number(float, above=0),
        default=10.0,
        metavar="MINUTES",
        help="how long a rank waits for another before it gives up (default 10)",
    )
    data_settings.add_arguments(parser)
    recipes.add_arguments(parser, Recipe(**RECIPE))
    return parser


@dataclass(frozen=True)
class Plan:
    """Everything that decides a run but the machine.  `checkpoint` is that of the run that goes on, if any."""

    architecture: Architecture
    data: Path | None  # None: the embedded phantoms
    settings: DataSettings
    recipe: Recipe
    output: Path | None  # None: the next free name
    weights: str | None = None  # file or package that the model starts from
    source: str | None = None  # the library that it is of, where it had to be said
    checkpoint: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: config.json, and what a resumed run is held to."""
        return {
            "architecture": {"name": self.architecture.name, "image_size": self.architecture.image_size},
            "data": None if self.data is None else str(self.data),
            "weights": self.weights,
            "source": self.source,
            "settings": self.settings.to_dict(),
            "recipe": self.recipe.to_dict(),
        }


def make_plan(arguments: argparse.Namespace) -> Plan:
    """ValueError for flags that contradict each other or the run to resume; CheckpointError for a bad checkpoint."""
    given = {**data_settings.given_values(arguments), **recipes.given_values(arguments)}
    way = chosen_way(arguments)
    architecture, defaults = chosen_architecture(arguments, way) if way else None, {}
    found = find_checkpoint(arguments)
    if found is not None:
        return resumed_plan(arguments, given, architecture, *found)
    if arguments.weights is not None:
        weights = read_weights(arguments.weights, arguments.source)
        architecture = architecture or weights.known_architecture()
        defaults = {"mean": average(weights.provenance.mean), "std": average(weights.provenance.std)}
    architecture = architecture or named_architecture("b3")
    if architecture.image_size is not None:
        defaults["image_size"] = (architecture.image_size, architecture.image_size)
    defaults |= RECIPE | prepared_settings(arguments.data) if arguments.data else DEMO_RECIPE | {"folds": DEMO_FOLDS}
    values = defaults | given
    if "image_size" not in values:
        raise ValueError(f"{arguments.weights} does not say the size of its images: give --image-size")
    recipe = Recipe(**{name: value for name, value in values.items() if name in recipes.NAMES})
    settings = DataSettings(**{name: value for name, value in values.items() if name not in recipes.NAMES})
    if arguments.weights is None:
        if arguments.source is not None:
            raise ValueError("--source says whose --weights are: name them too")
        for name in ("freeze_until", "freeze_batch_norm", "pretrained_rate"):
            if name in given:
                flag = "--freeze-stem/--freeze-until" if name == "freeze_until" else f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} is about pretrained layers: it needs --weights")
    stages = len(architecture.stages)
    if recipe.freeze_until > stages:
        raise ValueError(f"--freeze-until {recipe.freeze_until}: {architecture.name} has {stages} stages")
    if settings.fold >= settings.folds:
        raise ValueError(f"--fold {settings.fold}: folds count from 0 to {settings.folds - 1}")
    output = arguments.output
    if output is not None and not is_free(output) and own_folder(output) is None:
        is_run = is_run_folder(output)
        if not (is_run and arguments.resume == "auto"):
            go_on = f"a run: go on there with --resume auto --output {output}, or"
            held = go_on if is_run else "files, and no run to --resume:"
            raise ValueError(f"{output} already holds {held} choose another --output")
    if recipe.batch_size == 1 and settings.image_size == (32, 32) and not recipe.sync_batch_norm:
        raise ValueError("--batch-size 1 with 32x32 pixels: batch norm needs two images a rank there, or larger ones")
    return Plan(architecture, arguments.data, settings, recipe, arguments.output, arguments.weights, arguments.source)


def average(values: Sequence[float]) -> float:
    """One number for the channels of a gray image: see `weights.adapt_stem`."""
    return sum(values) / len(values)


def find_checkpoint(arguments: argparse.Namespace) -> tuple[Path, dict[str, Any]] | None:
    """The checkpoint that --resume means, and its content; None to start anew (`auto` where there is none yet).

    A damaged one is named on stderr, and the one before it used.  Workers that torchrun has started again go on from
    the newest, whatever their first start went on from.
    """
    own = own_folder(arguments.output)
    if arguments.resume == "auto" or own is not None:
        folder = own or arguments.output
        if folder is None:
            raise ValueError("--resume auto needs --output: the folder to go on in, or to start where it is empty")
        if not (folder / "last.pt").exists() and not any((folder / NUMBERED).glob("*.pt")):
            return None
    elif arguments.resume is None:
        return None
    else:
        path = Path(arguments.resume)
        if not path.is_dir() and path.name != "last.pt" and not restarted():
            return path, load_checkpoint(path)
        folder = path if path.is_dir() else folder_of(path)
    path, content, damaged = load_newest(folder)
    for text in damaged if rank() == 0 else ():
        print(f"train.py: warning: {text}: going on from {path}", file=sys.stderr)
    return path, content


def folder_of(path: Path) -> Path:
    """The run folder that a checkpoint is in."""
    return path.parent.parent if path.parent.name == NUMBERED else path.parent


def resumed_plan(
    arguments: argparse.Namespace,
    given: dict[str, Any],
    architecture: Architecture | None,
    path: Path,
    checkpoint: dict[str, Any],
) -> Plan:
    """The stored plan; what the command line names besides must agree with it, but for the place of the data."""
    if "training" not in checkpoint:
        raise CheckpointError(f"{path}: has no optimizer state to go on from; name the run's last.pt")
    output = folder_of(path)
    try:
        stored = checkpoint["plan"]
        settings, recipe = data_settings.from_dict(stored["settings"]), recipes.from_dict(stored["recipe"])
        kept = {**vars(settings), **vars(recipe)}
        trained = recorded_architecture(checkpoint)
        start = {name: stored[name] for name in ("weights", "source")}
        stored_data = None if stored["data"] is None else Path(stored["data"])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(f"{path}: does not fit this version of the project ({error})") from None
    if architecture is not None and architecture.stages != trained.stages:
        raise ValueError(
            f"{architecture.flags}: the run in {path} trains {trained.name}: a resumed run keeps its architecture"
        )
    given |= {name: value for name in start if (value := getattr(arguments, name)) is not None}
    kept |= start
    for name, value in given.items():
        if value != kept[name] and name not in ("batch_size", "accumulate"):
            raise ValueError(
                f"--{name.replace('_', '-')} {value} is not the {kept[name]} of the run in {path}: "
                "a resumed run keeps its settings"
            )
    if arguments.output not in (None, output):
        raise ValueError(f"--output {arguments.output}: a resumed run goes on in its own folder, {output}")
    # Another number of ranks may share the images of an update otherwise; train.py checks their number.
    shared = {name: given[name] for name in ("batch_size", "accumulate") if name in given}
    data = arguments.data or stored_data
    return Plan(trained, data, settings, replace(recipe, **shared), output, **start, checkpoint=checkpoint)


@dataclass(frozen=True)
class Data:
    """The table split by patients, and the image files of each part."""

    root: Path
    train: Table
    validation: Table
    fold_of: dict[str, int]
    train_files: list[Path | None]
    validation_files: list[Path | None]
    without_file: int  # rows of the table that are left out, because there is no image
    preprocessing: Preprocessing


def load_data(plan: Plan, process: Process) -> Data:
    """Reads the table, splits the patients, finds the files.  Rank 0 writes the phantoms first where there is no data.

    Raises TableError.
    """
    root, settings = plan.data, plan.settings
    if root is None:
        root = data_settings.phantom_folder(DEMO_PATIENTS, plan.recipe.seed)
        if process.is_main:
            workers, progress = max(1, process.local_world_size), sys.stderr.isatty()
            write_phantom_dataset(root, DEMO_PATIENTS, seed=plan.recipe.seed, workers=workers, progress=progress)
        process.barrier()
    path, columns = root / "train.csv", settings.columns or {}
    targets = settings.targets or available_targets(path, columns) or ("cancer",)
    try:
        table = read_table(path, targets, columns)
    except ValueError as error:
        raise TableError(f"--targets {','.join(targets)}: {error}") from None
    # A patient's fold is that of the whole table, however much of it has been downloaded.
    if settings.folds > len(table.patients):
        raise TableError(f"{path}: {len(table.patients)} patients cannot make {settings.folds} --folds")
    fold_of = assign_folds(table, settings.folds, plan.recipe.seed)
    held_out = {patient for patient, fold in fold_of.items() if fold == settings.fold}
    files = find_images(table, root)
    there = [(row, file) for row, file in zip(table.rows, files, strict=True) if file is not None]
    parts = []
    for part in ("train", "hold out"):
        chosen = [(row, file) for row, file in there if (row.patient_id in held_out) == (part == "hold out")]
        parts.append((replace(table, rows=tuple(row for row, _ in chosen)), [file for _, file in chosen]))
        if not chosen:
            raise TableError(
                f"{root}: no image of the patients to {part} is there; images belong in "
                "train_images/<patient_id>/<image_id>.dcm (or png, jpg), or flat in the folder itself; links "
                "in it that lead out of the data folder are not followed"
            )
    preprocessing = Preprocessing(
        settings.image_size,
        settings.in_channels,
        crop=settings.crop,
        side=settings.side,
        window=settings.window,
        **{name: value for name in ("mean", "std") if (value := getattr(settings, name)) is not None},
        reduce_jpeg2000=settings.reduce_jpeg2000,
    )
    check_prepared(root, preprocessing)
    (train, train_files), (validation, validation_files) = parts
    without_file = len(files) - len(there)
    return Data(root, train, validation, fold_of, train_files, validation_files, without_file, preprocessing)
