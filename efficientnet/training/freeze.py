"""Layers that keep their pretrained weights and statistics while the rest learns."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn


def batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def freeze(modules: Sequence[nn.Module]) -> None:
    """Their parameters get no gradient.  Call it before the optimizer and DDP are made, which leave such out."""
    for module in modules:
        module.requires_grad_(False)


def train_mode(model: nn.Module, frozen: Sequence[nn.Module] = (), freeze_batch_norm: bool = False) -> None:
    """`model.train()`, with the frozen modules in evaluation mode, and with every batch norm so where asked.

    In evaluation mode a batch norm uses its stored statistics and leaves them alone, and nothing is dropped.
    """
    model.train()
    for module in frozen:
        module.eval()
    if freeze_batch_norm:
        for norm in batch_norms(model):
            norm.eval()
