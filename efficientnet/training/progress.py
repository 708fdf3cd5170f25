"""The position of a run between two updates: all that a resumed run needs besides the learner."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
import torch

from efficientnet.training.distributed import Process
from efficientnet.training.task import Metrics


class EpochEnd(NamedTuple):
    """values: the epoch's line of metrics.jsonl.  unreadable: a line for each unreadable image, over all ranks."""

    values: dict[str, Any]
    improved: bool
    unreadable: list[str]


@dataclass
class Progress:
    """A run's position. Ranks agree on the first group of fields, except timings; the second is each rank's own."""

    epoch: int = 0  # finished epochs
    position: int = 0  # updates tried in the current epoch, including skipped ones
    update: int = 0  # updates that moved the weights, over all epochs; the schedule counts these
    skipped: int = 0  # updates skipped in the current epoch because a loss or gradient was not finite
    seconds: float = 0.0  # of training in the current epoch
    waited: float = 0.0  # of these, spent waiting for the next batch
    best: float | None = None  # score of the best epoch; higher is better
    history: list[dict[str, Any]] = field(default_factory=list)  # metrics.jsonl

    loss_sum: float = 0.0  # over the updates of the current epoch that moved the weights
    unreadable: set[str] = field(default_factory=set)  # a line for each image that could not be read
    suspects: list[list[str]] = field(default_factory=list)  # images of updates skipped since the weights last moved
    summary: str = ""  # of the best epoch; on rank 0 only

    def seed_update(self, seed: int, rank: int) -> None:
        """Seed the random numbers of the next update (dropout, stochastic depth) from seed, rank and position.

        Checkpoints then need no generator states: an update is the same whether or not the run was resumed before it.
        Ranks draw different numbers. Python's and NumPy's generators are seeded as well, although nothing here draws
        from them.
        """
        # Hashed, because torch's CPU generator uses only 32 bits of its seed.
        number = int(np.random.SeedSequence((seed, self.epoch, self.position, rank)).generate_state(1)[0])
        random.seed(number)
        np.random.seed(number)
        torch.manual_seed(number)

    def record(self, moved: bool, loss: float, images: Sequence[str]) -> None:
        """Count an update. If it did not move the weights, the schedule and the mean loss ignore it."""
        self.position += 1
        if moved:
            self.update += 1
            self.loss_sum += loss
            self.suspects = []
        else:
            self.skipped += 1
            self.suspects.append(list(images))

    def end_epoch(
        self,
        metrics: Metrics,
        failures: Sequence[str],
        learning_rate: float,
        images: int,
        seconds: float,
        process: Process,
    ) -> EpochEnd:
        """Finish the epoch. Must be called on every rank.

        failures: a line for each validation image that could not be read.
        images: number over all ranks in this epoch.  seconds: of the epoch, including validation.
        """
        self.unreadable.update(failures)
        gathered = process.gather((self.loss_sum, sorted(self.unreadable)))
        unreadable = sorted({line for _, lines in gathered for line in lines})
        moved = (self.position - self.skipped) * process.world_size
        values = {
            "epoch": self.epoch + 1,
            "step": self.update,
            "learning_rate": learning_rate,
            "train_loss": sum(loss_sum for loss_sum, _ in gathered) / moved if moved else math.nan,
            **metrics.values,
            "skipped_updates": self.skipped,
            "unreadable_images": len(unreadable),
            "seconds": round(seconds, 3),
            "images_per_second": round(images / self.seconds, 3),
            "waiting_share": round(self.waited / self.seconds, 4),
        }
        score = -math.inf if metrics.score is None else metrics.score
        improved = self.best is None or score > self.best
        if improved:
            self.best = score
        if improved and process.is_main:  # no collective: scores may differ in the last bit between machines
            self.summary = metrics.summary
        self.history.append(values)
        self.epoch += 1
        self.position, self.skipped, self.seconds, self.waited, self.loss_sum = 0, 0, 0.0, 0.0, 0.0
        return EpochEnd(values, improved, unreadable)

    def to_dict(self, process: Process) -> dict[str, Any]:
        """Plain values of all ranks for a checkpoint. Must be called on every rank."""
        own = process.gather((self.loss_sum, sorted(self.unreadable), self.suspects))
        loss_sums, unreadable, suspects = (list(part) for part in zip(*own, strict=True))
        return asdict(self) | {"loss_sum": loss_sums, "unreadable": unreadable, "suspects": suspects}

    @classmethod
    def from_dict(cls, values: dict[str, Any], process: Process) -> Progress:
        """This rank's part of what `to_dict` returned. Raises KeyError if a value is missing.

        If the number of ranks has changed, each gets the mean of the loss sums, and rank 0 gets all unreadable images.
        """
        values = {"waited": 0.0, "summary": "", **values}  # older checkpoints lack these
        values = {item.name: values[item.name] for item in fields(cls)}
        sums, unreadable, suspects = values["loss_sum"], values["unreadable"], values["suspects"]
        if len(sums) == process.world_size:
            own = {"loss_sum": sums[process.rank], "unreadable": set(unreadable[process.rank])}
            own["suspects"] = suspects[process.rank]
        else:
            own = {"loss_sum": sum(sums) / len(sums), "suspects": suspects[0]}
            own["unreadable"] = {line for lines in unreadable for line in lines} if process.is_main else set()
        return cls(**(values | own))
