"""Batch norm and frozen layers: which weights and statistics change during training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from efficientnet.inference.precision import autocast
from efficientnet.inference.prediction import to_device


def batch_norms(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def freeze(modules: Sequence[nn.Module]) -> None:
    """Turn off the gradients of these modules. Call it before creating the optimizer and DDP, which then skip them."""
    for module in modules:
        module.requires_grad_(False)


def train_mode(model: nn.Module, frozen: Sequence[nn.Module] = (), freeze_batch_norm: bool = False) -> None:
    """`model.train()`, but with the frozen modules, and every batch norm if requested, in evaluation mode.

    In evaluation mode, batch norm uses its stored statistics without updating them, and nothing is dropped.
    """
    model.train()
    for module in frozen:
        module.eval()
    if freeze_batch_norm:
        for norm in batch_norms(model):
            norm.eval()


@torch.no_grad()
def recalibrate_batch_norm(
    model: nn.Module, images: Tensor, device: torch.device, precision: str, frozen: Sequence[nn.Module] = ()
) -> None:
    """Set the batch-norm statistics to those of one batch of images (N, C, H, W). Idempotent.

    Moving averages lag behind weights that still change, and averaged weights (EMA) need statistics of their own. This
    uses one large batch rather than the mean over small ones, so that every layer sees the inputs that it will get in
    evaluation. In a small batch, each layer normalises away what sets a rare image apart, and the differences multiply
    over the depth of the network. The statistics of `frozen` modules do not change.
    """
    kept = {id(norm) for module in frozen for norm in batch_norms(module)}
    norms = [norm for norm in batch_norms(model) if id(norm) not in kept]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    model.eval()
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    while True:
        try:
            with autocast(device, precision):
                model(to_device(images, device))
            break
        except torch.OutOfMemoryError:  # at momentum 1, the retry overwrites a partial forward pass
            if len(images) <= 8:
                raise
            images = images[: len(images) // 2]
    for norm, (momentum, batches) in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.num_batches_tracked.copy_(batches)
        norm.eval()
