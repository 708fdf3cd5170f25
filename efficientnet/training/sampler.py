"""The images of each update: shuffled, with a minimum share of positives, in one order for any number of ranks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Draw(NamedTuple):
    """One image of one batch. (epoch, position) is unique in a run and seeds the augmentation.

    stream: separates the random numbers of several images of one draw.
    """

    index: int
    epoch: int
    position: int
    stream: int = 0

    def generator(self, seed: int) -> np.random.Generator:
        """The random generator for this draw, the same on every worker and rank."""
        # The highest bit keeps these streams apart from the sampler's, which are keyed by (seed, epoch).
        key = np.array([seed, (1 << 63) + (self.epoch << 40) + self.position], dtype=np.uint64)
        counter = np.array([0, 0, 0, self.stream], dtype=np.uint64)  # 2^192 numbers apart
        return np.random.Generator(np.random.Philox(key=key, counter=counter))


class BalancedSampler:
    """The batches of one rank as lists of `Draw`; each iteration is one epoch.

    Each update's *global* batch is drawn first, positives before negatives. Rank r of W then takes every W-th draw, and
    its forward passes take these in turn, so that every rank and pass gets its share of the positives. The order
    depends only on (seed, epoch): with the same global batch, any number of ranks sees the same images.

    positives: whether each training image is positive.
    share: minimum share of positives in an update; 0 only shuffles the set. If the set has fewer, positives are drawn
    repeatedly, and their counts differ by at most one. With a share of at least 1 / batch_size, every batch of every
    rank has a positive.
    An epoch has as many draws as the set has images, without the last incomplete batch, but at least one update. Set
    `epoch`, and `start` (the number of its updates already done), before each iteration.
    """

    def __init__(
        self,
        positives: Sequence[bool],
        share: float,
        batch_size: int,
        accumulate: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
    ) -> None:
        flags = np.asarray(positives, dtype=bool)
        if flags.size == 0:
            raise ValueError("no images to train on")
        self.positive, self.negative = np.flatnonzero(flags), np.flatnonzero(~flags)
        self.natural_share = float(flags.mean())
        self.share = sampled_share(self.natural_share, share)
        self.balanced = share > 0 and 0 < self.natural_share < 1
        self.batch_size, self.accumulate = batch_size, accumulate
        self.rank, self.world_size = rank, world_size
        self.seed = seed
        self.epoch, self.start = 0, 0
        self.global_batch = batch_size * accumulate * world_size
        self.updates = max(1, flags.size // self.global_batch)

    def __len__(self) -> int:
        """The number of forward passes left for this rank in the epoch."""
        return (self.updates - self.start) * self.accumulate

    def __iter__(self) -> Iterator[list[Draw]]:
        order = self.global_order(self.epoch)  # (updates, global_batch)
        stride = self.world_size * self.accumulate
        for update in range(self.start, self.updates):
            for step in range(self.accumulate):
                positions = range(step * self.world_size + self.rank, self.global_batch, stride)
                yield [Draw(int(order[update, p]), self.epoch, update * self.global_batch + p) for p in positions]

    def global_order(self, epoch: int) -> np.ndarray:
        """Indices (updates, global_batch) of one epoch's global batches."""
        generator = np.random.Generator(np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64)))
        total = self.updates * self.global_batch
        if not self.balanced:
            return cycle(np.arange(self.positive.size + self.negative.size), total, generator).reshape(self.updates, -1)
        # Rounding the running total, not each batch, keeps the share exact over the epoch even for small batches.
        quota = np.diff(np.floor(np.arange(self.updates + 1) * self.global_batch * self.share + 0.5).astype(int))
        positive = cycle(self.positive, int(quota.sum()), generator)
        negative = cycle(self.negative, total - int(quota.sum()), generator)
        batches, used_positive, used_negative = [], 0, 0
        for count in quota:
            rest = self.global_batch - count
            batches.append(
                np.concatenate(
                    [
                        positive[used_positive : used_positive + count],
                        negative[used_negative : used_negative + rest],
                    ]
                )
            )
            used_positive, used_negative = used_positive + count, used_negative + rest
        return np.stack(batches)


def sampled_share(natural_share: float, wanted: float) -> float:
    """The share of positives among the draws: at least the natural share, and 0 if there are no positives."""
    return max(wanted, natural_share) if natural_share > 0 else 0.0


def cycle(indices: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """`count` of the indices, from one permutation after another, so that their counts differ by at most one."""
    rounds = -(-count // max(1, indices.size))
    return np.concatenate([generator.permutation(indices) for _ in range(rounds)] or [indices])[:count]
