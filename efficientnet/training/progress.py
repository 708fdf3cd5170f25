"""Where a run stands between two updates: with the weights and the optimizer, all that a resumed run needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

from efficientnet.training.distributed import Process


@dataclass
class Progress:
    """The first part is the same on every rank.  Of the second, each rank has its own."""

    epoch: int = 0  # finished epochs
    position: int = 0  # updates of the epoch under way that were tried, be they skipped or not
    update: int = 0  # updates that moved the weights, of all epochs: the schedule counts these
    skipped: int = 0  # updates of the epoch under way that did not, since something was not finite
    seconds: float = 0.0  # of training in the epoch under way, up to the last checkpoint
    waited: float = 0.0  # of these, rank 0's for the next batch
    best: float | None = None  # score of the best epoch, the higher the better
    history: list[dict[str, Any]] = field(default_factory=list)  # metrics.jsonl

    loss_sum: float = 0.0  # over the updates of the epoch under way that moved the weights
    unreadable: set[str] = field(default_factory=set)  # a line for each image that could not be read
    suspects: list[list[str]] = field(default_factory=list)  # images of the last updates, all of which were skipped

    def begin_epoch(self) -> None:
        """After an epoch is finished: everything that belongs to one epoch starts anew."""
        self.epoch += 1
        self.position, self.skipped, self.seconds, self.waited, self.loss_sum = 0, 0, 0.0, 0.0, 0.0

    def to_dict(self, process: Process) -> dict[str, Any]:
        """Plain values for a checkpoint, those of all ranks together; every rank has to call this."""
        own = process.gather((self.loss_sum, sorted(self.unreadable), self.suspects))
        loss_sums, unreadable, suspects = (list(part) for part in zip(*own, strict=True))
        return asdict(self) | {"loss_sum": loss_sums, "unreadable": unreadable, "suspects": suspects}

    @classmethod
    def from_dict(cls, values: dict[str, Any], process: Process) -> Progress:
        """This rank's part of what `to_dict` gave.  KeyError where something is missing.

        Where the number of ranks is another, each gets the mean loss, and rank 0 what could not be read.
        """
        values = {"waited": 0.0, **values}  # which checkpoints before it do not have
        values = {item.name: values[item.name] for item in fields(cls)}
        sums, unreadable, suspects = values["loss_sum"], values["unreadable"], values["suspects"]
        if len(sums) == process.world_size:
            own = {"loss_sum": sums[process.rank], "unreadable": set(unreadable[process.rank])}
            own["suspects"] = suspects[process.rank]
        else:
            own = {"loss_sum": sum(sums) / len(sums), "suspects": suspects[0]}
            own["unreadable"] = {line for lines in unreadable for line in lines} if process.is_main else set()
        return cls(**(values | own))
