"""The pieces that train.py's loop and evaluate.py have in common: one optimizer step, prediction."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from efficientnet.common.cpu import usable_cores
from efficientnet.inference.precision import autocast
from efficientnet.training.distributed import Process
from efficientnet.training.freeze import batch_norms

Batch = TypeVar("Batch")


def seed_update(seed: int, epoch: int, position: int, rank: int) -> None:
    """Makes the random numbers of one update (dropout, stochastic depth) a function of these four numbers alone.

    Nothing of the generators' states has to be kept, then: an update is the same whether the run came to it in one go
    or was resumed just before.  Python's and numpy's generators, which nothing here draws from, are set with torch's.
    """
    # Hashed, since torch's generator for the CPU looks at 32 bits of its seed only.
    number = int(np.random.SeedSequence((seed, epoch, position, rank)).generate_state(1)[0])
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


def settle_buckets(
    ddp: DistributedDataParallel, shape: tuple[int, int, int, int], device: torch.device, precision: str
) -> None:
    """A backward pass over blank images (N, C, H, W) that leaves nothing behind but DDP's order of summation.

    After its first backward pass DDP sorts the gradients anew into the buckets that ranks exchange, and from three
    ranks on a sum depends on its place in a bucket.  A run and its continuation, each with a first pass of its own,
    would differ in the last bits; so each begins with this one.
    """
    model = ddp.module
    buffers = [buffer.clone() for buffer in model.buffers()]
    ddp.train()
    with torch.random.fork_rng([device] if device.type == "cuda" else []), autocast(device, precision):
        ddp(to_device(torch.zeros(shape), device)).float().mean().backward()
    model.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, value in zip(model.buffers(), buffers, strict=True):
            buffer.copy_(value)


def take_step(
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    parameters: Iterable[nn.Parameter],
    clip: float,
    loss_is_finite: bool = True,
) -> bool:
    """One update from the gradients that are there: unscale, clip, step, and clear them.

    Gradients are clipped after unscaling, or the limit would apply to the scaled ones.  Returns whether the
    parameters moved: not so where the loss or a gradient is not finite; the scaler, if there is one, then lowers its
    scale.
    """
    parameters = [parameter for parameter in parameters if parameter.grad is not None]
    scaler.unscale_(optimizer)
    norm = torch.nn.utils.clip_grad_norm_(parameters, clip or float("inf"))
    finite = loss_is_finite and bool(norm.isfinite())
    if finite:
        scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return finite


def default_workers(process: Process) -> int:
    """Loader processes for a rank, at most 8: its share of the cores, and of four cores one beside a model on the CPU.

    One reads prepared pictures faster than four cores train on them, and the next batch is there when an update ends.
    """
    share = usable_cores() // process.local_world_size
    return min(8, max(1, share // 4 if process.device.type == "cpu" else share))


def timed(loader: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch of the loader, and the seconds that it was waited for."""
    batches = iter(loader)
    while True:
        started = time.monotonic()
        try:
            batch = next(batches)
        except StopIteration:
            return
        yield batch, time.monotonic() - started


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
def recalibrate_batch_norm(
    model: nn.Module, images: Tensor, device: torch.device, precision: str, frozen: Sequence[nn.Module] = ()
) -> None:
    """Batch-norm statistics that fit the weights as they are: those of one batch of images (N, C, H, W).

    Moving averages lag behind weights that still move, and an average of weights (EMA) has statistics of its own.
    One large batch rather than the mean over small ones: every layer then sees what the layers before it will give
    in evaluation, where in small batches each normalises away what sets a rare image apart, and the differences
    multiply over the depth of the network.  The statistics of `frozen` modules stay as they are.  Done twice, it gives
    what it gave once.
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
        except torch.OutOfMemoryError:  # with momentum 1 a batch that came half through leaves no trace
            if len(images) <= 8:
                raise
            images = images[: len(images) // 2]
    for norm, (momentum, batches) in zip(norms, before, strict=True):
        norm.momentum = momentum
        norm.num_batches_tracked.copy_(batches)
        norm.eval()
