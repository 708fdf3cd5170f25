"""What train.py is to train: settled from flags, defaults and, on resume, the checkpoint; then the data it names.

Like train.py itself this stands above the rooms and knows all three.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efficientnet.command_line import Parser, number
from efficientnet.complexity import complexity
from efficientnet.mammography import settings as data_settings
from efficientnet.mammography.dataset import find_images
from efficientnet.mammography.phantom import write_phantom_dataset
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.settings import DEMO_FOLDS, DEMO_PATIENTS, DEMO_RECIPE, RECIPE, DataSettings
from efficientnet.mammography.table import Table, TableError, assign_folds, available_targets, read_table
from efficientnet.model import EfficientNet
from efficientnet.scaling import VARIANTS, get_variant
from efficientnet.training import recipe as recipes
from efficientnet.training.checkpoint import CheckpointError, load_checkpoint
from efficientnet.training.distributed import Process
from efficientnet.training.recipe import Recipe
from efficientnet.training.sampler import BalancedSampler


def make_parser(description: str) -> Parser:
    parser = Parser(prog="train.py", description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default=argparse.SUPPRESS, help=f"{', '.join(VARIANTS)} (default b3)")
    parser.add_argument("--data", type=Path, help="folder with train.csv and train_images/ (default: phantoms)")
    parser.add_argument("--output", type=Path, help="run folder (default: runs/<variant>-<n>)")
    parser.add_argument("--resume", metavar="auto|DIR|FILE", help="go on from last.pt of a run folder")
    parser.add_argument("--dry-run", action="store_true", help="print what would be trained, and stop")
    parser.add_argument("--strict", action="store_true", help="stop at the first image that cannot be read")
    parser.add_argument("--workers", type=number(int, 0), metavar="N", help="processes a rank that read images")
    parser.add_argument("--device", choices=["cuda", "cpu"], help="default: cuda where there is one")
    parser.add_argument("--backend", choices=["nccl", "gloo"], help="default: nccl on CUDA, else gloo")
    data_settings.add_arguments(parser)
    recipes.add_arguments(parser, Recipe(**RECIPE))
    return parser


@dataclass(frozen=True)
class Plan:
    """Everything that decides a run but the machine.  `checkpoint` is that of the run that goes on, if any."""

    variant: str
    data: Path | None  # None: the embedded phantoms
    settings: DataSettings
    recipe: Recipe
    output: Path | None  # None: the next free name
    checkpoint: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: config.json, and what a resumed run is held to."""
        return {
            "variant": self.variant,
            "data": None if self.data is None else str(self.data),
            "settings": self.settings.to_dict(),
            "recipe": self.recipe.to_dict(),
        }


def make_plan(arguments: argparse.Namespace) -> Plan:
    """ValueError for flags that contradict each other or the run to resume; CheckpointError for a bad checkpoint."""
    given = {**data_settings.given_values(arguments), **recipes.given_values(arguments)}
    path = resume_path(arguments)
    if path is not None:
        return resumed_plan(arguments, given, path)
    variant = get_variant(getattr(arguments, "variant", "b3"))
    defaults = {"image_size": (variant.image_size, variant.image_size)}
    defaults |= RECIPE if arguments.data else {**DEMO_RECIPE, "folds": DEMO_FOLDS}
    values = defaults | given
    recipe = Recipe(**{name: value for name, value in values.items() if name in recipes.NAMES})
    settings = DataSettings(**{name: value for name, value in values.items() if name not in recipes.NAMES})
    if settings.fold >= settings.folds:
        raise ValueError(f"--fold {settings.fold}: folds count from 0 to {settings.folds - 1}")
    if arguments.output is not None and (arguments.output / "config.json").exists():
        raise ValueError(
            f"{arguments.output} already holds a run: choose another --output, or go on with "
            f"--resume {arguments.output}"
        )
    if recipe.batch_size == 1 and settings.image_size == (32, 32) and not recipe.sync_batch_norm:
        raise ValueError("--batch-size 1 with 32x32 pixels: batch norm needs two images a rank there, or larger ones")
    return Plan(variant.name, arguments.data, settings, recipe, arguments.output)


def resume_path(arguments: argparse.Namespace) -> Path | None:
    """The checkpoint that --resume means; None to start anew (`auto` where --output has none yet)."""
    if arguments.resume is None:
        return None
    if arguments.resume == "auto":
        if arguments.output is None:
            raise ValueError("--resume auto needs --output: the folder to go on in, or to start where it is empty")
        path = arguments.output / "last.pt"
        return path if path.exists() else None
    path = Path(arguments.resume)
    return path / "last.pt" if path.is_dir() else path


def resumed_plan(arguments: argparse.Namespace, given: dict[str, Any], path: Path) -> Plan:
    """The stored plan; what the command line names besides must agree with it, but for the place of the data."""
    checkpoint = load_checkpoint(path)
    if "training" not in checkpoint:
        raise CheckpointError(f"{path}: has no optimizer state to go on from; name the run's last.pt")
    stored = checkpoint["plan"]
    settings, recipe = data_settings.from_dict(stored["settings"]), recipes.from_dict(stored["recipe"])
    kept = {"variant": stored["variant"], **vars(settings), **vars(recipe)}
    given = {**given, "variant": get_variant(getattr(arguments, "variant", stored["variant"])).name}
    for name, value in given.items():
        if value != kept[name]:
            raise ValueError(
                f"--{name.replace('_', '-')} {value} is not the {kept[name]} of the run in {path}: "
                "a resumed run keeps its settings"
            )
    if arguments.output not in (None, path.parent):
        raise ValueError(f"--output {arguments.output}: a resumed run goes on in its own folder, {path.parent}")
    data = arguments.data or (None if stored["data"] is None else Path(stored["data"]))
    return Plan(stored["variant"], data, settings, recipe, path.parent, checkpoint)


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
                "train_images/<patient_id>/<image_id>.dcm (or png, jpg), or flat in the folder itself"
            )
    preprocessing = Preprocessing(
        settings.image_size,
        settings.in_channels,
        crop=settings.crop,
        side=settings.side,
        window=settings.window,
    )
    (train, train_files), (validation, validation_files) = parts
    without_file = len(files) - len(there)
    return Data(root, train, validation, fold_of, train_files, validation_files, without_file, preprocessing)


def print_plan(
    plan: Plan, data: Data, sampler: BalancedSampler, model: EfficientNet, process: Process, details: dict[str, str]
) -> None:
    """The page that --dry-run shows and every run begins with; `details` are further lines."""
    recipe, size = plan.recipe, plan.settings.image_size
    counts = complexity(model.stages, size, model.num_classes)
    lines = [("data", f"{data.root}{' (embedded phantoms, no real mammograms)' if plan.data is None else ''}")]
    for name, table in (("training", data.train), ("validation", data.validation)):
        every, positive = table.counts, table.positive_counts
        text = (
            f"{every.patients} patients, {every.breasts} breasts, {every.images} images; {table.target_names[0]}: "
            f"{positive.patients}, {positive.breasts}, {positive.images} ({100 * positive.images / every.images:.1f} %)"
        )
        lines.append((name, text))
    if data.without_file:
        lines.append(("warning", f"{data.without_file} rows of the table have no image file and are left out"))
    lines += [("warning", text) for text in data.train.warnings]
    lines.append(("targets", ", ".join(data.train.target_names)))
    lines.append(("input", f"{size[0]}x{size[1]} pixels, {model.in_channels} channel{'s' * (model.in_channels > 1)}"))
    described = (
        f"EfficientNet-{plan.variant.upper()}, {counts.parameters:,} parameters, "
        f"{counts.multiply_adds / 1e9:.2f} G multiply-adds an image"
    )
    lines.append(("model", described))
    batches = (
        f"{sampler.global_batch} images an update ({recipe.batch_size} x {process.world_size} ranks x "
        f"{recipe.accumulate} passes), {100 * sampler.share:.1f} % positive"
    )
    lines.append(("batches", batches))
    lines += details.items()
    lines.append(("memory", f"about {memory_estimate(plan, model, counts.activations):.1f} GiB a rank (fp32 estimate)"))
    print("\n".join(f"{name:<11} {text}" for name, text in lines), flush=True)


def memory_estimate(plan: Plan, model: EfficientNet, activations: int) -> float:
    """GiB of one rank in fp32: weights, gradients, AdamW's two moments and the average; and what backward needs.

    For backward, 3.3 tensors are kept for each output element of a convolution (measured on B0 and B3 with autograd's
    saved-tensor hooks); with activation checkpointing the peak was two fifths of that (B3 at 300 pixels, batch 8).
    """
    weights = sum(parameter.numel() for parameter in model.parameters())
    kept = 3.3 * activations * plan.recipe.batch_size * (0.4 if plan.recipe.checkpoint_activations else 1)
    return 4 * (5 * weights + kept) / 2**30
