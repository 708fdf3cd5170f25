"""`--fold all`: the runs of all folds one after the other, in one folder that is resumed like one run.

FOLDER/config.json        the settings, and the flags that `--resume FOLDER` repeats
FOLDER/fold0/, fold1/...  the runs, each an ordinary run folder
FOLDER/summary.json, ...  what the task makes of them once all are finished
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from efficientnet.common.errors import UserError
from efficientnet.training.folder import RunFolder
from efficientnet.training.plan import ALL_FOLDS, Plan, make_plan
from efficientnet.training.task import Task

CONFIG = Path("config.json")


def fold_folders(folder: Path) -> list[Path]:
    """The run folders in a folder of `--fold all`, in the order of the folds; none in any other folder."""
    config = read_config(folder)
    return [] if config is None else [folder / f"fold{fold}" for fold in range(config["settings"]["folds"])]


def resumable(run: Path) -> Path:
    """The folder to resume: that of all folds if the run is one of them, else the run's own."""
    return run.parent if run in fold_folders(run.parent) else run


def read_config(folder: Path) -> dict[str, Any] | None:
    """config.json of a folder of `--fold all`; None for any other folder."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        return config if config["settings"]["fold"] == ALL_FOLDS and "arguments" in config else None
    except (OSError, ValueError, LookupError, TypeError):  # an ordinary run survives a damaged one: see `RunFolder`
        return None


def config_of(plan: Plan, argv: Sequence[str]) -> dict[str, Any]:
    """The content of config.json."""
    return {**plan.to_dict(), "arguments": list(argv)}


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str]) -> argparse.Namespace:
    """The arguments. If they resume a folder of `--fold all`, the flags that it was started with come before them.

    argv: the flags of this start; the result's `argv` are all of them, for `config_of`.
    """
    arguments = parser.parse_args(argv)
    arguments.argv = list(argv)
    own = RunFolder.of_this_launch(arguments.output)
    folder = own.path if own else arguments.output if arguments.resume == "auto" else arguments.resume
    config = folder and read_config(Path(folder))
    if not config:
        return arguments
    if arguments.output not in (None, Path(folder)):
        parser.error(f"--output {arguments.output}: a resumed run continues in its own folder, {folder}")
    recorded = config["arguments"]
    if list(argv) != recorded:  # they are the same after a restart
        recorded = [*recorded, *argv]
    merged = parser.parse_args(recorded)
    for name in ("fold", "folds"):
        before = config["settings"][name]
        if getattr(merged, name, before) != before:
            parser.error(
                f"--{name}: {folder} holds the runs of all folds; omit it, or resume one: --resume {folder}/fold0"
            )
    merged.argv, merged.output, merged.resume = recorded, Path(folder), "auto"
    return merged


def plan_of_fold(fold: int, arguments: argparse.Namespace, task: type[Task], run: Path | None) -> Plan:
    """The plan of one fold, new or resumed.  Raises the errors of `make_plan`, without exit code 2."""
    values = {"fold": fold, "output": run, "resume": None if run is None else "auto"}
    try:
        return make_plan(argparse.Namespace(**{**vars(arguments), **values}), task)
    except ValueError as error:
        raise UserError(str(error)) from None
