"""The learning rate of every update."""

from __future__ import annotations

import math
from dataclasses import dataclass

from efficientnet.training.recipe import Recipe
from efficientnet.training.sampler import BalancedSampler


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then half a cosine.

    updates: of the whole run.  warmup: number of updates until the rate reaches `peak`.
    """

    updates: int
    warmup: int
    peak: float

    @classmethod
    def of(cls, recipe: Recipe, sampler: BalancedSampler) -> Schedule:
        """The peak is the recipe's rate for 16 images an update, and scales with their number (Goyal et al. 2017)."""
        updates = sampler.updates * recipe.epochs
        warmup = min(round(recipe.warmup_epochs * sampler.updates), updates // 2)
        return cls(updates, warmup, recipe.learning_rate * sampler.global_batch / 16)

    def rate(self, update: int) -> float:
        """The rate of update number `update`, counted from 0.

        The warm-up starts at 0.01 * peak. The cosine would reach 0 one update after the last.
        """
        if update < self.warmup:
            return self.peak * (0.01 + 0.99 * update / self.warmup)
        progress = (update - self.warmup) / max(1, self.updates - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
