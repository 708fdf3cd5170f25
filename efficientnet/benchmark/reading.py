"""How fast train.py's loader processes read a data folder."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from efficientnet.tasks import task_of_training
from efficientnet.training.distributed import Process
from efficientnet.training.loaders import Loaders
from efficientnet.training.plan import make_parser, make_plan
from efficientnet.training.progress import Progress


def reading_text(data: Path, variant: str, image_size: int, batch_size: int, seconds: float, device: str) -> str:
    """A line on the augmented training images that one rank's loader processes read in so many seconds.

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
    count, started = 0, None
    for passes in loaders.updates(Progress()):
        images = sum(len(batch.indices) for batch, _ in passes)
        if started is None:  # the first batch waits for the processes to start
            started = time.monotonic()
            continue
        count += images
        if time.monotonic() - started > seconds:
            break
    if not count:
        return f"reading {data}: too few images to measure"
    speed = count / (time.monotonic() - started)
    workers = f"{loaders.workers} loader process{'' if loaders.workers == 1 else 'es'}"
    return f"reading {data}: {speed:.0f} images/s by {workers}, augmented, {image_size} pixels"
