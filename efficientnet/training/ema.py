"""Exponential moving average of weights and batch-norm statistics, used for evaluation as in the released code."""

from __future__ import annotations

import copy

import torch
from torch import nn


class ExponentialMovingAverage:
    """Keeps `average`, a copy of the model: average = decay * average + (1 - decay) * model at each update.

    At update n, decay is min(`decay`, (1 + n) / (10 + n)), so that the initialisation does not dominate early averages.
    Floating-point buffers (the batch-norm moving statistics) are averaged as well; the rest is copied. Checkpoints must
    store n (`updates`): without it, a resumed run would use the low decay of the first updates again.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        mine, theirs = self.average.state_dict(), model.state_dict()
        averaged = [name for name, value in mine.items() if value.is_floating_point()]
        torch._foreach_lerp_([mine[name] for name in averaged], [theirs[name] for name in averaged], 1 - decay)
        for name in mine.keys() - set(averaged):
            mine[name].copy_(theirs[name])
