"""The loss of each kind of target, the correction of the prior, and the classifier's start."""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from efficientnet.mammography.loss import LOSSES, prior_shift, screening_loss, start_classifier_at
from efficientnet.mammography.targets import Target
from efficientnet.metrics import probabilistic_f1

CANCER = Target("cancer")
BINARY = (CANCER, Target("biopsy"), Target("implant"))
DENSITY, AGE = Target("density", "category", ("A", "B", "C", "D")), Target("age", "number", mean=60.0, std=10.0)
ALL_KINDS = (CANCER, DENSITY, AGE, Target("implant"))  # 7 outputs


def random_batch(size=12, seed=0, missing=0.3):
    """Logits (N, 7) in double and labels (N, 4) of ALL_KINDS, with positives and negatives among the scored labels."""
    generator = np.random.default_rng(seed)
    labels = np.stack(
        [np.arange(size) % 3 == 0, generator.integers(0, 4, size), generator.normal(size=size), np.arange(size) % 2], 1
    ).astype(float)
    labels[generator.random(labels.shape) < missing] = np.nan
    labels[:2, 0] = 1, 0
    return torch.from_numpy(generator.normal(0, 2, (size, 7))), torch.from_numpy(labels)


def scored_loss(logits, labels, loss, positive_weight=1.0, positive_target=1.0, smoothing=0.0):
    """The mean or the soft F1 over the labelled images, in NumPy, from the formulas of the papers."""
    known = ~np.isnan(labels)
    x, hard = logits[known], labels[known]
    y = np.where(hard == 1, positive_target, 0.0) * (1 - 2 * smoothing) + smoothing
    weight = np.where(hard == 1, positive_weight, 1.0)
    p = 1 / (1 + np.exp(-x))
    if loss == "soft-f1":
        return 1 - 2 * np.sum(weight * p * y) / np.sum(weight * (p + y))
    if loss == "bce":
        each = -y * np.log(p) - (1 - y) * np.log(1 - p)
    elif loss == "focal":
        each = -y * (1 - p) ** 2 * np.log(p) - (1 - y) * p**2 * np.log(1 - p)
    else:
        shifted = np.maximum(p - 0.05, 0)
        each = -y * np.log(p) - (1 - y) * shifted**4 * np.log(1 - shifted)
    return np.mean(weight * each)


def numeric_gradient(function, point, step=1e-6):
    gradient = np.zeros_like(point)
    for place in np.ndindex(point.shape):
        moved = point.copy()
        moved[place] += step
        above = function(moved)
        moved[place] -= 2 * step
        gradient[place] = (above - function(moved)) / (2 * step)
    return gradient


@pytest.mark.parametrize("options", [{}, {"positive_weight": 3.7}, {"positive_target": 0.85, "positive_weight": 0.5}])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", LOSSES)
def test_the_scored_loss_is_that_of_the_formula_and_so_is_its_gradient(loss, smoothing, options):
    logits, labels = random_batch()
    logits, labels = logits[:, :1].requires_grad_(), labels[:, :1]
    value = screening_loss(logits, labels, (CANCER,), loss=loss, label_smoothing=smoothing, **options)
    value.backward()

    def expected(x):
        return scored_loss(x[:, 0], labels[:, 0].numpy(), loss, smoothing=smoothing, **options)

    start = logits.detach().numpy()
    assert value.dtype == torch.float64 and value.item() == pytest.approx(expected(start), rel=1e-6)
    assert logits.grad.numpy() == pytest.approx(numeric_gradient(expected, start), rel=1e-5, abs=1e-8)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_over_all_kinds_of_targets_is_the_derivative(loss):
    logits, labels = random_batch()
    function = functools.partial(
        screening_loss, labels=labels, targets=ALL_KINDS, loss=loss, label_smoothing=0.1, positive_weight=2.0
    )
    assert torch.autograd.gradcheck(function, logits.requires_grad_())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_auxiliary_targets_are_averaged_over_targets_and_known_labels(smoothing):
    logits, labels = random_batch()
    found = screening_loss(logits, labels, ALL_KINDS, auxiliary_weight=0.3, label_smoothing=smoothing).item()
    x, y = logits.numpy(), labels.numpy()
    known = ~np.isnan(y)
    log_shares = x[:, 1:5] - np.log(np.exp(x[:, 1:5]).sum(1, keepdims=True))
    wanted = np.full((len(y), 4), smoothing / 4)
    for row in np.flatnonzero(known[:, 1]):
        wanted[row, int(y[row, 1])] += 1 - smoothing
    density = -(wanted * log_shares).sum(1)[known[:, 1]].mean()
    error = np.abs(x[:, 5] - y[:, 2])[known[:, 2]]
    age = np.where(error < 1, error**2 / 2, error - 0.5).mean()
    implant = scored_loss(x[:, 6], y[:, 3], "bce", smoothing=smoothing)
    expected = scored_loss(x[:, 0], y[:, 0], "bce", smoothing=smoothing) + 0.3 * (density + age + implant) / 3
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shares", [None, torch.tensor([0.9, 0.5, 0.1])])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("number", [1, 3])
def test_the_default_is_binary_cross_entropy_to_the_bit(number, smoothing, shares):
    """Checkpoints of older runs resume bit for bit."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(37, number, generator=generator)
    labels = torch.randint(0, 2, (37, number), generator=generator).float()
    labels[torch.rand(37, number, generator=generator) < 0.3] = math.nan
    shares = None if shares is None else shares[:number]
    present = ~labels.isnan()
    smoothed = labels.nan_to_num(0.0) * (1 - 2 * smoothing) + smoothing
    losses = F.binary_cross_entropy_with_logits(logits.requires_grad_(), smoothed, reduction="none") * present
    each = losses.sum(0) / (present.sum(0).clamp(min=1) if shares is None else len(logits) * shares)
    expected = each[0] if number == 1 else each[0] + 0.5 * each[1:].mean()
    found = screening_loss(logits, labels, BINARY[:number], label_smoothing=smoothing, label_shares=shares)
    assert torch.equal(found, expected)
    assert torch.equal(*(torch.autograd.grad(loss, logits)[0] for loss in (found, expected)))


@pytest.mark.parametrize("loss", LOSSES)
def test_missing_labels_have_no_part_and_no_gradient(loss):
    logits, labels = random_batch()
    missing = labels.isnan()[:, [0, 1, 1, 1, 1, 2, 3]]  # of each output
    value = screening_loss(logits.requires_grad_(), labels, ALL_KINDS, loss=loss)
    (gradient,) = torch.autograd.grad(value, logits)
    assert missing.any() and (gradient[missing] == 0).all() and (gradient[~missing] != 0).float().mean() > 0.9
    assert torch.equal(screening_loss(logits + 5 * missing, labels, ALL_KINDS, loss=loss), value)


@pytest.mark.parametrize("shares", [None, torch.ones(4)])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_target_that_is_missing_everywhere_costs_nothing(loss, shares):
    logits = torch.randn(4, 7, requires_grad=True)
    value = screening_loss(logits, torch.full((4, 4), math.nan), ALL_KINDS, loss=loss, label_shares=shares)
    value.backward()
    assert value.item() == 0 and logits.grad.abs().sum() == 0


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "soft-f1"])
@pytest.mark.parametrize("passes", [2, 4, 8])
def test_how_passes_divide_an_update_does_not_change_its_loss_or_gradient(passes, loss):
    logits, labels = random_batch(8)
    logits.requires_grad_()

    def loss_of(count, shares):
        parts = zip(logits.chunk(count), labels.chunk(count), strict=True)
        return sum(screening_loss(*part, ALL_KINDS, loss=loss, label_shares=shares) for part in parts) / count

    shares = torch.tensor([0.9, 0.5, 0.1, 0.2], dtype=torch.float64)
    whole, divided = loss_of(1, shares), loss_of(passes, shares)
    assert torch.allclose(divided, whole)
    assert torch.allclose(*(torch.autograd.grad(value, logits)[0] for value in (divided, whole)))
    # With its share in the set at hand, a target's part is the mean over the images that have it.
    assert torch.allclose(loss_of(1, (~labels.isnan()).double().mean(0)), loss_of(1, None))


def test_soft_f1_is_one_minus_the_competitions_metric():
    logits, labels = random_batch(missing=0.0)
    value = screening_loss(logits[:, :1], labels[:, :1], (CANCER,), loss="soft-f1").item()
    assert value == pytest.approx(1 - probabilistic_f1(labels[:, 0], logits[:, 0].sigmoid()), abs=1e-6)


@pytest.mark.parametrize("logit", [0.0, -100.0, -300.0])
def test_soft_f1_without_positives_is_one_and_does_not_move_the_network(logit):
    logits = torch.full((3, 1), logit, requires_grad=True)
    value = screening_loss(logits, torch.zeros(3, 1), (CANCER,), loss="soft-f1")
    value.backward()
    assert value.item() == 1 and (logits.grad == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_positive_of_weight_three_weighs_as_three_positives(loss):
    logits, labels = torch.tensor([[0.5], [-1.0], [2.0]]), torch.tensor([[1.0], [0.0], [0.0]])
    shares = {"label_shares": torch.ones(1)}
    weighted = screening_loss(logits, labels, (CANCER,), loss=loss, positive_weight=3.0, **shares)
    copies = screening_loss(logits[[0, 0, 0, 1, 2]], labels[[0, 0, 0, 1, 2]], (CANCER,), loss=loss, **shares)
    ratio = 1 if loss == "soft-f1" else 5 / 3  # of the divisors
    assert weighted.item() == pytest.approx(ratio * copies.item())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("loss", LOSSES)
def test_extreme_logits_have_a_finite_loss_and_gradient_in_fp32(loss, dtype):
    for sign in (1, -1):
        logits = torch.full((2, 7), 100.0 * sign)
        logits[:, 2] *= -1
        logits = logits.to(dtype).requires_grad_()
        labels = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 0.0]])
        with torch.autocast("cpu", torch.bfloat16):
            value = screening_loss(logits, labels, ALL_KINDS, loss=loss)
        value.backward()
        assert value.dtype == torch.float32 and value.isfinite() and logits.grad.isfinite().all()
    labels = torch.full((1, 1), 0.0)
    large = screening_loss(torch.full((1, 1), 30.0).half(), labels, (CANCER,))
    assert large.item() == pytest.approx(30.0)


def test_a_negative_below_the_margin_costs_nothing():
    logits = torch.tensor([[-3.0]], requires_grad=True)  # a probability of 0.047
    value = screening_loss(logits, torch.zeros(1, 1), (CANCER,), loss="asymmetric")
    value.backward()
    assert value.item() == 0 and logits.grad.item() == 0


def test_an_unknown_loss_is_refused():
    with pytest.raises(ValueError, match="'hinge'"):
        screening_loss(torch.zeros(1, 1), torch.zeros(1, 1), (CANCER,), loss="hinge")


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


def test_the_classifier_starts_at_the_shares_of_the_known_labels():
    linear = nn.Linear(64, 8)
    labels = np.array([[1, 0, 2, 0, np.nan], [0, 1, 2, 0, np.nan], [0, 3, -4, 0, np.nan], [0, 0, np.nan, 1, np.nan]])
    start_classifier_at(linear, (*ALL_KINDS, Target("biopsy")), labels, scored_share=0.3)
    with torch.no_grad():
        start = linear(torch.zeros(1, 64))[0]
    assert start[0].sigmoid().item() == pytest.approx(0.3)  # as drawn, not as in the table
    assert start[1:5].softmax(0).tolist() == pytest.approx([0.5, 0.25, 0.001, 0.25], rel=2e-3)
    assert start[5].item() == 0
    assert start[6:].sigmoid().tolist() == pytest.approx([0.25, 0.001])
    assert linear.weight.std().item() == pytest.approx(0.01, rel=0.2)
