"""The blocks against the rules of the paper and of the released code."""

import pytest
import torch
from torch import nn

from efficientnet.baselines.layers import PlainConvolution
from efficientnet.layers import (
    Convention,
    ConvNormAct,
    MBConv,
    SqueezeExcitation,
    StochasticDepth,
    initialise,
    same_padding,
)


def tensorflow_same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's definition of SAME padding: (before, after)."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("height", [1, 2, 7, 8, 31])
@pytest.mark.parametrize("width", [3, 4, 33])
def test_same_padding_is_tensorflows(kernel, height, width):
    layer = ConvNormAct(2, 4, kernel, stride=2)
    left, right, top, bottom = same_padding(torch.zeros(1, 2, height, width), kernel)
    assert (top, bottom) == tensorflow_same(height, kernel, 2)
    assert (left, right) == tensorflow_same(width, kernel, 2)
    assert layer(torch.randn(2, 2, height, width)).shape == (2, 4, -(-height // 2), -(-width // 2))


def test_symmetric_padding_differs_for_even_sizes_and_agrees_for_odd_ones():
    same = ConvNormAct(1, 1, 3, stride=2).eval()
    symmetric = ConvNormAct(1, 1, 3, stride=2, convention=Convention(padding="symmetric")).eval()
    symmetric.load_state_dict(same.state_dict())
    even, odd = torch.randn(1, 1, 8, 8), torch.randn(1, 1, 9, 9)
    assert torch.allclose(same(odd), symmetric(odd))
    assert not torch.allclose(same(even), symmetric(even))


def test_unknown_padding_is_refused():
    with pytest.raises(ValueError, match="symmetric"):
        Convention(padding="valid")


def test_batch_norm_follows_the_released_code():
    norm = ConvNormAct(1, 1, 1).norm
    assert (norm.eps, norm.momentum) == (1e-3, 0.01)


def test_squeeze_excitation_gates_each_channel_by_the_images_own_mean():
    gate = SqueezeExcitation(6, 2)
    x = torch.randn(3, 6, 5, 4)
    squeeze, expand = gate.squeeze, gate.expand
    pooled = x.flatten(2).mean(2)
    hidden = nn.functional.silu(pooled @ squeeze.weight.flatten(1).T + squeeze.bias)
    expected = x * torch.sigmoid(hidden @ expand.weight.flatten(1).T + expand.bias)[:, :, None, None]
    assert torch.allclose(gate(x), expected, atol=1e-6)


def test_stochastic_depth_drops_whole_images_and_rescales_survivors():
    torch.manual_seed(0)
    layer = StochasticDepth(0.3)
    x = torch.rand(20_000, 2, 1, 1) + 1
    ratio = layer(x) / x
    values = ratio.flatten(1)
    assert torch.equal(values[:, 0] == 0, values[:, 1] == 0)
    kept = values[:, 0] != 0
    assert torch.allclose(values[kept], torch.tensor(1 / 0.7))
    assert kept.float().mean().item() == pytest.approx(0.7, abs=0.02)
    assert torch.equal(layer.eval()(x), x)


def test_stochastic_depth_keeps_bf16_and_rescales_within_its_rounding():
    x = torch.ones(1000, 1, 1, 1, dtype=torch.bfloat16)
    for rate in (0.0125, 0.1, 0.1875, 0.5):
        values = StochasticDepth(rate)(x)
        assert values.dtype == torch.bfloat16
        assert float(values.max()) * (1 - rate) == pytest.approx(1, abs=2**-8)


def test_stochastic_depth_at_rate_zero_is_the_identity_in_training():
    x = torch.randn(2, 3, 4, 4)
    assert StochasticDepth(0.0)(x) is x


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_stochastic_depth_refuses_impossible_rates(rate):
    with pytest.raises(ValueError, match="rate"):
        StochasticDepth(rate)


def test_residual_only_at_stride_1_with_equal_channels():
    assert MBConv(8, 8, 3, 1, 6, 2).has_residual
    assert not MBConv(8, 8, 3, 2, 6, 2).has_residual
    assert not MBConv(8, 16, 3, 1, 6, 2).has_residual


def test_without_skip_nothing_is_added():
    """The state of a block is the same with and without: only the sum is left out."""
    x = torch.randn(2, 8, 9, 9)
    for kind, shape in ((MBConv, (8, 8, 3, 1, 6, 2)), (PlainConvolution, (8, 8, 3, 1))):
        with_it, without = kind(*shape).eval(), kind(*shape, skip=False).eval()
        without.load_state_dict(with_it.state_dict())
        assert torch.equal(with_it(x), x + without(x)) and not without.has_residual
        assert not kind(8, 8, 3, 2, *shape[4:]).has_residual


def test_a_plain_convolution_drops_its_branch_only():
    x = torch.randn(4, 8, 9, 9)
    assert torch.equal(PlainConvolution(8, 8, 3, 1, stochastic_depth=0.999999)(x), x)
    assert PlainConvolution(8, 16, 5, 2)(x).shape == (4, 16, 5, 5)


def test_expansion_1_has_no_expansion_convolution():
    assert isinstance(MBConv(8, 8, 3, 1, 1, 2).expand, nn.Identity)


def test_a_dropped_branch_leaves_the_input():
    block = MBConv(8, 8, 3, 1, 6, 2, stochastic_depth=0.999999)
    x = torch.randn(4, 8, 9, 9)
    assert torch.equal(block(x), x)


def test_initialisation_counts_the_groups_in_fan_out():
    torch.manual_seed(0)
    depthwise = nn.Conv2d(4096, 4096, 5, groups=4096)
    pointwise = nn.Conv2d(64, 512, 1)
    for module in (depthwise, pointwise):
        initialise(module)
    assert depthwise.weight.std().item() == pytest.approx((2 / 25) ** 0.5, rel=0.02)
    assert pointwise.weight.std().item() == pytest.approx((2 / 512) ** 0.5, rel=0.02)
    assert depthwise.bias.abs().max() == 0


def test_classifier_starts_uniform_within_the_inverse_root_of_its_classes():
    linear = nn.Linear(1280, 100)
    initialise(linear)
    assert linear.weight.abs().max().item() == pytest.approx(0.1, rel=1e-3)
    assert linear.weight.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)
    assert linear.bias.abs().max() == 0
