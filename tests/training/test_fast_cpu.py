"""The fast path for training on a CPU: the same parameters, function and gradients."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from efficientnet import B0, Coefficients, create_model, scale
from efficientnet.common.cpu import has_bf16_units
from efficientnet.inference import optimize_for_inference
from efficientnet.layers import SqueezeExcitation
from efficientnet.training.fast_cpu import (
    Depthwise,
    DepthwiseConvolution,
    LinearSqueezeExcitation,
    NormSwish,
    accelerate_training,
    gradient_of_5x5,
    gradient_of_kernel,
    is_depthwise,
)

SMALL = scale(B0, Coefficients(depth=0.5, width=0.2))


@pytest.mark.parametrize("size", [(13, 10), (12, 14), (7, 7), (6, 5)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("padded", [True, False], ids=["padded", "bare"])
def test_its_gradients_pass_a_numerical_check(kernel, stride, size, padded):
    torch.manual_seed(0)
    images = torch.randn(2, 2, *size, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 1, kernel, kernel, dtype=torch.float64, requires_grad=True)
    padding = kernel // 2 if padded else 0
    assert torch.autograd.gradcheck(lambda x, w: Depthwise.apply(x, w, stride, padding), (images, weight))


def test_the_gradients_of_norm_and_swish_pass_a_numerical_check():
    torch.manual_seed(0)
    images = torch.randn(3, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    weight, bias = (torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(2))
    statistics = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64), 0.01, 1e-3
    assert torch.autograd.gradcheck(lambda *tensors: NormSwish.apply(*tensors, *statistics), (images, weight, bias))


def test_less_is_kept_for_the_backward_pass_and_statistics_are_the_same():
    torch.manual_seed(0)
    plain = create_model(SMALL, num_classes=10).train()
    fast, images = copy.deepcopy(plain), torch.randn(4, 3, 64, 64)
    accelerate_training(fast, "fp32")

    def kept(model: nn.Module) -> int:
        """Bytes of the different tensors that a forward pass keeps."""
        storages: dict[int, int] = {}

        def keep(tensor: torch.Tensor) -> torch.Tensor:
            storages[tensor.data_ptr()] = tensor.nbytes
            return tensor

        torch.manual_seed(1)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            logits = model(images)  # noqa: F841, it holds the tensors, so that none has another's address
        return sum(storages.values())

    assert kept(fast) < 0.8 * kept(plain)
    for found, expected in zip(fast.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("stride", [1, 2])
def test_four_3x3_gradients_make_the_5x5_one(stride):
    torch.manual_seed(0)
    images = torch.randn(3, 8, 21, 18, dtype=torch.float64)
    gradient = torch.randn_like(F.conv2d(images, torch.zeros(8, 1, 5, 5, dtype=torch.float64), None, stride, 2, 1, 8))
    expected = gradient_of_kernel(gradient, images, 5, stride, 2)
    torch.testing.assert_close(gradient_of_5x5(gradient, images, stride, 2), expected)


def step(model: nn.Module, images: torch.Tensor, autocast: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Logits, and the gradients of all parameters."""
    torch.manual_seed(1)  # of dropout and stochastic depth
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits = model(images)
        logits = logits.float() if autocast else logits
    F.cross_entropy(logits, torch.arange(len(images)) % 10).backward()
    return logits.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


def test_modules_are_replaced_and_parameters_are_not():
    model = create_model(SMALL, num_classes=10)
    names, parameters = list(model.state_dict()), dict(model.named_parameters())
    accelerate_training(model)
    kinds = [type(module) for module in model.modules()]
    assert kinds.count(DepthwiseConvolution) == kinds.count(LinearSqueezeExcitation) == 10
    assert SqueezeExcitation not in kinds
    assert list(model.state_dict()) == names
    after = dict(model.named_parameters())
    assert list(after) == list(parameters) and all(after[name] is parameters[name] for name in after)
    copied = copy.deepcopy(model)
    assert list(copied.state_dict()) == names and [type(module) for module in copied.modules()] == kinds
    create_model(SMALL, num_classes=10).load_state_dict(model.state_dict())


def test_a_model_that_trains_fast_also_predicts_fast():
    model = create_model(SMALL, num_classes=10).eval()
    images = torch.randn(2, 3, 64, 64)
    expected = optimize_for_inference(model)(images)
    accelerate_training(model)
    torch.testing.assert_close(optimize_for_inference(model)(images), expected)


@pytest.mark.parametrize("padding", ["same", "symmetric"])
def test_a_step_has_the_gradients_of_the_plain_network(padding):
    """In float64, where rounding hides nothing."""
    torch.manual_seed(0)
    plain = create_model(SMALL, num_classes=10, padding=padding).double().train()
    fast = copy.deepcopy(plain)
    accelerate_training(fast)
    images = torch.randn(4, 3, 64, 70, dtype=torch.float64)
    logits, gradients = step(plain, images, autocast=False)
    found_logits, found = step(fast, images, autocast=False)
    torch.testing.assert_close(found_logits, logits)
    for name, expected in gradients.items():
        assert (found[name] - expected).norm() <= 1e-9 * expected.norm() + 1e-12, name


def test_in_fp32_only_5x5_kernels_are_replaced_and_a_step_is_as_exact():
    """At 48 pixels the last stages see images of 3x3 and 2x2 pixels."""
    torch.manual_seed(0)
    plain = create_model(SMALL, num_classes=10).train()
    fast, images = copy.deepcopy(plain), torch.randn(8, 3, 48, 48)
    exact = step(copy.deepcopy(plain).double(), images.double(), autocast=False)[1]
    accelerate_training(fast, "fp32")
    replaced = [module for module in fast.modules() if isinstance(module, DepthwiseConvolution)]
    assert {module.kernel_size for module in replaced} == {(5, 5)}
    assert not any(isinstance(module, LinearSqueezeExcitation) for module in fast.modules())
    logits, gradients = step(plain, images, autocast=False)
    found_logits, found = step(fast, images, autocast=False)
    torch.testing.assert_close(found_logits, logits)
    for name, expected in exact.items():
        error = (gradients[name] - expected).norm()
        assert (found[name] - expected).norm() <= 2 * error + 1e-5 * expected.norm(), name


def test_a_bf16_step_is_as_near_to_fp32_as_autocast_alone_and_gradients_stay_fp32():
    torch.manual_seed(0)
    plain = create_model(SMALL, num_classes=10).train()
    exact = step(copy.deepcopy(plain), images := torch.randn(8, 3, 64, 64), autocast=False)[1]
    by_autocast = step(copy.deepcopy(plain), images, autocast=True)[1]
    fast = copy.deepcopy(plain)
    accelerate_training(fast)
    by_fast = step(fast, images, autocast=True)[1]

    def error(gradients):
        return sum(float((gradients[name] - exact[name]).square().sum()) for name in exact) ** 0.5

    assert {gradient.dtype for gradient in by_fast.values()} == {torch.float32}
    assert error(by_fast) < 1.5 * error(by_autocast)


@pytest.mark.parametrize("size", [32, 64])
def test_gradients_have_the_memory_layout_of_their_parameters(size):
    """Otherwise DistributedDataParallel copies each of them, and warns."""
    model = create_model("b0", num_classes=10)
    accelerate_training(model)
    model = model.to(memory_format=torch.channels_last).train()
    step(model, torch.randn(2, 3, size, size).contiguous(memory_format=torch.channels_last), autocast=True)
    for name, parameter in model.named_parameters():
        assert parameter.grad.stride() == parameter.stride(), name


@pytest.mark.parametrize(
    "options",
    [
        {"bias": True},
        {"dilation": 2},
        {"stride": (1, 2)},
        {"padding": "same"},
        {"padding": (1, 0)},
        {"padding_mode": "reflect"},
        {"kernel_size": 7},
        {"out_channels": 8},
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(options):
    plain = {"in_channels": 4, "out_channels": 4, "kernel_size": 3, "padding": 1, "groups": 4, "bias": False}
    assert is_depthwise(nn.Conv2d(**plain))
    assert not is_depthwise(nn.Conv2d(**plain | options))


def test_losses_of_a_short_training_are_those_of_fp32_within_noise():
    """The task is to find bright squares, from the same start and images: plain in fp32, by the fast path in bf16."""

    def losses(fast: bool) -> list[float]:
        torch.manual_seed(0)
        model = create_model(SMALL, num_classes=1, in_channels=1, dropout=0.0, stochastic_depth=0.0).train()
        if fast:
            accelerate_training(model)
        optimizer = torch.optim.AdamW(model.parameters(), lr=8e-3)
        generator, found = torch.Generator().manual_seed(0), []
        for _ in range(40):
            targets = torch.arange(16) % 2
            images = 0.3 * torch.randn(16, 1, 48, 48, generator=generator)
            images[targets == 1, :, 16:28, 16:28] += 1
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                logits = model(images)
            loss = F.binary_cross_entropy_with_logits(logits.float()[:, 0], targets.float())
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        return found

    exact, low = losses(False), losses(True)
    assert exact[0] == pytest.approx(low[0], rel=0.05)
    assert max(sorted(values[-20:])[10] for values in (exact, low)) < 0.1, (exact, low)


def test_bf16_units_are_found_in_the_systems_list(monkeypatch, tmp_path):
    for flags, expected in (("fpu avx512f avx512_bf16", True), ("fpu amx_bf16 amx_tile", True), ("fpu avx2", False)):
        listing = tmp_path / "cpuinfo"
        listing.write_text(f"processor : 0\nflags\t\t: {flags}\n\nprocessor : 1\nflags\t\t: {flags}\n")
        monkeypatch.setattr("efficientnet.common.cpu.Path", lambda _, listing=listing: listing)
        assert has_bf16_units() is expected
    monkeypatch.setattr("efficientnet.common.cpu.Path", lambda _: tmp_path / "none")
    assert has_bf16_units() is False
