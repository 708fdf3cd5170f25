"""Binary cross-entropy over several targets, some of them missing, and the correction for oversampling."""

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
    """Scalar loss of logits (N, T) against targets (N, T) in {0, 1, nan}; nan is missing and has no part in it.

    The first target counts fully, the mean over the auxiliary ones by `auxiliary_weight`; each target is averaged
    over the images that have it. label_shares (T,): the share of all training images that have each label. With it
    that average is one in expectation, every label weighs the same, and the loss of an update does not depend on how
    passes and ranks divide its images.
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
    """The shift that corrects a logit from the training share of positives to the prior; subtract it.

    By Bayes' rule, drawing positives more often multiplies the odds of every image by the same factor,
    (share / (1 - share)) / (prior / (1 - prior)); the shift is its logarithm.  0 where either share is 0 or 1.
    """
    if not (0 < share < 1 and 0 < prior < 1):
        return 0.0
    return math.log(share / (1 - share)) - math.log(prior / (1 - prior))


def lower_first(logits: np.ndarray, shift: float) -> np.ndarray:
    """A copy of logits (n, T) in which the first target's are lowered by a `prior_shift`."""
    lowered = logits.copy()
    lowered[:, 0] -= shift
    return lowered


def start_classifier_at(classifier: torch.nn.Linear, shares: list[float]) -> None:
    """Small weights, and a bias that gives every target its share of positives: the first updates then learn.

    The paper's uniform start is meant for 1000 classes; for four outputs it would be 16 times as wide, and the first
    losses would be about chance guesses held with confidence.
    """
    with torch.no_grad():
        torch.nn.init.normal_(classifier.weight, std=0.01)
        for target, share in enumerate(shares):
            share = min(max(share, 1e-3), 1 - 1e-3)
            classifier.bias[target] = math.log(share / (1 - share))


def mean_labels(labels: np.ndarray) -> np.ndarray:
    """The share of positives of each column (N, T) among the labels that are there; nan where none is."""
    present = ~np.isnan(labels)
    return np.nansum(labels, axis=0) / np.where(present.any(0), present.sum(0), np.nan)
