"""The paper's optimizer: RMSProp as TensorFlow computes it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class RMSProp(Optimizer):
    """RMSProp with momentum, as the released code trains (section 5.2): decay 0.9, momentum 0.9, epsilon 0.001.

    For a weight w with gradient g, at learning rate r:

        g = g + weight_decay * w
        mean_square = decay * mean_square + (1 - decay) * g^2        (1 at first)
        buffer = momentum * buffer + r * g / sqrt(mean_square + epsilon)        (0 at first)
        w = w - buffer

    Weight decay is the gradient of weight_decay * w^2 / 2 in the loss. `torch.optim.RMSprop` differs in three places:
    it adds epsilon to the square root, its mean square begins at 0, and it multiplies the buffer by the rate, so that a
    change of the rate also applies to earlier gradients.

    parameters: tensors, or groups with a "weight_decay" of their own. Those without a gradient stay as they are.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        decay: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1e-3,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {"lr": lr, "decay": decay, "momentum": momentum, "epsilon": epsilon, "weight_decay": weight_decay}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            if not weights:
                continue
            for weight in weights:
                if weight not in self.state:
                    self.state[weight] = {"mean_square": torch.ones_like(weight), "buffer": torch.zeros_like(weight)}
            gradients = [weight.grad for weight in weights]
            mean_squares = [self.state[weight]["mean_square"] for weight in weights]
            buffers = [self.state[weight]["buffer"] for weight in weights]
            if group["weight_decay"]:
                gradients = torch._foreach_add(gradients, weights, alpha=group["weight_decay"])
            torch._foreach_mul_(mean_squares, group["decay"])
            torch._foreach_addcmul_(mean_squares, gradients, gradients, 1 - group["decay"])
            roots = torch._foreach_add(mean_squares, group["epsilon"])
            torch._foreach_sqrt_(roots)
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_addcdiv_(buffers, gradients, roots, group["lr"])
            torch._foreach_sub_(weights, buffers)
