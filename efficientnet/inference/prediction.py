"""Logits of a batch of images, from any model on any device."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from efficientnet.inference.precision import autocast


def to_device(images: Tensor, device: torch.device) -> Tensor:
    """Move images to the device in channels_last layout, which convolutions prefer on GPU and CPU.

    images: (N, C, H, W), or (N, V, C, H, W), where each view gets that layout.
    """
    if images.dim() == 5:
        return to_device(images.flatten(0, 1), device).unflatten(0, images.shape[:2])
    return images.to(device, memory_format=torch.channels_last, non_blocking=True)


@torch.no_grad()
def predict(
    model: nn.Module, images: Tensor, device: torch.device, precision: str = "fp32", flip: bool = False
) -> np.ndarray:
    """Float32 logits (N, T) of a batch (N, C, H, W) or (N, V, C, H, W), from a model in evaluation mode.

    flip: average the logits of each image and its mirror image. A batch that overflows at a lower precision is
    computed again in fp32.
    """
    images = to_device(images, device)
    with autocast(device, precision):
        logits = model(images).float()
        if flip:
            logits = (logits + model(images.flip(-1)).float()) / 2
    if precision != "fp32" and not logits.isfinite().all():
        return predict(model, images, device, "fp32", flip)
    return logits.cpu().numpy()
