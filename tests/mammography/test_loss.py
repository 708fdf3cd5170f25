"""Masked binary cross-entropy, the correction of the prior, and the classifier's start."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from efficientnet.mammography.loss import masked_binary_cross_entropy, prior_shift, start_classifier_at


def test_without_missing_labels_it_is_the_ordinary_loss():
    logits, targets = torch.randn(6, 1), torch.randint(0, 2, (6, 1)).float()
    assert torch.allclose(
        masked_binary_cross_entropy(logits, targets), F.binary_cross_entropy_with_logits(logits, targets)
    )


def test_missing_labels_have_no_part_and_no_gradient():
    logits = torch.randn(3, 2, requires_grad=True)
    targets = torch.tensor([[1.0, math.nan], [0.0, 1.0], [math.nan, 0.0]])
    loss = masked_binary_cross_entropy(logits, targets, auxiliary_weight=0.5)
    loss.backward()
    first = F.binary_cross_entropy_with_logits(logits[:2, 0], targets[:2, 0])
    second = F.binary_cross_entropy_with_logits(logits[1:, 1], targets[1:, 1])
    assert torch.allclose(loss, first + 0.5 * second)
    assert logits.grad[0, 1] == 0 and logits.grad[2, 0] == 0


@pytest.mark.parametrize("passes", [1, 2, 4, 8])
def test_how_passes_divide_an_update_does_not_change_its_loss_or_gradient(passes):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 3, generator=generator, dtype=torch.float64).requires_grad_()
    targets = torch.randint(0, 2, (8, 3), generator=generator).double()
    targets[torch.rand(8, 3, generator=generator) < 0.4] = math.nan
    shares = torch.tensor([0.9, 0.5, 0.1])

    def loss_of(count):
        parts = zip(logits.chunk(count), targets.chunk(count), strict=True)
        return sum(masked_binary_cross_entropy(*part, label_shares=shares) for part in parts) / count

    whole, divided = loss_of(1), loss_of(passes)
    assert torch.allclose(divided, whole, rtol=1e-6)
    expected, found = (torch.autograd.grad(loss, logits)[0] for loss in (whole, divided))
    assert torch.allclose(found, expected, rtol=1e-5)
    # With its share in the set at hand, a target's part is the mean over the images that have it.
    own = (~targets.isnan()).float().mean(0)
    assert torch.allclose(
        masked_binary_cross_entropy(logits, targets, label_shares=own), masked_binary_cross_entropy(logits, targets)
    )


def test_a_target_that_is_missing_everywhere_costs_nothing():
    logits = torch.randn(4, 3, requires_grad=True)
    loss = masked_binary_cross_entropy(logits, torch.full((4, 3), math.nan))
    loss.backward()
    assert loss.item() == 0 and logits.grad.abs().sum() == 0


def test_label_smoothing_moves_both_labels():
    logits = torch.zeros(1, 1)
    loss = masked_binary_cross_entropy(logits + 2, torch.ones(1, 1), label_smoothing=0.1)
    assert torch.allclose(loss, F.binary_cross_entropy_with_logits(logits + 2, torch.full((1, 1), 0.9)))


def test_half_precision_logits_are_scored_in_fp32():
    loss = masked_binary_cross_entropy(torch.full((1, 1), 30.0).half(), torch.zeros(1, 1))
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(30.0)


def test_the_prior_shift_undoes_oversampling_exactly():
    """Scores that are calibrated on a resampled population become calibrated on the natural one (Bayes)."""
    positive_likelihood, negative_likelihood = np.array([0.1, 0.3, 0.6]), np.array([0.7, 0.2, 0.1])

    def posterior(prior):
        return prior * positive_likelihood / (prior * positive_likelihood + (1 - prior) * negative_likelihood)

    share, prior = 0.5, 0.02
    learned = posterior(share)
    logits = np.log(learned / (1 - learned)) - prior_shift(share, prior)
    assert 1 / (1 + np.exp(-logits)) == pytest.approx(posterior(prior))


@pytest.mark.parametrize(("share", "prior"), [(0, 0), (1, 1), (0.5, 0), (1, 0.5)])
def test_no_shift_where_there_is_one_class(share, prior):
    assert prior_shift(share, prior) == 0


def test_the_classifier_starts_at_the_share_of_positives():
    linear = nn.Linear(64, 3)
    start_classifier_at(linear, [0.25, 0.5, 0.0])
    with torch.no_grad():
        start = linear(torch.zeros(1, 64)).sigmoid()[0]
    assert start.tolist() == pytest.approx([0.25, 0.5, 0.001])
