"""AdamW's parameter groups and the learning rate of every update."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

from torch import nn
from torch.optim import Optimizer


def parameter_groups(
    model: nn.Module, weight_decay: float, pretrained: Collection[str] = (), pretrained_rate: float = 1.0
) -> list[dict[str, Any]]:
    """Groups for the optimizer: weights with decay; norms and biases (one dimension) without.

    Decay pulls towards zero; for a norm's scale that is no prior, and for a bias no regularisation.
    pretrained: names of parameters whose learning rate is `pretrained_rate` times that of the others; they make groups
        of their own.  Each group has its factor under "rate_factor", and `set_learning_rate` applies it.
    """
    groups = []
    for factor, chosen in ((1.0, False), (pretrained_rate, True)):
        named = [(name in pretrained, parameter) for name, parameter in model.named_parameters()]
        parameters = [p for is_pretrained, p in named if is_pretrained == chosen and p.requires_grad]
        for decay, weights in ((weight_decay, True), (0.0, False)):
            members = [p for p in parameters if (p.dim() > 1) == weights]
            if members:
                groups.append({"params": members, "weight_decay": decay, "rate_factor": factor})
    return groups


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """`rate` for every group of `parameter_groups`, times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["rate_factor"]


def learning_rate_at(update: int, updates: int, warmup: int, peak: float) -> float:
    """The rate of update number `update` of `updates`, counted from 0.

    Linear from 0.01 * peak over the first `warmup` updates, then half a cosine from peak that would reach 0 one
    update after the last.
    """
    if update < warmup:
        return peak * (0.01 + 0.99 * update / warmup)
    progress = (update - warmup) / max(1, updates - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
