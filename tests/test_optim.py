"""Parameter groups and the learning-rate schedule."""

import itertools

import pytest

from efficientnet import create_model
from efficientnet.training.optim import learning_rate_at, parameter_groups


def test_norms_and_biases_have_no_decay_and_everything_is_in_one_group():
    model = create_model("b0", 2, 1)
    decayed, free = parameter_groups(model, 0.01)
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.01, 0.0)
    ids = [id(p) for group in (decayed, free) for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(names[id(p)].endswith(".weight") and "norm" not in names[id(p)] for p in decayed["params"])
    assert all("norm" in names[id(p)] or names[id(p)].endswith(".bias") for p in free["params"])


def test_warm_up_is_linear_from_a_hundredth():
    rates = [learning_rate_at(i, 100, 10, 1.0) for i in range(11)]
    assert rates[0] == pytest.approx(0.01) and rates[10] == pytest.approx(1.0)
    steps = [b - a for a, b in itertools.pairwise(rates)]
    assert max(steps) - min(steps) < 1e-9


def test_cosine_falls_to_zero():
    assert learning_rate_at(55, 100, 10, 1.0) == pytest.approx(0.5)
    assert 0 < learning_rate_at(99, 100, 10, 1.0) < 1e-3
    assert learning_rate_at(100, 100, 10, 1.0) == pytest.approx(0)
    rates = [learning_rate_at(i, 100, 10, 1.0) for i in range(10, 100)]
    assert rates == sorted(rates, reverse=True)


def test_no_warm_up_starts_at_the_peak():
    assert learning_rate_at(0, 10, 0, 2.0) == 2.0
