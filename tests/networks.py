"""Networks whose values neither explode nor vanish, and how their logits are compared."""

import copy

import torch
from torch import nn


def randomised(model: nn.Module) -> nn.Module:
    """The model in evaluation, with random factors and summands of batch norm and the statistics of some images.

    Without the statistics, values grow too large in a deep network to be compared.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.8, 1.2)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, model.in_channels, 64, 96))
    return model.eval()


def assert_as_exact(fast: nn.Module, model: nn.Module, images: torch.Tensor) -> None:
    """Logits are within 1e-5 of float64's, or within ten times the network's own error if that is larger."""
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(images.double()).float()
        assert difference(fast(images), exact) < max(1e-5, 10 * difference(model(images), exact))


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the largest value."""
    assert found.shape == expected.shape and found.dtype == expected.dtype
    return float((found - expected).abs().max() / expected.abs().max())
