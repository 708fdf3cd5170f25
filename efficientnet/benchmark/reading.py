"""How fast train.py's loader processes read a data folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from efficientnet.common.text import counted
from efficientnet.tasks import task_of_training
from efficientnet.training.distributed import Process
from efficientnet.training.loaders import Loaders
from efficientnet.training.plan import make_parser, make_plan
from efficientnet.training.progress import Progress

FIRST_UPDATES = 8  # read while the processes start, and not counted


def measure_reading(
    data: Path, variant: str, image_size: int, batch_size: int, seconds: float, device: str
) -> tuple[str, dict[str, Any]]:
    """How many augmented training images a second one rank's loader processes read in so many seconds: text, values.

    The loaders are those of train.py with these flags and its other defaults, but with nothing else to do.
    Raises UserError.
    """
    flags = ["--data", str(data), "--variant", variant, "--batch-size", str(batch_size)]
    flags += ["--image-size", str(image_size)]
    kind = task_of_training(flags)
    plan = make_plan(make_parser("", kind).parse_args(flags), kind)
    process = Process(0, 1, 0, 1, torch.device(device))
    plan.task.load(process, False, None, None, None)
    loaders = Loaders(plan.task, plan.recipe, process, None, strict=False)
    count, started = 0, 0.0
    for number, passes in enumerate(loaders.updates(Progress()), 1):
        if number <= FIRST_UPDATES:
            started = time.monotonic()
            continue
        count += sum(len(batch.indices) for batch, _ in passes)
        if time.monotonic() - started > seconds:
            break
    if not count:
        return f"reading {data}: too few images to measure", {}
    speed = count / (time.monotonic() - started)
    workers = counted(loaders.workers, "worker")
    return (
        f"reading {data}: {speed:.0f} images/s by {workers} of train.py, augmented, {image_size} pixels",
        {"reading": {"data": str(data), "images_per_second": speed, "workers": loaders.workers}},
    )
