"""AdamW's parameter groups and the learning rate of every update."""

from __future__ import annotations

import math
from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups for the optimizer: weights with decay; norms and biases (one dimension) without.

    Decay pulls towards zero; for a norm's scale that is no prior, and for a bias no regularisation.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]


def learning_rate_at(update: int, updates: int, warmup: int, peak: float) -> float:
    """The rate of update number `update` of `updates`, counted from 0.

    Linear from 0.01 * peak over the first `warmup` updates, then half a cosine from peak that would reach 0 one
    update after the last.
    """
    if update < warmup:
        return peak * (0.01 + 0.99 * update / warmup)
    progress = (update - warmup) / max(1, updates - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
