"""The assembled network: sizes, channels, drop rates, feature maps, activation checkpointing."""

import subprocess
import sys

import pytest
import torch

from efficientnet import B0, Coefficients, compound_coefficients, create_model, scale
from efficientnet.layers import MBConv
from efficientnet.model import stochastic_depth_rates


def blocks(model):
    return [module for module in model.modules() if isinstance(module, MBConv)]


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (47, 101), (224, 96), (65, 64)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_any_size_and_channel_count(size, channels):
    model = create_model("b0", 4, channels).eval()
    x = torch.randn(2, channels, *size)
    with torch.no_grad():
        assert model(x).shape == (2, 4)
        assert model.forward_features(x).shape == (2, model.num_features, -(-size[0] // 32), -(-size[1] // 32))


def test_feature_maps_are_the_five_reductions():
    model = create_model("b0", in_channels=1).eval()
    with torch.no_grad():
        maps = model.feature_maps(torch.randn(1, 1, 160, 96))
    assert [tuple(m.shape[1:]) for m in maps] == [
        (16, 80, 48),
        (24, 40, 24),
        (40, 20, 12),
        (112, 10, 6),
        (320, 5, 3),
    ]


def test_first_block_never_drops_and_the_rate_grows_over_the_scaled_blocks():
    for count in (16, 39):
        assert stochastic_depth_rates(0.2, count) == [0.2 * i / count for i in range(count)]
    model = create_model("b1")
    rates = [0.2 * i / 23 for i in range(23)]
    for block, rate in zip(blocks(model), rates, strict=True):
        assert block.stochastic_depth.rate == (pytest.approx(rate) if block.has_residual else 0)
    assert blocks(model)[0].stochastic_depth.rate == 0


def test_squeeze_width_comes_from_the_channels_entering_the_block():
    for block in blocks(create_model("b0")):
        entering = (block.expand.conv if hasattr(block.expand, "conv") else block.depthwise.conv).in_channels
        assert block.gate.squeeze.out_channels == max(1, int(entering * 0.25))


def test_dropout_is_the_variants_own():
    assert [create_model(f"b{i}").dropout.p for i in range(4)] == [0.2, 0.2, 0.3, 0.3]
    assert create_model("b0", dropout=0.7).dropout.p == 0.7


def test_a_derived_architecture_builds_and_trains():
    model = create_model(scale(B0, compound_coefficients(0.5)), 3, 1)
    model(torch.randn(2, 1, 64, 64)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_stages_are_the_architecture_that_was_given():
    stages = scale(B0, Coefficients(width=0.5))
    assert create_model(stages).stages == stages


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: create_model("b11"), "known ones"),
        (lambda: create_model("b0", 0), "num_classes"),
        (lambda: create_model("b0", 1, 0), "in_channels"),
        (lambda: create_model(B0.stages[1:]), "Table 1"),
        (lambda: create_model("b0", 1, 1)(torch.zeros(1, 3, 64, 64)), r"\(N, 1, H, W\)"),
        (lambda: create_model("b0", 1, 1)(torch.zeros(2, 1, 31, 64)), "32 pixels"),
        (lambda: create_model("b0", 1, 1)(torch.zeros(1, 1, 32, 32)), "two images"),
    ],
)
def test_errors_say_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_training_at_32_pixels_works_with_two_images():
    create_model("b0", 2, 1)(torch.randn(2, 1, 32, 32)).sum().backward()


def test_activation_checkpointing_changes_neither_gradients_nor_statistics():
    torch.manual_seed(0)
    plain = create_model("b0", 3, 1)
    saving = create_model("b0", 3, 1, checkpoint_activations=True)
    saving.load_state_dict(plain.state_dict())
    x = torch.randn(4, 1, 64, 48)
    for model in (plain, saving):
        torch.manual_seed(1)  # the same stochastic depth and dropout
        model(x).square().sum().backward()
    for (name, a), b in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-6), name
    for (name, a), b in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(a, b), name


def test_activation_checkpointing_saves_memory():
    def saved_bytes(checkpoint_activations):
        model = create_model("b0", 3, 1, checkpoint_activations=checkpoint_activations)
        total = 0

        def pack(tensor):
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            model(torch.randn(2, 1, 96, 96))
        return total

    assert saved_bytes(True) < 0.5 * saved_bytes(False)


def test_the_output_of_an_image_does_not_depend_on_its_batch_in_evaluation():
    model = create_model("b0", 3, 1).eval()
    x = torch.randn(3, 1, 64, 64)
    with torch.no_grad():
        assert torch.allclose(model(x)[1:2], model(x[1:2]), atol=1e-5)


def test_importing_the_package_does_not_import_torch():
    code = "import efficientnet, sys; efficientnet.scale; assert 'torch' not in sys.modules; efficientnet.create_model"
    subprocess.run([sys.executable, "-c", code], check=True)
