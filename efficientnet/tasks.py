"""The tasks of the commands, and how a command finds out which of them it is about."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from efficientnet.imagefolder.task import ImageFolder
from efficientnet.mammography.task import Screening
from efficientnet.training.plan import folder_of
from efficientnet.training.task import Task

TASKS: tuple[type[Task], ...] = (Screening, ImageFolder)


def task_of_training(argv: Sequence[str]) -> type[Task]:
    """The task of the run that is resumed, else that of the folder of --data; screening without both."""
    given = peek(argv, data="?", resume="?", output="?")
    resumed = given.output if str(given.resume) == "auto" else given.resume
    recorded = None if resumed is None else recorded_task(resumed if resumed.is_dir() else folder_of(resumed))
    if recorded is not None or given.data is None:
        return recorded or Screening
    return next((task for task in TASKS if task.recognises(given.data)), Screening)


def task_of_evaluation(argv: Sequence[str]) -> type[Task]:
    """The task of the first checkpoint or predictions.csv. Published weights are evaluated on image folders."""
    given = peek(argv, checkpoint="*", compare="*", weights="?")
    first = next(iter([*(given.checkpoint or ()), *(given.compare or ())]), None)
    if first is None:
        return ImageFolder if given.weights else Screening
    if first.suffix == ".csv":
        return Screening if "prediction_id" in first_line(first) else ImageFolder
    return (recorded_task(first) or Screening) if first.is_dir() else task_of_checkpoint(first)


def peek(argv: Sequence[str], **flags: str) -> argparse.Namespace:
    """The paths after these flags, by a parser that leaves all errors to the real one.  flags: each with its nargs."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    for name, count in flags.items():
        parser.add_argument(f"--{name}", nargs=count, type=Path)
    return parser.parse_known_args(argv)[0]


def recorded_task(folder: Path) -> type[Task] | None:
    """The task of a run folder: of its config.json, or if that is damaged of a checkpoint; None if there is no run."""
    try:
        return named_task(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError):
        checkpoints = [path for name in ("last.pt", "best.pt") if (path := folder / name).exists()]
        return task_of_checkpoint(checkpoints[0]) if checkpoints else None


def task_of_checkpoint(path: Path) -> type[Task]:
    """The task of a checkpoint. Screening for a file that cannot be read, which is then refused by its reader."""
    try:
        return named_task(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except Exception:
        return Screening


def named_task(content: dict[str, Any]) -> type[Task]:
    """The task whose name config.json or a checkpoint records. Those of older versions are for screening."""
    name = content.get("task", Screening.name)
    return next((task for task in TASKS if task.name == name), Screening)


def first_line(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.readline()
    except OSError:
        return ""
