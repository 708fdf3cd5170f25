"""The assembled network: sizes, channels, drop rates, feature maps, activation checkpointing."""

import copy
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from efficientnet import B0, Coefficients, complexity, compound_coefficients, create_model, list_models, scale
from efficientnet.baselines.layers import PlainConvolution
from efficientnet.inference import optimize_for_inference
from efficientnet.layers import MBConv
from efficientnet.model import stochastic_depth_rates
from efficientnet.weights.load import save_weights

SMALL = scale(B0, Coefficients(depth=0.5, width=0.2))


def blocks(model):
    return [module for module in model.modules() if isinstance(module, MBConv)]


def gradients_and_statistics(model, x):
    """With the same stochastic depth and dropout in each call."""
    torch.manual_seed(1)
    model(x).square().sum().backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()} | dict(model.named_buffers())


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
    assert round(stochastic_depth_rates(0.2, 39)[-1], 3) == 0.195  # B5; over the unscaled 16 blocks it would be 0.475
    model = create_model("b1")
    rates = [0.2 * i / 23 for i in range(23)]
    for block, rate in zip(blocks(model), rates, strict=True):
        assert block.stochastic_depth.rate == (pytest.approx(rate) if block.has_residual else 0)
    assert blocks(model)[0].stochastic_depth.rate == 0


def test_squeeze_width_comes_from_the_channels_entering_the_block():
    for block in blocks(create_model("b0")):
        entering = (block.expand.conv if hasattr(block.expand, "conv") else block.depthwise.conv).in_channels
        assert block.gate.squeeze.out_channels == max(1, int(entering * 0.25))


def test_stages_without_skip_have_no_residual_but_the_same_state():
    with_it = create_model(SMALL, 2)
    without = create_model([replace(stage, skip=stage.operator != "mbconv") for stage in SMALL], 2)
    assert any(block.has_residual for block in blocks(create_model(B0.stages)))
    without.load_state_dict(with_it.state_dict())
    assert not any(block.has_residual or block.stochastic_depth.rate for block in blocks(without))


def test_plain_stages_are_plain_convolutions_with_the_rates_of_their_place():
    stages = [
        replace(stage, operator="plain", expansion=1, layers=2) if place == 2 else stage
        for place, stage in enumerate(SMALL)
    ]
    first, second = create_model(stages, 2, stochastic_depth=0.5).body[1]
    assert isinstance(first, PlainConvolution) and not first.has_residual and second.has_residual
    assert second.stochastic_depth.rate == pytest.approx(0.5 * 2 / sum(stage.layers for stage in stages[1:-1]))
    changed = create_model([replace(stage, skip=stage.operator != "plain") for stage in stages], 2)
    assert not changed.body[1][1].has_residual


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
        (lambda: create_model("b0", -1), "num_classes must be at least 0"),
        (lambda: create_model("b0", 1, 0), "in_channels"),
        (lambda: create_model(B0.stages[1:]), "Table 1"),
        (lambda: create_model("b0", 1, 1)(torch.zeros(1, 3, 64, 64)), r"\(N, 1, H, W\)"),
        (lambda: create_model("b0", 1, 1)(torch.zeros(2, 1, 31, 64)), "32 pixels"),
        (lambda: create_model("b0", 1, 1)(torch.zeros(1, 1, 32, 32)), "two images"),
        (lambda: create_model("b0", 1, 1)(torch.zeros(64, 64)), r"\(N, 1, H, W\), got a tensor \(64, 64\)"),
        *(
            (lambda dtype=dtype: create_model("b0", 1, 1)(torch.zeros(1, 1, 64, 64, dtype=dtype)), f"{dtype}: .* / 255")
            for dtype in (torch.uint8, torch.int64, torch.bool)
        ),
    ],
)
def test_errors_say_what_is_wrong(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize("name", ["b0", "lite0", "mobilenet_v1", "resnet50"])
def test_without_classes_the_output_is_the_pooled_features(name):
    torch.manual_seed(0)
    features, classifies = create_model(name, num_classes=0).eval(), create_model(name, num_classes=5).eval()
    body = {key: value for key, value in classifies.state_dict().items() if not key.startswith("classifier.")}
    features.load_state_dict(body)  # strictly: there is no classifier
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        found = features(images)
        assert found.shape == (2, features.num_features) and features.num_classes == 0
        torch.testing.assert_close(found, features.forward_features(images).mean((2, 3)))
        torch.testing.assert_close(classifies.classifier(found), classifies(images))
        assert (optimize_for_inference(features)(images) - found).abs().max() < 1e-4 * found.abs().max()
    parameters = sum(parameter.numel() for parameter in features.parameters())
    assert complexity(features.stages, 224, num_classes=0).parameters == parameters


def test_a_file_with_a_head_loads_without_it_and_one_without_leaves_it_fresh(tmp_path):
    torch.manual_seed(0)
    whole, bare = tmp_path / "whole.pt", tmp_path / "bare.pt"
    model = create_model("b0", num_classes=7)
    save_weights(whole, model)
    features = create_model(weights=whole, num_classes=0)
    assert features.num_classes == 0 and "classifier" in features.load_report.text()
    assert not features.load_report.fresh
    save_weights(bare, features)
    head = create_model(weights=bare, num_classes=3)
    assert head.load_report.fresh == ("classifier.weight", "classifier.bias")
    for name, tensor in features.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]) and torch.equal(tensor, head.state_dict()[name])


def test_every_listed_name_is_built_and_patterns_select():
    names = list_models()
    assert names[:11] == [*(f"b{i}" for i in range(9)), "l2", "lite0"] and len(set(names)) == len(names)
    with torch.device("meta"):
        assert all(create_model(name, num_classes=1).num_classes == 1 for name in names)
    with pytest.raises(ValueError, match=f"known ones are {', '.join(names)}"):
        create_model("vgg16")
    assert list_models("lite*") == [f"lite{i}" for i in range(5)] and list_models("b[0-2]") == ["b0", "b1", "b2"]
    assert list_models("efficientnetv2*") == []


@pytest.mark.parametrize("make", [nn.Identity, nn.Sequential, optimize_for_inference])
def test_torch_jit_script_is_refused_with_what_works(make):
    model = create_model("b0", num_classes=1).eval()
    module = model if make is nn.Identity else make(model)
    with pytest.raises(NotImplementedError, match=r"torch\.export\.export.*torch\.jit\.trace"):
        torch.jit.script(module)


@pytest.mark.filterwarnings("ignore")
def test_a_trace_gives_the_networks_logits_at_other_sizes():
    model = create_model("b0", num_classes=2).eval()
    traced = torch.jit.trace(model, torch.randn(1, 3, 64, 64))
    with torch.no_grad():
        for size in ((2, 97, 66), (1, 64, 33)):
            images = torch.randn(size[0], 3, *size[1:])
            torch.testing.assert_close(traced(images), model(images))


@pytest.mark.parametrize("training", [True, False])
def test_a_symbolic_trace_is_the_same_function_at_any_size(training):
    model = create_model(SMALL, 3, 1).train(training)
    traced = torch.fx.symbolic_trace(copy.deepcopy(model))
    for size in ((4, 64, 48), (2, 33, 97)):
        images = torch.randn(size[0], 1, *size[1:])
        expected, found = gradients_and_statistics(model, images), gradients_and_statistics(traced, images)
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor)


def test_torchvisions_feature_extractor_takes_it():
    feature_extraction = pytest.importorskip("torchvision.models.feature_extraction")
    model = create_model(SMALL, 3, 1).eval()
    extractor = feature_extraction.create_feature_extractor(model, {"body.1": "map", "head": "head"}).eval()
    images = torch.randn(2, 1, 97, 64)
    with torch.no_grad():
        found = extractor(images)
        torch.testing.assert_close(found["map"], model.feature_maps(images)[1])
        torch.testing.assert_close(found["head"], model.forward_features(images))


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


def test_compiled_training_with_activation_checkpointing_is_the_same():
    model = create_model(SMALL, 3, 1, checkpoint_activations=True, stochastic_depth=0.5, dropout=0.5)
    compiled = copy.deepcopy(model)
    x = torch.randn(4, 1, 64, 48)
    expected = gradients_and_statistics(model, x)
    compiled.compile(backend="aot_eager")
    found = gradients_and_statistics(compiled, x)
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


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
