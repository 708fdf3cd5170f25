"""Autocast, the optimizer step with and without a scaler, frozen epochs, prediction, and batch-norm recalibration."""

import numpy as np
import pytest
import torch
from commands import ranks
from torch import nn

from efficientnet import B0, Coefficients, create_model, scale
from efficientnet.inference.precision import autocast
from efficientnet.inference.prediction import predict
from efficientnet.training.batch_norm import recalibrate_batch_norm
from efficientnet.training.learner import take_step
from efficientnet.weights.load import save_weights

CPU = torch.device("cpu")
SMALL = scale(B0, Coefficients(depth=0.5, width=0.2))


def prepared(gradient, enabled=False):
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 1.0)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", enabled=enabled, init_scale=1024.0)
    scale = scaler.scale(torch.ones(())).item()
    layer.weight.grad = torch.full((1, 1), gradient * scale)
    return layer, optimizer, scaler


@pytest.mark.parametrize("enabled", [False, True])
def test_gradients_are_clipped_after_unscaling(enabled):
    layer, optimizer, scaler = prepared(3.0, enabled)
    assert take_step(optimizer, scaler, layer.parameters(), clip=0.5)
    assert layer.weight.item() == pytest.approx(0.5, abs=1e-5)
    assert layer.weight.grad is None


@pytest.mark.parametrize("enabled", [False, True])
def test_no_clipping_at_zero(enabled):
    layer, optimizer, scaler = prepared(3.0, enabled)
    assert take_step(optimizer, scaler, layer.parameters(), clip=0)
    assert layer.weight.item() == pytest.approx(-2.0)


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_an_overflowed_step_moves_nothing_and_says_so(enabled, bad):
    layer, optimizer, scaler = prepared(bad, enabled)
    assert not take_step(optimizer, scaler, layer.parameters(), clip=1.0)
    assert layer.weight.item() == 1.0 and layer.weight.grad is None
    if enabled:
        assert scaler.get_scale() < 1024


def test_a_loss_that_is_not_finite_lowers_the_scale_though_the_gradients_are():
    layer, optimizer, scaler = prepared(1.0, True)
    scaler.set_growth_interval(1)
    for count in range(1, 4):
        layer.weight.grad = torch.ones(1, 1)
        assert not take_step(optimizer, scaler, layer.parameters(), clip=1.0, loss_is_finite=False)
        assert scaler.get_scale() == 1024 / 2**count and layer.weight.item() == 1.0


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_trains_a_step_on_the_cpu(precision):
    torch.manual_seed(0)
    model = create_model(SMALL, 2, 1)
    before = model.classifier.weight.clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    scaler = torch.amp.GradScaler("cpu", enabled=precision == "fp16")
    images = torch.rand(2, 1, 64, 64)
    for _ in range(30):  # fp16 starts at a scale of 65,536 and halves it until no gradient overflows
        with autocast(CPU, precision):
            logits = model(images)
        scaler.scale(logits.float().square().mean()).backward()
        if take_step(optimizer, scaler, model.parameters(), clip=1.0):
            break
        assert torch.equal(before, model.classifier.weight)
    assert not torch.equal(before, model.classifier.weight)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("count", [2, pytest.param(3, marks=pytest.mark.nightly)])
def test_ranks_exchange_the_gradients_of_what_learns_in_the_epoch(count, tmp_path):
    save_weights(tmp_path / "small.pth", create_model(SMALL))
    process = ranks(count, "freeze_worker", tmp_path / "small.pth")
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "ok"


def test_flip_averages_an_image_with_its_mirror_image():
    model = create_model(SMALL, 2, 1).eval()
    images = torch.rand(2, 1, 64, 48)
    both = predict(model, images, CPU, flip=True)
    assert both == pytest.approx((predict(model, images, CPU) + predict(model, images.flip(-1), CPU)) / 2, abs=1e-5)
    assert both == pytest.approx(predict(model, images.flip(-1), CPU, flip=True), abs=1e-5)


def test_recalibrated_statistics_make_evaluation_repeat_the_batch():
    torch.manual_seed(0)
    model = create_model("b0", 2, 1, dropout=0.0).eval()
    images = 3 * torch.randn(16, 1, 128, 128)
    before = predict(model, images, CPU)
    model.train()  # as --ema-decay 0 has it; dropout and stochastic depth have no part in the statistics
    recalibrate_batch_norm(model, images, CPU, "fp32")
    assert not any(module.training for module in model.modules())
    assert model.stem.norm.momentum == 0.01
    after = predict(model, images, CPU)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    by_batch = predict(model, images, CPU)
    assert np.corrcoef(after.ravel(), by_batch.ravel())[0, 1] > 0.95
    assert abs(before - by_batch).mean() > 3 * abs(after - by_batch).mean()


def test_recalibration_takes_fewer_images_where_memory_is_short():
    class Short(nn.Sequential):
        sizes = ()

        def forward(self, x):
            self.sizes += (len(x),)
            if len(x) > 10:
                raise torch.OutOfMemoryError
            return super().forward(x)

    model = Short(nn.BatchNorm2d(1))
    images = torch.randn(32, 1, 4, 4)
    recalibrate_batch_norm(model, images, CPU, "fp32")
    assert model.sizes == (32, 16, 8)
    assert torch.allclose(model[0].running_mean, images[:8].mean().reshape(1), atol=1e-6)


def test_what_overflows_in_fp16_is_predicted_in_fp32():
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 1, bias=False)).eval()
    nn.init.constant_(model[1].weight, 1.0)
    images = torch.full((1, 1, 2, 2), 30_000.0)
    assert predict(model, images, CPU, "fp16") == pytest.approx(120_000.0)
