"""Parameter groups and the learning-rate schedule."""

import itertools
import math

import pytest

from efficientnet import create_model
from efficientnet.training.learner import parameter_groups
from efficientnet.training.recipe import Recipe
from efficientnet.training.sampler import BalancedSampler
from efficientnet.training.schedule import Schedule


def test_norms_and_biases_have_no_decay_and_everything_is_in_one_group():
    model = create_model("b0", 2, 1)
    decayed, free = parameter_groups(model, 0.01)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    ids = [id(p) for group in (decayed, free) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(names[id(p)].endswith(".weight") and "norm" not in names[id(p)] for p in decayed["params"])
    assert all("norm" in names[id(p)] or names[id(p)].endswith(".bias") for p in free["params"])


def test_pretrained_parameters_make_groups_of_their_own_at_a_lower_rate():
    model = create_model("b0", 2, 1)
    pretrained = {name for name, _ in model.named_parameters() if not name.startswith("classifier")}
    groups = parameter_groups(model, 0.01, pretrained, 0.1)
    assert [(group["weight_decay"], group["rate_factor"]) for group in groups] == [
        (0.01, 1.0),
        (0.0, 1.0),
        (0.01, 0.1),
        (0.0, 0.1),
    ]
    assert [id(p) for group in groups[:2] for p in group["params"]] == [id(p) for p in model.classifier.parameters()]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_the_released_code_decays_everything_but_norms_biases_included():
    model = create_model("b0", 2, 1, pooling="gem")
    decayed, free = parameter_groups(model, 1e-5, decay_biases=True)
    assert (decayed["weight_decay"], free["weight_decay"]) == (1e-5, 0.0)
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    free = [names[id(p)] for p in free["params"]]
    assert all("norm" in name or name == "pooling.exponent" for name in free)
    decayed = [names[id(p)] for p in decayed["params"]]
    assert not [name for name in decayed if "norm" in name]
    assert {"classifier.bias", "body.0.0.gate.squeeze.bias", "stem.conv.weight"} <= set(decayed)


def test_frozen_parameters_are_left_out():
    model = create_model("b0", 2, 1)
    model.stem.requires_grad_(False)
    left = {id(p) for group in parameter_groups(model, 0.01) for p in group["params"]}
    assert not left & {id(p) for p in model.stem.parameters()}


def test_warm_up_is_linear_from_a_hundredth():
    rates = [Schedule(100, 10, 1.0).rate(i) for i in range(11)]
    assert rates[0] == pytest.approx(0.01) and rates[10] == pytest.approx(1.0)
    steps = [b - a for a, b in itertools.pairwise(rates)]
    assert max(steps) - min(steps) < 1e-9


def test_cosine_falls_to_zero():
    assert Schedule(100, 10, 1.0).rate(55) == pytest.approx(0.5)
    assert 0 < Schedule(100, 10, 1.0).rate(99) < 1e-3
    assert Schedule(100, 10, 1.0).rate(100) == pytest.approx(0)
    rates = [Schedule(100, 10, 1.0).rate(i) for i in range(10, 100)]
    assert rates == sorted(rates, reverse=True)


def test_no_warm_up_starts_at_the_peak():
    assert Schedule(10, 0, 2.0).rate(0) == 2.0


def released_rate(peak, update, updates_per_epoch, decay_rate, decay_epochs, warmup_epochs):
    """`build_learning_rate` of the released code, with `tf.train.exponential_decay(staircase=True)`."""
    decay_steps = updates_per_epoch * decay_epochs
    rate = peak * math.pow(decay_rate, math.floor(update / decay_steps))
    warmup_steps = int(warmup_epochs * updates_per_epoch)
    return peak * update / warmup_steps if update < warmup_steps else rate


@pytest.mark.parametrize("images", [80, 128, 144, 1200])  # 2.4 epochs are 24, 38.4, 43.2 and 360 updates
@pytest.mark.parametrize("warmup_epochs", [0, 5])
def test_exponential_rates_are_those_of_the_released_code(images, warmup_epochs):
    sampler = BalancedSampler([True] * images, 0.0, 8)
    recipe = Recipe(epochs=30, learning_rate=0.002, schedule="exponential", warmup_epochs=warmup_epochs)
    schedule = Schedule.of(recipe, sampler)
    assert (schedule.updates, schedule.peak) == (30 * sampler.updates, 0.001)
    for update in range(schedule.updates):
        expected = released_rate(0.001, update, sampler.updates, 0.97, 2.4, warmup_epochs)
        assert schedule.rate(update) == pytest.approx(expected, rel=1e-12)


def test_exponential_steps_are_counted_from_the_first_update_and_round_up():
    """3 updates an epoch: 2.4 epochs are 7.2 updates, and twelve are five steps."""
    schedule = Schedule.of(
        Recipe(epochs=20, schedule="exponential", warmup_epochs=0.0), BalancedSampler([True] * 3, 0.0, 1)
    )
    rates = [schedule.rate(update) for update in range(60)]
    changes = [update for update in range(1, 60) if rates[update] != rates[update - 1]]
    assert changes == [8, 15, 22, 29, 36, 44, 51, 58]
    assert rates[36] == pytest.approx(0.97**5 * schedule.peak)


def test_the_exponential_warm_up_starts_at_zero_and_may_end_below_the_peak():
    schedule = Schedule(300, 50, 1.0, 0.97, 24.0)
    assert [schedule.rate(update) for update in (0, 25, 49)] == pytest.approx([0.0, 0.5, 0.98])
    assert schedule.rate(50) == pytest.approx(0.97**2)
