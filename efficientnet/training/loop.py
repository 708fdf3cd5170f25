"""The pieces that train.py's loop and evaluate.py have in common: autocast, one optimizer step, prediction."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from efficientnet.training.distributed import Process

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """`torch.autocast` at "bf16" or "fp16"; at "fp32" it does nothing."""
    return torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "fp32")


def take_step(
    optimizer: Optimizer, scaler: torch.amp.GradScaler, parameters: Iterable[nn.Parameter], clip: float
) -> bool:
    """One update from the gradients that are there: unscale, clip, step, and clear them.

    Gradients are clipped after unscaling, or the limit would apply to the scaled ones.  Returns whether the
    parameters moved (not so where a gradient overflowed: the scaler lowers its scale, and without a scaler the update
    is left out).
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip or float("inf"))
    finite = bool(norm.isfinite())
    if finite or scaler.is_enabled():
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return finite


def default_workers(process: Process) -> int:
    """Loader processes for a rank: none beside a model on the CPU, which needs the cores; else a share of them."""
    if process.device.type == "cpu":
        return 0
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(8, max(1, cores // process.local_world_size))


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """In the channels_last layout, which convolutions prefer on GPUs and on CPUs."""
    return images.to(device, memory_format=torch.channels_last, non_blocking=True)


@torch.no_grad()
def predict(
    model: nn.Module, images: Tensor, device: torch.device, precision: str = "fp32", flip: bool = False
) -> np.ndarray:
    """Logits of a batch (N, C, H, W) by a model in evaluation mode, float32 (N, T).

    flip: the mean of the logits of each image and of its mirror image.  A batch that overflows at a lower precision
    is done again in fp32.
    """
    images = to_device(images, device)
    with autocast(device, precision):
        logits = model(images).float()
        if flip:
            logits = (logits + model(images.flip(-1)).float()) / 2
    if precision != "fp32" and not logits.isfinite().all():
        return predict(model, images, device, "fp32", flip)
    return logits.cpu().numpy()


@torch.no_grad()
def recalibrate_batch_norm(model: nn.Module, images: Tensor, device: torch.device, precision: str) -> None:
    """Batch-norm statistics that fit the weights as they are: those of one batch of images (N, C, H, W).

    Moving averages lag behind weights that still move, and an average of weights (EMA) has statistics of its own.
    One large batch rather than the mean over small ones: every layer then sees what the layers before it will give
    in evaluation, where in small batches each normalises away what sets a rare image apart, and the differences
    multiply over the depth of the network.
    """
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    while True:
        try:
            with autocast(device, precision):
                model(to_device(images, device))
            break
        except torch.OutOfMemoryError:  # with momentum 1 a batch that came half through leaves no trace
            if len(images) <= 8:
                raise
            images = images[: len(images) // 2]
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
