"""The loss over binary, category and number targets with missing labels, and the correction for oversampling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from efficientnet.mammography.targets import Target, output_slices

LOSSES = ("bce", "focal", "asymmetric", "soft-f1")  # of the scored target

FOCAL_GAMMA = 2.0  # the best value of Lin et al. 2017
# The values of Ridnik et al. 2021, which leave the focus on hard positives out (gamma_positive = 0).
ASYMMETRIC_GAMMA, ASYMMETRIC_MARGIN = 4.0, 0.05


def screening_loss(
    logits: Tensor,
    labels: Tensor,
    targets: Sequence[Target],
    *,
    loss: str = "bce",
    positive_weight: float = 1.0,
    positive_target: float = 1.0,
    auxiliary_weight: float = 0.5,
    label_smoothing: float = 0.0,
    label_shares: Tensor | None = None,
) -> Tensor:
    """Scalar loss of logits (N, O) against labels (N, T) of `targets`; a label that is nan is missing and ignored.

    The first, scored target has weight 1, the mean over the auxiliary targets has weight `auxiliary_weight`. Each
    target is averaged over the images that have its label. Computed in float32, or float64 for such logits.

    loss: one of LOSSES, of the scored target. Auxiliary targets have the cross-entropy of their sigmoid or softmax, or
        smooth L1, which grows like the absolute error beyond one standard deviation: a wrong entry does not dominate.
    positive_weight: a positive of the scored target weighs as much as so many images; with "soft-f1", it counts as so
        many. It multiplies the odds that "bce" learns by as much.
    positive_target: the label of the scored target's positives, such as 0.9.
    label_smoothing: the labels 0 and 1 become s and 1 - s; of a category, 1 - s plus an equal share of s.
    label_shares (T,): the share of all training images that have each label. With it, the sum is divided by the
        expected number of labels: every label weighs the same, and the loss of an update does not depend on how its
        images are divided among passes and ranks. "soft-f1" is no sum over images, and depends on it all the same.
    """
    if loss not in LOSSES:
        raise ValueError(f"loss must be one of {', '.join(LOSSES)}, not {loss!r}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    present = ~labels.isnan()
    known = labels.nan_to_num(0.0).to(logits.dtype)
    weights = torch.ones_like(known[:, 0]).masked_fill(known[:, 0] == 1, positive_weight)  # (N,)
    slices = output_slices(targets)

    binary = [place for place, target in enumerate(targets) if target.kind == "binary"]
    soft = known[:, binary]
    soft[:, 0] *= positive_target
    soft = soft * (1 - 2 * label_smoothing) + label_smoothing
    outputs = logits[:, [slices[place].start for place in binary]]
    cross_entropies = F.binary_cross_entropy_with_logits(outputs, soft, reduction="none")
    columns = dict(zip(binary, cross_entropies.unbind(1), strict=True))  # (N,) each
    if loss == "focal":
        columns[0] = focal_loss(outputs[:, 0], soft[:, 0])
    elif loss == "asymmetric":
        columns[0] = asymmetric_loss(outputs[:, 0], soft[:, 0])
    columns[0] = columns[0] * weights
    for place, target in enumerate(targets):
        if target.kind == "category":
            columns[place] = F.cross_entropy(
                logits[:, slices[place]], known[:, place].long(), reduction="none", label_smoothing=label_smoothing
            )
        elif target.kind == "number":
            columns[place] = F.smooth_l1_loss(logits[:, slices[place].start], known[:, place], reduction="none")

    losses = torch.stack([columns[place] for place in range(len(targets))], 1) * present  # (N, T)
    counts = present.sum(0).clamp(min=1) if label_shares is None else len(logits) * label_shares
    per_target = losses.sum(0) / counts  # (T,)
    scored = soft_f1_loss(outputs[:, 0], soft[:, 0], weights * present[:, 0]) if loss == "soft-f1" else per_target[0]
    return scored + auxiliary_weight * per_target[1:].mean() if len(targets) > 1 else scored


def focal_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The focal loss (N,) of Lin et al. 2017 for labels in [0, 1], without alpha: `positive_weight` takes its place."""
    positive = logits.neg().sigmoid() ** FOCAL_GAMMA * F.logsigmoid(logits)
    negative = logits.sigmoid() ** FOCAL_GAMMA * F.logsigmoid(-logits)
    return -labels * positive - (1 - labels) * negative


def asymmetric_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """The asymmetric loss (N,) of Ridnik et al. 2021 for labels in [0, 1].

    A negative whose probability is below the margin costs nothing.
    """
    shifted = (logits.sigmoid() - ASYMMETRIC_MARGIN).clamp(min=0)
    negative = shifted**ASYMMETRIC_GAMMA * torch.log1p(-shifted)
    return -labels * F.logsigmoid(logits) - (1 - labels) * negative


def soft_f1_loss(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """1 - pF1 (see `metrics`) of images (N,) that count `weights` times each; 0 if none counts.

    Without positives it is 1, and its gradient 0: an F1 of 0 does not depend on the predictions.
    """
    probabilities = logits.sigmoid()
    total = (weights * (probabilities + labels)).sum()
    f1 = 2 * (weights * probabilities * labels).sum() / (total + 1e-6)  # never 0 / 0
    return weights.any() * (1 - f1)


def prior_shift(share: float, prior: float) -> float:
    """The shift to subtract from a logit to correct it from the training share of positives to the prior.

    By Bayes' rule, drawing positives more often multiplies the odds of every image by the same factor,
    (share / (1 - share)) / (prior / (1 - prior)). The shift is its logarithm, or 0 if `share` or `prior` is 0 or 1.
    """
    if not (0 < share < 1 and 0 < prior < 1) or math.isclose(share, prior):
        return 0.0
    return math.log(share / (1 - share)) - math.log(prior / (1 - prior))


def lower_first(logits: np.ndarray, shift: float) -> np.ndarray:
    """A copy of logits (n, T) with those of the first target lowered by `shift` (see `prior_shift`)."""
    lowered = logits.copy()
    lowered[:, 0] -= shift
    return lowered


def start_classifier_at(
    classifier: torch.nn.Linear, targets: Sequence[Target], labels: np.ndarray, scored_share: float
) -> None:
    """Initialise the classifier with small weights, and with biases that predict what is known without an image.

    labels (N, T): of the training images. A binary output starts at the logit of its share of positives, which is
    `scored_share` for the scored target; those of a category start at the logarithms of its shares, a number at its
    mean, 0. Shares are at least 0.001, and at most 0.999.

    The released code's uniform initialisation is meant for 1000 classes. With four outputs its range would be 16 times
    as wide, and the first updates would have to unlearn confident random guesses.
    """
    with torch.no_grad():
        torch.nn.init.normal_(classifier.weight, std=0.01)
        for place, (target, outputs) in enumerate(zip(targets, output_slices(targets), strict=True)):
            known = labels[~np.isnan(labels[:, place]), place]
            if target.kind == "category":
                shares = np.bincount(known.astype(int), minlength=target.outputs) / max(1, known.size)
                start = np.log(shares.clip(1e-3))
            elif target.kind == "binary":
                share = scored_share if place == 0 else known.sum() / max(1, known.size)
                share = min(max(share, 1e-3), 1 - 1e-3)
                start = math.log(share / (1 - share))
            else:
                start = 0.0
            classifier.bias[outputs] = torch.as_tensor(start, dtype=classifier.bias.dtype)
