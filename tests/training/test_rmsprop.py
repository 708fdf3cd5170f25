"""RMSProp against the equations of TensorFlow's, written out for one number at a time."""

import copy
import math

import pytest
import torch
from torch import nn

from efficientnet.training.learner import take_step
from efficientnet.training.rmsprop import RMSProp

# As the paper's schedule: a warm-up from 0, then steps down.
RATES = [0.1 * update / 5 if update < 5 else 0.1 * 0.97 ** (update // 12) for update in range(50)]


def one_weight(weight, gradients, weight_decay=0.0):
    """The weight after each update, in double precision."""
    mean_square, momentum, weights = 1.0, 0.0, []
    for rate, gradient in zip(RATES, gradients, strict=True):
        gradient = gradient + weight_decay * weight
        mean_square += (gradient * gradient - mean_square) * (1 - 0.9)
        momentum = momentum * 0.9 + rate * gradient / math.sqrt(mean_square + 0.001)
        weight = weight - momentum
        weights.append(weight)
    return weights


def run(optimizer, parameter, gradients):
    """The parameter after each update, one for each of the gradients (U, ...)."""
    values = []
    for rate, gradient in zip(RATES, gradients, strict=False):
        parameter.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        values.append(parameter.detach().clone())
    return torch.stack(values)


@pytest.fixture
def gradients():
    """For 50 updates of three weights, from large ones to some that epsilon outweighs."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(50, 3, generator=generator, dtype=torch.float64) * torch.tensor([10.0, 0.5, 0.001])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_weights_move_as_the_equations_say(gradients, weight_decay):
    start = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    weights = nn.Parameter(start.clone())
    moved = run(RMSProp([weights], lr=1.0, weight_decay=weight_decay), weights, gradients)
    for place, first in enumerate(start.tolist()):
        expected = one_weight(first, gradients[:, place].tolist(), weight_decay)
        assert moved[:, place].tolist() == pytest.approx(expected, rel=1e-12)


def test_each_difference_from_the_optimizer_of_torch_shows(gradients):
    """At a constant rate and a mean square of 1 to begin with, only epsilon is left, and that can be made small."""

    def difference(rates, begin, epsilon):
        ours, theirs = nn.Parameter(torch.ones(3).double()), nn.Parameter(torch.ones(3).double())
        mine = RMSProp([ours], lr=0.1, epsilon=epsilon)
        other = torch.optim.RMSprop([theirs], lr=0.1, alpha=0.9, momentum=0.9, eps=epsilon)
        for rate, gradient in zip(rates, gradients, strict=True):
            ours.grad, theirs.grad = gradient.clone(), gradient.clone()
            mine.param_groups[0]["lr"] = other.param_groups[0]["lr"] = rate
            if not other.state and begin is not None:
                other.state[theirs] = {"step": torch.tensor(0.0), "square_avg": torch.full((3,), begin).double()}
                other.state[theirs]["momentum_buffer"] = torch.zeros(3).double()
            mine.step()
            other.step()
        return (ours - theirs).abs().max().item()

    constant = [0.1] * 50
    assert difference(constant, 1.0, 1e-16) < 1e-9
    assert difference(RATES, 1.0, 1e-16) > 0.01  # the rate inside the momentum
    assert difference(constant, None, 1e-16) > 0.01  # the mean square that begins at 1
    assert difference(constant, 1.0, 1e-3) > 0.001  # epsilon inside the root


def test_a_reloaded_state_goes_on_to_the_bit(gradients):
    gradients = gradients.float()
    straight = nn.Parameter(torch.ones(3))
    run(RMSProp([straight], lr=1.0, weight_decay=0.1), straight, gradients)
    first = nn.Parameter(torch.ones(3))
    optimizer = RMSProp([first], lr=1.0, weight_decay=0.1)
    run(optimizer, first, gradients[:20])
    second = nn.Parameter(first.detach().clone())
    resumed = RMSProp([second], lr=1.0)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for rate, gradient in zip(RATES[20:], gradients[20:], strict=True):
        second.grad, resumed.param_groups[0]["lr"] = gradient.clone(), rate
        resumed.step()
    assert torch.equal(second, straight)


def test_parameters_without_a_gradient_stay_whatever_their_decay():
    frozen, learning = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizer = RMSProp([frozen, learning], lr=0.1, weight_decay=0.1)
    optimizer.step()  # nothing to do
    learning.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(frozen, torch.ones(2)) and not torch.equal(learning, torch.ones(2))
    assert list(optimizer.state) == [learning]


def test_the_gradient_is_left_as_it_was():
    """DDP's gradients are views of the buckets that it exchanges."""
    weight = nn.Parameter(torch.ones(2))
    weight.grad = torch.ones(2)
    RMSProp([weight], lr=0.1, weight_decay=0.1).step()
    assert torch.equal(weight.grad, torch.ones(2))


def test_the_gradient_scaler_of_fp16_unscales_before_a_step_and_skips_those_that_overflowed():
    plain, scaled = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))
    optimizers = [RMSProp([parameter], lr=0.1, weight_decay=0.1) for parameter in (plain, scaled)]
    off, scaler = (torch.amp.GradScaler("cpu", init_scale=1024.0, enabled=enabled) for enabled in (False, True))
    for gradient in (torch.tensor([3.0, -0.5]), torch.tensor([math.inf, 1.0]), torch.tensor([0.25, 2.0])):
        before = scaled.detach().clone()
        plain.grad = gradient.clone()
        scaled.grad = gradient * scaler.scale(torch.ones(()))  # powers of two: exact
        moved = take_step(optimizers[0], off, [plain], clip=1.0)
        assert take_step(optimizers[1], scaler, [scaled], clip=1.0) == moved == bool(gradient.isfinite().all())
        assert torch.equal(plain, scaled) and torch.equal(before, scaled) != moved
    assert scaler.get_scale() == 512
