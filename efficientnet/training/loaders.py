"""The data loaders of one rank."""

from __future__ import annotations

import atexit
import contextlib
import multiprocessing.queues
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch
from torch._utils import ExceptionWrapper
from torch.utils.data import DataLoader

from efficientnet.common.cpu import usable_cores
from efficientnet.common.errors import UserError
from efficientnet.training.distributed import Process
from efficientnet.training.progress import Progress
from efficientnet.training.recipe import Recipe
from efficientnet.training.sampler import BalancedSampler
from efficientnet.training.signals import leave_signals_to_parent
from efficientnet.training.task import Batch, Task, collate

Value = TypeVar("Value")


class Loaders:
    """The loaders: `updates` for training, `calibration` for batch-norm statistics, `validation`.

    Each rank takes every W-th draw of a global batch; the validation images are split among the ranks.
    strict: fail at the first training image that cannot be read.
    """

    def __init__(self, task: Task, recipe: Recipe, process: Process, workers: int | None, strict: bool) -> None:
        self.accumulate, self.strict = recipe.accumulate, strict
        datasets, positives = task.datasets(), task.positives
        if not len(datasets.train) or not len(datasets.validation):
            raise UserError("the data must have at least one training image and one validation image")
        # `calibration` uses each image once (see `random_part`), and batch norm needs two values per channel.
        if len(datasets.train) == 1 and task.settings.image_size == (32, 32):
            raise UserError("only one training image: at 32x32 pixels batch norm needs at least two, or larger images")
        if positives is None:
            if recipe.positive_share:
                raise UserError(f"--positive-share: {task.name} has no positives to draw more often; remove the flag")
            positives = np.zeros(len(datasets.train), dtype=bool)
        self.sampler = BalancedSampler(
            positives,
            recipe.positive_share,
            recipe.batch_size,
            recipe.accumulate,
            process.rank,
            process.world_size,
            recipe.seed,
        )
        self.workers = default_workers(process) if workers is None else workers
        # Without their own generator, loaders would use up random numbers of dropout.
        common = {**loader_options(self.workers, process.device), "generator": torch.Generator()}
        self.train = DataLoader(
            datasets.train, batch_sampler=self.sampler, persistent_workers=self.workers > 0, **common
        )
        wanted = calibration_images(recipe.batch_size, *task.settings.image_size)
        mine = random_part(len(datasets.calibration), wanted, recipe.seed, process)
        self.calibration = DataLoader(datasets.calibration, recipe.batch_size, sampler=mine, **common)
        dealt = range(process.rank, len(datasets.validation), process.world_size)
        self.validation = DataLoader(datasets.validation, recipe.batch_size, sampler=dealt, **common)

    def updates(self, progress: Progress) -> Iterator[Iterator[tuple[Batch, bool]]]:
        """The rest of the epoch: for each update, an iterator over (batch, is_last), one for each forward pass."""
        self.sampler.epoch, self.sampler.start = progress.epoch, progress.position
        batches = timed(self.train)
        for _ in range(progress.position, self.sampler.updates):
            yield self.passes(batches, progress)

    def passes(self, batches: Iterator[tuple[Batch, float]], progress: Progress) -> Iterator[tuple[Batch, bool]]:
        for number in range(self.accumulate):
            batch, seconds = next(batches)
            progress.waited += seconds
            if batch.failures and self.strict:
                raise UserError(batch.failures[0])
            progress.unreadable.update(batch.failures)
            yield batch, number == self.accumulate - 1

    def number(self, progress: Progress) -> int:
        """The number of updates that the run has tried, which is also the number of a checkpoint."""
        return progress.epoch * self.sampler.updates + progress.position


def loader_options(workers: int, device: torch.device) -> dict[str, Any]:
    """Arguments common to all DataLoaders. Raises UserError if the system permits too few open files."""
    raise_file_limit(64 + 16 * workers if workers else 0)  # a loader process with its batches needs about ten files
    if workers:
        atexit.register(end_loaders)
    return {
        "num_workers": workers,
        "collate_fn": collate,
        "pin_memory": device.type == "cuda",
        "worker_init_fn": begin_loading,
    }


def raise_file_limit(needed: int) -> None:
    """Raise the limit on open files to the system's maximum. Raises UserError if that is less than `needed`."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    now, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (most, max(now, needed)):
        with contextlib.suppress(OSError, ValueError):  # macOS may refuse the maximum that it reports
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
            break
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if 0 <= limit < needed:  # -1 is no limit
        raise UserError(
            f"loader processes may need {needed} open files but the limit is {limit}: lower --workers, or raise the "
            "limit (ulimit -n)"
        )


def begin_loading(worker: int) -> None:
    """Prepare a loader process: the parent handles signals, and gets the error if a batch cannot be sent.

    By default, multiprocessing only prints that error, such as too little shared memory, and the parent waits forever.
    """
    leave_signals_to_parent(worker)

    def send_instead(queue: multiprocessing.queues.Queue, error: Exception, item: tuple[int, Any]) -> None:
        where = f"in DataLoader worker process {worker}"
        queue.put((item[0], ExceptionWrapper((type(error), error, error.__traceback__), where)))

    multiprocessing.queues.Queue._on_queue_feeder_error = send_instead


def end_loaders() -> None:
    """Kill loader processes left over after a failure. Python would send SIGTERM, which they ignore, and wait."""
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def default_workers(process: Process) -> int:
    """Loader processes for a rank: one for each core of its share, or on a CPU one for every four; from 1 to 8.

    One process reads small pictures faster than four cores train on them.
    """
    share = usable_cores() // process.local_world_size
    return min(8, max(1, share // 4 if process.device.type == "cpu" else share))


def calibration_images(batch_size: int, height: int, width: int) -> int:
    """How many images each rank recalibrates batch norm on: 32 to 64, and more of fewer pixels, up to 4 million.

    Without gradients, eight times the training batch takes about the same memory.
    """
    return min(max(64, 2**22 // (height * width)), max(32, 8 * batch_size))


def random_part(size: int, count: int, seed: int, process: Process) -> list[int]:
    """Up to `count` random indices into a data set for this rank, the same for the same seed.

    The ranks' indices are disjoint, unless the data set has fewer than two images per rank.
    """
    order = np.random.Generator(np.random.Philox(key=seed)).permutation(size)
    if size >= 2 * process.world_size:
        order = order[process.rank :: process.world_size]
    return order[:count].tolist()


def timed(loader: Iterable[Value]) -> Iterator[tuple[Value, float]]:
    """Each batch of the loader, and the seconds spent waiting for it."""
    batches = iter(loader)
    while True:
        started = time.monotonic()
        try:
            batch = next(batches)
        except StopIteration:
            return
        yield batch, time.monotonic() - started
