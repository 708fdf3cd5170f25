"""Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): training on mixtures of two images of a batch."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixed:
    """A batch in which image n holds `share` of image n and 1 - `share` of image `partners[n]`; None: not mixed."""

    images: Tensor  # (N, C, H, W) or (N, V, C, H, W)
    partners: Tensor | None = None  # (N,)
    share: float = 1.0

    def loss(self, loss: Callable[[Tensor, Tensor], Tensor], logits: Tensor, targets: Tensor) -> Tensor:
        """The scalar loss of logits (N, O): `share` of it for targets (N, ...), the rest for those of the partners.

        Labels themselves are not mixed, so any loss will do, and a label that only one of the two images has is used.
        """
        if self.partners is None:
            return loss(logits, targets)
        return self.share * loss(logits, targets) + (1 - self.share) * loss(logits, targets[self.partners])


def mix(images: Tensor, mixup: float, cutmix: float) -> Mixed:
    """Mix the images of a batch (N, C, H, W), or of breasts (N, V, C, H, W), in which absent views are nan.

    mixup, cutmix: alpha of each, at least 0; 0 turns it off. With both, each batch takes one of them, at even odds. A
    batch has one share, from Beta(alpha, alpha), and one permutation. They are drawn from torch's CPU generator, of
    which nothing is used if both are 0.

    Breasts are mixed view by view. A breast that lacks a view which its partner has, or the reverse, stays as it is:
    its share could not be that of the labels.
    """
    if not (mixup or cutmix):
        return Mixed(images)
    use_mixup = mixup > 0 and (cutmix == 0 or torch.rand(()).item() < 0.5)
    alpha = mixup if use_mixup else cutmix
    share = torch.distributions.Beta(alpha, alpha).sample().item()
    partners = torch.randperm(len(images)).to(images.device)
    if images.dim() == 5:
        absent = images[..., 0, 0, 0].isnan()  # (N, V)
        alike = (absent == absent[partners]).all(1)
        partners = torch.where(alike, partners, torch.arange(len(images), device=images.device))
    if use_mixup:
        return Mixed(share * images + (1 - share) * images[partners], partners, share)
    height, width = images.shape[-2:]
    rows, columns = random_box(height, width, share)
    mixed = images.clone()
    mixed[..., rows, columns] = images[..., rows, columns][partners]
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return Mixed(mixed, partners, 1 - area / (height * width))


def random_box(height: int, width: int, share: float) -> tuple[slice, slice]:
    """The rows and columns of CutMix's box: its centre is anywhere in the image, which cuts off what lies outside.

    Uncut, the box has the proportions of the image and 1 - `share` of its area.
    """
    rows, columns = (int(length * math.sqrt(1 - share)) for length in (height, width))
    y, x = torch.randint(height, ()).item(), torch.randint(width, ()).item()
    top, left = y - rows // 2, x - columns // 2
    return slice(max(0, top), min(height, top + rows)), slice(max(0, left), min(width, left + columns))
