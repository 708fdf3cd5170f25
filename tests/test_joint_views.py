"""The network for all views of one breast together: attention over the views that are there."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from efficientnet import B0, Coefficients, create_model, scale
from efficientnet.inference import optimize_for_inference
from efficientnet.inference.onednn import onednn_fuses
from efficientnet.inference.prediction import predict, to_device
from efficientnet.layers import GatedAttention, pool_views
from efficientnet.model import JointViews
from efficientnet.training.batch_norm import recalibrate_batch_norm
from efficientnet.training.ema import ExponentialMovingAverage
from efficientnet.training.fast_cpu import accelerate_training
from efficientnet.training.learner import first_stages

SMALL = scale(B0, Coefficients(depth=0.5, width=0.2))
CPU = torch.device("cpu")


def network(**options):
    torch.manual_seed(0)
    return create_model(SMALL, 3, 1, joint_views=True, **options).eval()


def learned(model):
    """The model with attention that no longer weighs all views alike, and batch norm that has seen some images."""
    torch.manual_seed(1)
    nn.init.normal_(model.attention.score.weight, std=5)
    nn.init.normal_(model.attention.content.weight)
    recalibrate_batch_norm(model, torch.randn(8, 1, 96, 64), CPU, "fp32")
    return model


def breasts(*presence, size=(64, 48)):
    """Images (N, V, 1, H, W); each text has a letter per view, "x" for one that is there and "-" for an absent one."""
    images = torch.randn(len(presence), len(presence[0]), 1, *size, generator=torch.Generator().manual_seed(0))
    for breast, text in zip(images, presence, strict=True):
        breast[[letter == "-" for letter in text]] = math.nan
    return images


def test_gated_attention_is_equation_9():
    torch.manual_seed(0)
    attention = GatedAttention(6, hidden=4)
    nn.init.normal_(attention.score.weight)
    features, present = torch.randn(5, 6), torch.tensor([[True, False, True], [True, True, True]])
    found = attention(features, present)
    v, u, w = attention.content.weight, attention.gate.weight, attention.score.weight[0]
    scores = [w @ (torch.tanh(v @ h) * torch.sigmoid(u @ h)) for h in features]
    expected = torch.zeros(2, 3)
    expected[0, 0], expected[0, 2] = torch.stack(scores[:2]).softmax(0)
    expected[1] = torch.stack(scores[2:]).softmax(0)
    torch.testing.assert_close(found, expected)
    assert found[0, 1] == 0


def test_it_begins_as_the_mean_of_the_views_that_are_there():
    model, images = network(), breasts("xxx", "x-x", "-x-")
    with torch.no_grad():
        means = [model.pooled_features(views[~views[:, 0, 0, 0].isnan()]).mean(0) for views in images]
        torch.testing.assert_close(model(images), model.classify(torch.stack(means)))


@pytest.mark.parametrize("pooling", ["mean", "gem", "max"])
def test_one_view_is_the_plain_network_with_the_same_weights(pooling):
    joint = network(pooling=pooling)
    plain = create_model(SMALL, 3, 1, pooling=pooling).eval()
    state = {name: tensor for name, tensor in joint.state_dict().items() if not name.startswith("attention.")}
    plain.load_state_dict(state)
    images = torch.randn(3, 1, 64, 48)
    with torch.no_grad():
        assert torch.equal(joint(images), plain(images)) and torch.equal(joint(images[:, None]), plain(images))


def test_the_order_of_views_and_absent_ones_do_not_matter():
    model, images = learned(network()), breasts("xxx-", "x-x-")
    with torch.no_grad():
        expected = model(images)
        for other in (images.flip(1), images[:, [2, 0, 3, 1]], images[:, :3], torch.cat([images, images[:, 3:]], 1)):
            torch.testing.assert_close(model(other), expected)
        assert not torch.allclose(model(images[:, :1]), expected, rtol=1e-3)
        other = copy.deepcopy(model)
        nn.init.zeros_(other.attention.score.weight)
        assert not torch.allclose(other(images), expected, rtol=1e-3)


def test_absent_views_are_neither_computed_nor_seen_by_batch_norm():
    model, images = network(stochastic_depth=0.0), breasts("x-x", "--x")
    seen = []
    model.stem.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].clone()))
    others = copy.deepcopy(model)
    model.train()(images)
    present = images[[0, 0, 1], [0, 2, 2]]
    assert torch.equal(seen[0], present)
    others.train()(present)
    for (name, buffer), other in zip(model.named_buffers(), others.buffers(), strict=True):
        assert torch.equal(buffer, other), name


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("presence", [("xx", "--"), ("--", "--")])
def test_a_breast_without_a_view_has_features_0(presence, fast):
    model, images = learned(network()), breasts(*presence)
    with torch.no_grad():
        found = (optimize_for_inference(model) if fast else model)(images)
        torch.testing.assert_close(found[1], model.classifier.bias)
    assert found.isfinite().all()
    if not fast:
        model(images).sum().backward()
        assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("options", [{}, {"checkpoint_activations": True, "pooling": "gem"}])
@pytest.mark.parametrize("precision", [None, torch.bfloat16, torch.float16])
def test_it_trains_under_autocast_with_every_parameter_used(precision, options):
    model = network(**options).train()
    accelerate_training(model)
    with torch.autocast("cpu", precision, enabled=precision is not None):
        logits = model(breasts("xx", "x-", "-x"))
    logits.float().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert model.attention.score.weight.grad.abs().max() > 0


def test_it_trains_under_ddp_with_any_number_of_views(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = DistributedDataParallel(network().train())
        for images in (torch.zeros(2, 1, 64, 64), breasts("xx", "x-"), breasts("-x", "--")):
            model(images).square().sum().backward()
    finally:
        dist.destroy_process_group()


def test_recalibration_averages_and_stages_are_as_in_other_networks():
    model = network()
    recalibrate_batch_norm(model, breasts("xx", "x-", "-x", "xx"), CPU, "fp32")
    assert all(buffer.isfinite().all() for buffer in model.buffers())
    average = ExponentialMovingAverage(model, 0.9)
    average.update(model)
    assert type(average.average) is JointViews
    assert first_stages(model, 99) == [model.stem, *model.body, model.head]


def test_views_move_to_a_device_in_channels_last_layout():
    images = torch.randn(2, 3, 5, 8, 6)
    images[0, 1] = math.nan
    moved = to_device(images, CPU)
    torch.testing.assert_close(moved, images, equal_nan=True)
    for views in (moved.flatten(0, 1), moved[~moved[:, :, 0, 0, 0].isnan()]):
        assert views.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("fast", [False, True])
def test_a_prediction_with_a_flip_is_the_mean_of_both(fast):
    model, images = learned(network()), breasts("xx", "x-")
    found = predict(optimize_for_inference(model) if fast else model, images, CPU, flip=True)
    both = (predict(model, images, CPU) + predict(model, images.flip(-1), CPU)) / 2
    np.testing.assert_allclose(found, both, atol=1e-4)


@pytest.mark.parametrize("fused", [False] + [True] * onednn_fuses(torch.float32))
@pytest.mark.parametrize("pooling", ["mean", "gem"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_the_fast_path_takes_the_same_input(padding, pooling, fused):
    model = learned(network(padding=padding, pooling=pooling))
    fast = optimize_for_inference(model, fused=fused)
    assert not fast.kept
    with torch.no_grad():
        for images in (breasts("xx-", "x--", "-xx", size=(97, 66)), breasts("xx"), torch.randn(2, 1, 64, 64)):
            torch.testing.assert_close(fast(images), model(images), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["bf16", pytest.param("compiled", marks=pytest.mark.nightly)])
def test_the_fast_path_in_bf16_and_compiled(way, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    few = (*SMALL[:2], replace(SMALL[-1], in_channels=SMALL[1].out_channels))
    torch.manual_seed(0)
    model = learned(create_model(few, 3, 1, joint_views=True, pooling="gem").eval())
    options, tolerance = ({"precision": "bf16"}, 0.05) if way == "bf16" else ({"engine": "compile"}, 1e-4)
    fast = optimize_for_inference(model, **options)
    with torch.no_grad():
        for images in (breasts("xx", "x-"), breasts("xx", "xx", "x-")):
            found, expected = fast(images), model(images)
            assert found.dtype == torch.float32
            assert (found - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (torch.zeros(1, 64, 64), r"\(N, V, C, H, W\) or \(N, C, H, W\)"),
        (torch.zeros(2, 2, 3, 64, 64), r"\(N, 1, H, W\)"),
        (torch.zeros(2, 2, 1, 64, 64, dtype=torch.uint8), "normalised floating-point"),
        (torch.zeros(2, 2, 1, 16, 64), "32 pixels"),
    ],
)
def test_bad_input_is_refused(images, words):
    for model in (network(), optimize_for_inference(network())):
        with pytest.raises(ValueError, match=words):
            model(images)


def test_pooling_of_views_needs_no_network():
    weights = pool_views(breasts("x-x"), lambda views: views.mean((2, 3)), lambda features, present: present / 4)
    images = breasts("x-x")
    torch.testing.assert_close(weights, (images[:, 0] + images[:, 2]).mean((2, 3)) / 4)
