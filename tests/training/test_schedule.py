"""Parameter groups and the learning-rate schedule."""

import itertools

import pytest

from efficientnet import create_model
from efficientnet.training.learner import parameter_groups
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
