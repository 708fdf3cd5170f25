"""The learning rate of every update."""

from __future__ import annotations

import math
from dataclasses import dataclass

from efficientnet.training.recipe import Recipe
from efficientnet.training.sampler import BalancedSampler


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up, then half a cosine, or the exponential decay of the paper (section 5.2).

    updates: of the whole run.  warmup: number of updates until the rate reaches `peak`.
    decay_rate, decay_updates: of the exponential decay, the factor of a step, and the number of updates from one step
    to the next, which need not be whole. Without them: half a cosine.
    """

    updates: int
    warmup: int
    peak: float
    decay_rate: float | None = None
    decay_updates: float | None = None

    @classmethod
    def of(cls, recipe: Recipe, sampler: BalancedSampler) -> Schedule:
        """The peak is the recipe's rate for 16 images an update, and scales with their number (Goyal et al. 2017)."""
        updates = sampler.updates * recipe.epochs
        warmup = min(round(recipe.warmup_epochs * sampler.updates), updates // 2)
        peak = recipe.learning_rate * sampler.global_batch / 16
        if recipe.schedule == "exponential":
            return cls(updates, warmup, peak, recipe.decay_rate, recipe.decay_epochs * sampler.updates)
        return cls(updates, warmup, peak)

    def rate(self, update: int) -> float:
        """The rate of update number `update`, counted from 0."""
        return self.cosine(update) if self.decay_rate is None else self.exponential(update)

    def cosine(self, update: int) -> float:
        """The warm-up starts at 0.01 * peak. The cosine would reach 0 one update after the last."""
        if update < self.warmup:
            return self.peak * (0.01 + 0.99 * update / self.warmup)
        progress = (update - self.warmup) / max(1, self.updates - self.warmup)
        return self.peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

    def exponential(self, update: int) -> float:
        """As in the released code, the warm-up starts at 0, and the steps are counted from update 0, warm-up included.

        The first update therefore moves nothing, and the rate falls below the peak where the warm-up ends after a step.
        """
        if update < self.warmup:
            return self.peak * update / self.warmup
        return self.peak * self.decay_rate ** math.floor(update / self.decay_updates)
