"""The fast path for prediction computes the network's own function, for every architecture and image size."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from networks import assert_as_exact, difference, randomised
from torch import nn

from efficientnet import (
    B0,
    BASELINES,
    LITE_VARIANTS,
    MOBILENET_V2,
    VARIANTS,
    Coefficients,
    compound_coefficients,
    create_model,
    scale,
)
from efficientnet.inference.fast_path import optimize_for_inference
from efficientnet.inference.folded import mean_of_pixels
from efficientnet.inference.onednn import ONEDNN_NAMES, FusedConvolution, onednn_fuses
from efficientnet.inference.prediction import predict
from efficientnet.scaling import LITE0

needs_fusion = pytest.mark.skipif(not onednn_fuses(torch.float32), reason="this PyTorch fuses no convolutions")
# Even at every stage, odd at some, odd at all; and not square.
SMALL = scale(B0, Coefficients(depth=0.5, width=0.25))
# As the search of `studies` may find it.
WITH_PLAIN = tuple(
    replace(stage, operator="plain", expansion=1, squeeze_ratio=0, layers=2, skip=place != 4)
    if place in (2, 4)
    else replace(stage, skip=place != 5)
    for place, stage in enumerate(SMALL)
)
SIZES = [(64, 64), (97, 66), (75, 100), (33, 129)]


@pytest.mark.parametrize("fused", [None, False], ids=["fused", "plain operators"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("name", ["b0", "lite0", "mobilenet_v1", "mobilenet_v2", "resnet50"])
def test_logits_features_and_maps_are_the_networks_own(name, padding, fused):
    torch.manual_seed(0)
    stages = scale({**BASELINES, "lite0": LITE0}[name], Coefficients(depth=0.5, width=0.25))
    model = randomised(create_model(stages, num_classes=10, in_channels=1, padding=padding))
    fast = optimize_for_inference(model, fused=fused)
    assert not fast.kept
    for size in SIZES:
        images = torch.randn(2, 1, *size)
        assert_as_exact(fast, model, images)
        with torch.no_grad():
            assert difference(fast.forward_features(images), model.forward_features(images)) < 1e-4
            maps, expected = fast.feature_maps(images), model.feature_maps(images)
        assert len(maps) == len(expected) == 5
        assert max(map(difference, maps, expected)) < 1e-4


@pytest.mark.parametrize("fused", [None, False], ids=["fused", "plain operators"])
@pytest.mark.parametrize("padding", ["same", "symmetric"])
@pytest.mark.parametrize("pooling", ["gem", "max"])
def test_every_pooling_has_a_fast_path(pooling, padding, fused):
    torch.manual_seed(0)
    model = randomised(create_model(SMALL, num_classes=10, in_channels=1, padding=padding, pooling=pooling))
    fast, bf16 = (optimize_for_inference(model, precision, fused=fused) for precision in ("fp32", "bf16"))
    assert not fast.kept and fast.mirrored == (padding == "same")
    for size in SIZES:
        images = torch.randn(2, 1, *size)
        assert_as_exact(fast, model, images)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            by_autocast = model(images).float()
        with torch.no_grad():
            expected = model(images)
        assert difference(bf16(images), expected) < 0.05 + 2 * difference(by_autocast, expected)


SAMPLE = ("b0", "lite1")


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in SAMPLE else pytest.mark.nightly) for name in [*VARIANTS, *LITE_VARIANTS]],
)
def test_every_variant_is_within_1e_5(name):
    torch.manual_seed(0)
    model = randomised(create_model(name, num_classes=5))
    assert_as_exact(optimize_for_inference(model), model, torch.randn(1, 3, 65, 96))


def test_any_scaled_architecture_has_a_fast_path():
    model = randomised(create_model(scale(MOBILENET_V2, compound_coefficients(phi=1.5)), num_classes=3))
    assert_as_exact(optimize_for_inference(model), model, torch.randn(1, 3, 50, 71))


@pytest.mark.parametrize("fused", [False, pytest.param(True, marks=needs_fusion)])
def test_plain_convolutions_and_blocks_without_a_residual(fused):
    torch.manual_seed(0)
    model = randomised(create_model(WITH_PLAIN, num_classes=3))
    assert_as_exact(optimize_for_inference(model, fused=fused), model, torch.randn(2, 3, 66, 97))


def blocked(fast: nn.Module) -> set[bool]:
    return {layer.cached[2].is_mkldnn for layer in fast.modules() if isinstance(layer, FusedConvolution)}


@needs_fusion
@pytest.mark.parametrize("precision", ["fp32"] + ["bf16"] * onednn_fuses(torch.bfloat16))
@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_weights_in_blocks_give_the_same_whatever_shapes_follow_one_another(padding, precision):
    torch.manual_seed(0)
    fast = optimize_for_inference(randomised(create_model(SMALL, num_classes=5, padding=padding)), precision)
    first, second = torch.randn(2, 3, 64, 96), torch.randn(1, 3, 97, 66)
    before = copy.deepcopy(fast.state_dict())
    plain = {id(images): fast(images) for images in (first, second)}
    for count, images in ((4, first), (2, second), (1, first), (5, second), (3, first)):
        for repetition in range(count):
            found = fast(images)
            assert difference(found, plain[id(images)]) < (1e-5 if precision == "fp32" else 0.02)
            assert blocked(fast) == {repetition >= 2}
    assert blocked(fast) == {True}
    after = fast.state_dict()
    assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in after)


@needs_fusion
def test_fused_with_another_engine_is_refused():
    with pytest.raises(ValueError, match="fused is for the engine torch"):
        optimize_for_inference(create_model("b0", num_classes=2), fused=True, engine="compile")


@needs_fusion
def test_a_model_with_weights_in_blocks_can_be_copied_and_saved(tmp_path):
    fast = optimize_for_inference(randomised(create_model("b0", num_classes=2)))
    images = torch.randn(1, 3, 64, 64)
    expected = [fast(images) for _ in range(4)][-1]
    assert blocked(fast) == {True}
    copies = [copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))]
    torch.save(fast.state_dict(), tmp_path / "weights.pt")
    copies.append(optimize_for_inference(randomised(create_model("b0", num_classes=2))))
    copies[-1].load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert all(difference(copied(images), expected) < 1e-5 for copied in copies)


@needs_fusion
def test_threads_may_share_a_model_for_images_of_different_shapes():
    fast = optimize_for_inference(randomised(create_model("b0", num_classes=2)))
    inputs = [torch.randn(1, 3, size, 64) for size in (64, 64, 80, 96)]
    expected = [fast(images) for images in inputs]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(20):
            for found, wanted in zip(threads.map(fast, inputs), expected, strict=True):
                assert difference(found, wanted) < 1e-5


def test_a_constant_background_costs_no_digits():
    """Half of a mammogram is exactly 0. A mean that adds pixel by pixel makes the same rounding error at each."""
    torch.manual_seed(0)
    model = randomised(create_model("b0", num_classes=2, in_channels=1))
    image = torch.randn(4, 1, 512, 256)
    image[..., 100:] = -1.987
    x = model.stem(image).detach().contiguous(memory_format=torch.channels_last)
    exact = x.double().mean((2, 3)).float()
    for pooled, tolerance in ((False, 1e-6), (True, 1e-5)):
        assert difference(mean_of_pixels(x, pooled), exact) < tolerance
    assert_as_exact(optimize_for_inference(model), model, image)


def test_bf16_is_near_and_logits_are_float32():
    torch.manual_seed(0)
    model = randomised(create_model("b0", num_classes=10))
    images = torch.randn(4, 3, 96, 96)
    with torch.no_grad():
        fast = optimize_for_inference(model, "bf16")
        assert {buffer.dtype for buffer in fast.buffers()} == {torch.bfloat16}
        with torch.autocast("cpu", torch.bfloat16):
            by_autocast = model(images).float()
        assert difference(fast(images), model(images)) < 0.05 + 2 * difference(by_autocast, model(images))


def test_the_model_does_not_change_and_the_copy_is_for_prediction():
    model = randomised(create_model("b0", num_classes=2))
    before = copy.deepcopy(model.state_dict())
    fast = optimize_for_inference(model)
    images = torch.randn(2, 3, 64, 64)
    first = fast(images)
    assert not first.requires_grad and not fast.train().training and torch.equal(fast(images), first)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert fast.stages == model.stages and fast.num_features == model.num_features
    with pytest.raises(ValueError, match="32 pixels"):
        fast(torch.zeros(1, 3, 16, 64))
    with pytest.raises(ValueError, match="expected images"):
        fast(torch.zeros(1, 1, 64, 64))


def test_prediction_with_a_flip_agrees_too():
    model = randomised(create_model("b0", num_classes=2))
    images = torch.randn(3, 3, 64, 80)
    fast = predict(optimize_for_inference(model), images, torch.device("cpu"), flip=True)
    np.testing.assert_allclose(fast, predict(model, images, torch.device("cpu"), flip=True), atol=1e-3)


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="fp32, bf16, fp16"):
        optimize_for_inference(create_model("b0", num_classes=1), "int8")


def test_without_the_fused_operators_it_falls_back(monkeypatch):
    onednn_fuses.cache_clear()
    monkeypatch.setattr("efficientnet.inference.onednn.ONEDNN_NAMES", {**ONEDNN_NAMES, nn.SiLU: ("no such thing", [])})
    assert not onednn_fuses(torch.float32)
    monkeypatch.undo()
    model = randomised(create_model("b0", num_classes=2))
    monkeypatch.setattr("efficientnet.inference.fast_path.onednn_fuses", lambda dtype: False)
    fast = optimize_for_inference(model)
    with pytest.raises(ValueError, match="omit fused"):
        optimize_for_inference(model, fused=True)
    images = torch.randn(1, 3, 64, 64)
    assert_as_exact(fast, model, images)
    onednn_fuses.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("fp16", 0.05)])
def test_on_cuda_it_is_near_the_network(precision, tolerance):
    model = randomised(create_model("b0", num_classes=10)).cuda()
    fast = optimize_for_inference(model, precision)
    images = torch.randn(3, 3, 64, 96, device="cuda")
    with torch.no_grad():
        assert difference(fast(images), model(images)) < tolerance
