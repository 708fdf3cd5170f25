"""Metrics of a trained checkpoint on the fast path and at lower precision, on the data that it held out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch

from efficientnet.common.cpu import keep_freed_memory
from efficientnet.common.errors import UserError
from efficientnet.tasks import task_of_checkpoint
from efficientnet.training.ensemble import load_member, predict_mean
from efficientnet.training.task import Task


def compare_precisions(path: Path, data: Path | None, device: torch.device) -> tuple[str, dict[str, Any]]:
    """Compare the network as trained with the fast path in each precision; return the text and its values for --json.

    Raises UserError for a checkpoint or data that cannot be used.
    """
    if device.type == "cpu":
        keep_freed_memory()
    ways = [("as trained, fp32", "fp32", None)]
    ways += [(f"fast path, {name}", name, "torch") for name in ("fp32", "fp16" if device.type == "cuda" else "bf16")]
    rows: list[dict[str, Any]] = []
    task, reference = task_of_checkpoint(path), None
    members = [load_member(path, task, device, precision, engine) for _, precision, engine in ways]
    evaluation = task.evaluation({path: members[0].content}, default_arguments(task, data))
    for (label, precision, _), member in zip(ways, members, strict=True):
        probabilities, _ = predict_mean([member], evaluation, device, precision=precision)
        metrics = evaluation.headline(probabilities)
        if not metrics:
            raise UserError(f"{evaluation.root}: comparing metrics needs images with labels")
        reference = probabilities if reference is None else reference
        change = float(np.nanmax(np.abs(probabilities - reference)))
        rows.append({"label": label, "precision": precision, **metrics, "largest_change": change})
    heading = f"{path}: {evaluation.description}"
    widths = {name: max(9, 2 + len(name)) for name in metrics}
    titles = "".join(f"{name:>{width}}" for name, width in widths.items())
    lines = [f"{'':<20}{titles}{'largest change of a probability':>34}"]
    for entry in rows:
        shown = "".join(
            f"{'-' if entry[name] is None else format(entry[name], '.5f'):>{width}}" for name, width in widths.items()
        )
        lines.append(f"{entry['label']:<20}{shown}{entry['largest_change']:>34.1e}")
    return "\n".join([heading, "", *lines]), {"checkpoint": str(path), "data": str(evaluation.root), "rows": rows}


def default_arguments(task: type[Task], data: Path | None) -> argparse.Namespace:
    """The arguments of evaluate.py with --data alone."""
    parser = argparse.ArgumentParser()
    task.add_evaluation_arguments(parser)
    parser.set_defaults(flip=False, soup=False)
    return parser.parse_args([] if data is None else ["--data", str(data)])
