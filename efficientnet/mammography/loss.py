"""Binary cross-entropy over several targets with missing labels, and the correction for oversampling."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F


def masked_binary_cross_entropy(
    logits: Tensor,
    targets: Tensor,
    auxiliary_weight: float = 0.5,
    label_smoothing: float = 0.0,
    label_shares: Tensor | None = None,
) -> Tensor:
    """Scalar loss of logits (N, T) against targets (N, T) in {0, 1, nan}; nan marks a missing label and is ignored.

    The first target has weight 1, the mean over the auxiliary targets has weight `auxiliary_weight`. Each target is
    averaged over the images that have its label. label_shares (T,): the share of all training images that have each
    label. With it, the sum is divided by the expected number of labels: every label weighs the same, and the loss of an
    update does not depend on how its images are divided among passes and ranks.
    """
    present = ~targets.isnan()
    smoothed = targets.nan_to_num(0.0) * (1 - 2 * label_smoothing) + label_smoothing
    losses = F.binary_cross_entropy_with_logits(logits.float(), smoothed, reduction="none") * present
    counts = present.sum(0).clamp(min=1) if label_shares is None else len(logits) * label_shares
    per_target = losses.sum(0) / counts  # (T,)
    if per_target.numel() == 1:
        return per_target[0]
    return per_target[0] + auxiliary_weight * per_target[1:].mean()


def prior_shift(share: float, prior: float) -> float:
    """The shift to subtract from a logit to correct it from the training share of positives to the prior.

    By Bayes' rule, drawing positives more often multiplies the odds of every image by the same factor,
    (share / (1 - share)) / (prior / (1 - prior)). The shift is its logarithm, or 0 if `share` or `prior` is 0 or 1.
    """
    if not (0 < share < 1 and 0 < prior < 1):
        return 0.0
    return math.log(share / (1 - share)) - math.log(prior / (1 - prior))


def lower_first(logits: np.ndarray, shift: float) -> np.ndarray:
    """A copy of logits (n, T) with those of the first target lowered by `shift` (see `prior_shift`)."""
    lowered = logits.copy()
    lowered[:, 0] -= shift
    return lowered


def start_classifier_at(classifier: torch.nn.Linear, shares: list[float]) -> None:
    """Initialise the classifier with small weights, and with biases that predict each target's share of positives.

    The released code's uniform initialisation is meant for 1000 classes. With four outputs its range would be 16 times
    as wide, and the first updates would have to unlearn confident random guesses.
    """
    with torch.no_grad():
        torch.nn.init.normal_(classifier.weight, std=0.01)
        for target, share in enumerate(shares):
            share = min(max(share, 1e-3), 1 - 1e-3)
            classifier.bias[target] = math.log(share / (1 - share))


def mean_labels(labels: np.ndarray) -> np.ndarray:
    """The share of positives among the known labels of each column of (N, T); nan for a column without labels."""
    present = ~np.isnan(labels)
    return np.nansum(labels, axis=0) / np.where(present.any(0), present.sum(0), np.nan)
