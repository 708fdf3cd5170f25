"""The configuration of a run, from the flags, the defaults and, on resume, the checkpoint."""

from __future__ import annotations

import argparse
import shlex
import sys
from dataclasses import MISSING, Field, dataclass, fields, replace
from pathlib import Path
from typing import Any

from efficientnet import architecture as architectures
from efficientnet.architecture import (
    BY_VARIANT,
    Architecture,
    chosen_architecture,
    chosen_way,
    constraint_warning,
    named_architecture,
    recorded_architecture,
)
from efficientnet.common.command_line import Parser, number, output_folder, program_name, rank
from efficientnet.common.options import add_options, check_combinations, from_json, given_options, group_of, to_json
from efficientnet.training.checkpoint import (
    NUMBERED,
    CheckpointError,
    check_task,
    load_checkpoint,
    load_newest,
    misfit,
)
from efficientnet.training.folder import RunFolder, restarted
from efficientnet.training.recipe import Recipe
from efficientnet.training.store import interval
from efficientnet.training.task import Task
from efficientnet.weights.conventions import CONVENTIONS
from efficientnet.weights.load import read_weights
from efficientnet.weights.variants import variant_of

RECIPE_NAMES = frozenset(item.name for item in fields(Recipe))
# What a resumed run may change: how ranks share an update's images (`restore` checks their number), and when it ends.
CHANGEABLE = ("batch_size", "accumulate", "epochs")
ALL_FOLDS = "all"  # as the fold


def fold_or_all(text: str) -> int | str:
    """An argparse type for the setting `fold` of a task."""
    return ALL_FOLDS if text == ALL_FOLDS else number(int, 0)(text)


def make_parser(description: str, task: type[Task]) -> Parser:
    parser = Parser(prog=program_name("train.py"), usage="%(prog)s [options]", description=description)
    run = parser.add_argument_group("run")
    run.add_argument("--data", type=Path, metavar="DIR", help="data folder (default: the task's demo)")
    run.add_argument(
        "--recipe",
        choices=list(task.recipes),
        help="the defaults of all settings, each of which has a flag; --dry-run prints them (default: "
        f"{task.default_recipes})",
    )
    run.add_argument("--output", type=output_folder, metavar="DIR", help="run folder (default: runs/ARCHITECTURE-N)")
    run.add_argument(
        "--resume",
        metavar="auto|DIR|FILE",
        help="continue from the newest intact checkpoint of a run folder, or from this file; auto: the run in "
        "--output if there is one, else start it",
    )
    run.add_argument(
        "--checkpoint-every",
        type=interval,
        default="10m",
        metavar="10m|500",
        help="save after this time (s, m, h) or number of updates, and after every epoch (default: 10m)",
    )
    run.add_argument(
        "--keep-checkpoints", type=number(int, 1), default=3, metavar="N", help="newest checkpoints kept (default: 3)"
    )
    run.add_argument("--dry-run", action="store_true", help="print what would be trained, and stop")
    run.add_argument("--strict", action="store_true", help="stop at the first image that cannot be read")
    architectures.add_arguments(parser, default="--variant b3, or that of --weights")
    weights = parser.add_argument_group("pretrained weights")
    weights.add_argument(
        "--weights",
        metavar="FILE|NAME",
        help="start from a file, a URL, lite0 to lite2 (installed packages), torchvision, or timm:NAME",
    )
    weights.add_argument(
        "--source",
        metavar="LIBRARY",
        help=f"the library they come from: {', '.join(CONVENTIONS)} (default: recognised)",
    )
    weights.add_argument(
        "--freeze-stem",
        dest="freeze_until",
        action="store_const",
        const=1,
        default=argparse.SUPPRESS,
        help="the same as --freeze-until 1",
    )
    task.add_arguments(parser)
    add_options(parser, Recipe, task.recipes[task.default_recipe(Path(), pretrained=False)])
    machine = group_of(parser, "machine")
    machine.add_argument(
        "--workers",
        type=number(int, 0),
        metavar="N",
        help="image-loading processes per rank (default: one per core of its share on CUDA, one per four cores on a "
        "CPU; at most 8)",
    )
    machine.add_argument("--device", choices=["cuda", "cpu"], help="device (default: cuda if there is one)")
    machine.add_argument("--backend", choices=["nccl", "gloo"], help="backend (default: nccl on CUDA, else gloo)")
    machine.add_argument(
        "--timeout",
        type=number(float, above=0),
        default=10.0,
        metavar="MINUTES",
        help="how long a rank waits for another before it fails (default: 10)",
    )
    return parser


@dataclass(frozen=True)
class Plan:
    """Everything that determines a run, except the machine.

    recipe_name: of --recipe.  output: the run folder; None takes the next free name.
    weights, source: the file or package of the initial weights, and the library that they come from, if given.
    pretrained: if those weights are a checkpoint of this project, its content without the tensors.
    checkpoint: content of the checkpoint to resume from, if any.  warning: about the architecture, if any.
    """

    architecture: Architecture
    task: Task
    recipe_name: str
    output: Path | None
    weights: str | None = None
    source: str | None = None
    pretrained: dict[str, Any] | None = None
    checkpoint: dict[str, Any] | None = None
    warning: str | None = None

    @property
    def recipe(self) -> Recipe:
        return self.task.recipe

    @property
    def is_of_all_folds(self) -> bool:
        return getattr(self.task.settings, "fold", None) == ALL_FOLDS

    @property
    def is_finished(self) -> bool:
        """Whether the checkpoint to resume from is that of the run's end."""
        return self.checkpoint is not None and self.checkpoint["epoch"] >= self.recipe.epochs

    def to_dict(self) -> dict[str, Any]:
        """JSON-able content of config.json, including the values that a resumed run must keep."""
        return {
            "task": self.task.name,
            "architecture": {"name": self.architecture.name, "image_size": self.architecture.image_size},
            "data": None if self.task.data is None else str(self.task.data),
            "weights": self.weights,
            "source": self.source,
            "recipe_name": self.recipe_name,
            "settings": to_json(self.task.settings),
            "recipe": to_json(self.recipe),
        }


def make_plan(arguments: argparse.Namespace, task: type[Task]) -> Plan:
    """Plan a run. ValueError if flags contradict each other or the run to resume; CheckpointError if it is unusable."""
    given = given_options(arguments, task.Settings) | given_options(arguments, Recipe)
    way = chosen_way(arguments)
    architecture = chosen_architecture(arguments, way) if way else None
    found = find_checkpoint(arguments)
    if found is not None:
        return resumed_plan(arguments, task, given, architecture, *found)
    provenance, pretrained = None, None
    if arguments.weights is not None:
        weights = read_weights(
            arguments.weights, arguments.source, variant=architecture and variant_of(architecture.stages)
        )
        architecture, provenance = architecture or weights.known_architecture(), weights.provenance
        pretrained = {name: value for name, value in weights.recorded.items() if name not in ("weights", "training")}
    architecture = architecture or named_architecture("b3")
    recipe_name = arguments.recipe or task.default_recipe(arguments.data, arguments.weights is not None)
    values = {} if architecture.image_size is None else {"image_size": (architecture.image_size,) * 2}
    values |= {item.name: item.default for item in fields(task.Settings) if item.default is not MISSING}
    recipe_values = dict(task.recipes[recipe_name])
    if way not in (None, BY_VARIANT):  # the resolution is part of a scaled architecture
        recipe_values.pop("image_size", None)
    values |= recipe_values | task.defaults(arguments.data, provenance, recipe_name) | given
    if "image_size" not in values:
        raise ValueError(f"{arguments.weights} does not record its image size: pass --image-size")
    of_recipe, of_task = split_options(values)
    recipe, settings = Recipe(**of_recipe).with_a_positive_in_each_batch(), task.Settings(**of_task)
    if arguments.weights is None:
        if arguments.source is not None:
            raise ValueError("--source needs --weights")
        for name in ("freeze_until", "freeze_epochs", "freeze_batch_norm", "pretrained_rate"):
            if name in given:
                flag = "--freeze-stem/--freeze-until" if name == "freeze_until" else f"--{name.replace('_', '-')}"
                raise ValueError(f"{flag} applies to pretrained layers and needs --weights")
    elif recipe.freeze_epochs >= recipe.epochs:
        if "freeze_epochs" in given:
            raise ValueError(
                f"--freeze-epochs {recipe.freeze_epochs} leaves none of --epochs {recipe.epochs} to the pretrained "
                "layers: use fewer, or freeze layers for good with --freeze-until"
            )
        recipe = replace(recipe, freeze_epochs=recipe.epochs - 1)
    for options in (recipe, settings):
        check_combinations(options, given)
    stages = len(architecture.stages)
    if recipe.freeze_until > stages:
        raise ValueError(f"--freeze-until {recipe.freeze_until}: {architecture.name} has only {stages} stages")
    if recipe.batch_size == 1 and settings.image_size == (32, 32) and not recipe.sync_batch_norm:
        raise ValueError("--batch-size 1 at 32x32 pixels: batch norm needs two images per rank, or larger images")
    if (recipe.mixup or recipe.cutmix) and recipe.batch_size == 1:
        raise ValueError("--mixup and --cutmix mix the images of a batch: use --batch-size 2 or more")
    if arguments.output is not None:
        check_free(RunFolder(arguments.output), arguments.resume)
    return Plan(
        architecture,
        task(arguments.data, settings, recipe),
        recipe_name,
        arguments.output,
        arguments.weights,
        arguments.source,
        pretrained,
        warning=constraint_warning(arguments),
    )


def split_options(values: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the values into those of the recipe and those of the task's settings."""
    recipe = {name: value for name, value in values.items() if name in RECIPE_NAMES}
    return recipe, {name: value for name, value in values.items() if name not in RECIPE_NAMES}


def check_free(folder: RunFolder, resume: str | None) -> None:
    """Raise ValueError if the folder holds anything that a new run must not overwrite."""
    found = folder.in_the_way
    if found is None or RunFolder.of_this_launch(folder.path) is not None or (folder.is_run and resume == "auto"):
        return
    contents = f"{found.name} but no run to resume;"
    if folder.is_run:
        contents = f"a run; resume it with --resume auto --output {shlex.quote(str(folder.path))}, or"
    raise ValueError(f"{folder.path} already contains {contents} choose another --output")


def find_checkpoint(arguments: argparse.Namespace) -> tuple[Path, dict[str, Any]] | None:
    """The path and content of the checkpoint to resume from; None starts a new run (also `auto` without a checkpoint).

    If the newest checkpoint is damaged, warns on stderr and uses the one before it. Workers that torchrun has restarted
    always resume from the newest, even if their first start resumed from another one.
    """
    own = RunFolder.of_this_launch(arguments.output)
    if arguments.resume == "auto" or own is not None:
        folder = own.path if own else arguments.output
        if folder is None:
            raise ValueError("--resume auto needs --output: the run folder to resume, or a new or empty one")
        if not (folder / "last.pt").exists() and not any((folder / NUMBERED).glob("*.pt")):
            return None
    elif arguments.resume is None:
        return None
    else:
        path = Path(arguments.resume)
        folder = path if path.is_dir() else folder_of(path)
        begun = (folder / "config.json").exists()  # even if it is damaged: the checkpoint has all of it
        if path.is_dir() and not (begun or (path / "last.pt").exists()):
            raise CheckpointError(f"{path}: not a run folder; pass --resume a folder such as runs/b3-1, or its last.pt")
        if path.is_file() and not begun:  # the run would write into any folder, such as Downloads
            raise CheckpointError(
                f"{path}: not in a run folder (no config.json), so the run cannot be resumed; to start a new run from "
                f"its weights: --weights {shlex.quote(str(path))}"
            )
        if not path.is_dir() and path.name != "last.pt" and not restarted():
            return path, load_checkpoint(path)
    path, content, damaged = load_newest(folder)
    if rank() == 0:
        for text in damaged:
            print(f"{program_name('train.py')}: warning: {text}; resuming from {path}", file=sys.stderr)
    return path, content


def flag_text(value: Any, item: Field | None = None) -> str:
    """A value as it would be written after its flag.  item: the field of the options that it belongs to, if any."""
    if isinstance(value, dict):
        return ",".join(f"{name}={text}" for name, text in value.items())
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return (" " if item is None or "nargs" in item.metadata else ",").join(map(str, value))
    return "none" if value is None else str(value)


def folder_of(path: Path) -> Path:
    """The run folder that contains a checkpoint."""
    return path.parent.parent if path.parent.name == NUMBERED else path.parent


def resumed_plan(
    arguments: argparse.Namespace,
    task: type[Task],
    given: dict[str, Any],
    architecture: Architecture | None,
    path: Path,
    checkpoint: dict[str, Any],
) -> Plan:
    """The plan stored in the checkpoint, which the flags must match, except for --data and `CHANGEABLE`."""
    if "training" not in checkpoint:
        raise CheckpointError(f"{path}: has no optimizer state to resume from; use the run's last.pt")
    check_task(path, checkpoint, task.name)
    output = folder_of(path)
    try:
        stored = checkpoint["plan"]
        # Old checkpoints store some of the task's settings in the recipe.
        of_recipe, of_task = split_options({**stored["settings"], **stored["recipe"]})
        recipe, settings = from_json(Recipe, of_recipe), from_json(task.Settings, of_task)
        trained = recorded_architecture(checkpoint)
        start = {name: stored[name] for name in ("weights", "source")}
        data = arguments.data or (None if stored["data"] is None else Path(stored["data"]))
        recipe_name = stored.get("recipe_name", task.default_recipe(data, pretrained=False))
        resumed = task(data, settings, replace(recipe, **{name: given[name] for name in CHANGEABLE if name in given}))
        finished = checkpoint["epoch"]
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise misfit(path, error) from None
    if architecture is not None and architecture.stages != trained.stages:
        raise ValueError(
            f"{architecture.flags}: the run in {path} trains {trained.name}; a resumed run must keep its architecture"
        )
    if given.get("positive_share", recipe.positive_share) != recipe.positive_share:
        lifted = replace(recipe, positive_share=given["positive_share"]).with_a_positive_in_each_batch()
        given["positive_share"] = lifted.positive_share
    kept = {**vars(settings), **vars(recipe), **start, "recipe": recipe_name}
    given |= {name: value for name in (*start, "recipe") if (value := getattr(arguments, name)) is not None}
    items = {item.name: item for item in (*fields(Recipe), *fields(task.Settings))}
    for name, value in given.items():
        if value != kept[name] and name not in CHANGEABLE:
            asked, used = (flag_text(each, items.get(name)) for each in (value, kept[name]))
            raise ValueError(
                f"--{name.replace('_', '-')} {asked}: the run in {path} uses {used}; a resumed run must keep its "
                "settings"
            )
    if "epochs" in given and resumed.recipe.epochs < finished:
        raise ValueError(f"--epochs {resumed.recipe.epochs}: the run in {path} has already finished {finished} epochs")
    if arguments.output not in (None, output):
        raise ValueError(f"--output {arguments.output}: a resumed run continues in its own folder, {output}")
    return Plan(trained, resumed, recipe_name, output, **start, checkpoint=checkpoint)
