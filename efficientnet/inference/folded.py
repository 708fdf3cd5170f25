"""The layers of the fast path: convolutions with folded batch norm, and the blocks made of them.

Tensors are (N, C, H, W) in channels_last layout. See fast_path.py for the reasons.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efficientnet.baselines.layers import Bottleneck, PlainConvolution
from efficientnet.layers import ConvNormAct, MBConv, SqueezeExcitation, same_padding


class FoldedConvolution(nn.Module):
    """`ConvNormAct` in evaluation: a convolution with a bias, then an optional sum, then the activation.

    x (N, in_channels, H, W), and a summand of the output's shape or None
    -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, layer: ConvNormAct, act: nn.Module, dtype: torch.dtype, mirrored: bool) -> None:
        super().__init__()
        conv, norm = layer.conv, layer.norm
        factor = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
        weight = conv.weight.detach().double() * factor.detach()[:, None, None, None]
        bias = norm.bias.detach().double() - norm.running_mean.double() * factor.detach()
        weight = (weight.flip(-2, -1) if mirrored else weight).to(dtype)
        self.register_buffer("weight", weight.contiguous(memory_format=torch.channels_last))
        self.register_buffer("bias", bias.to(dtype))
        self.kernel_size, self.stride, self.groups = conv.kernel_size[0], conv.stride[0], conv.groups
        self.pads_itself = layer.pads_itself and not mirrored
        self.padding = 0 if self.pads_itself else self.kernel_size // 2
        # A strided 1x1 convolution reads the even pixels. If the size is even, these are the mirror image's odd pixels.
        self.skips_first = mirrored and self.kernel_size == 1 and self.stride == 2
        self.act = type(act)()

    def forward(self, x: Tensor, summand: Tensor | None = None) -> Tensor:
        x = F.conv2d(self.aligned(x), self.weight, self.bias, self.stride, self.padding, 1, self.groups)
        return self.act(x if summand is None else x + summand)

    def aligned(self, x: Tensor) -> Tensor:
        """The input, padded, or without its first row or column if the stride has to begin one pixel later."""
        if self.pads_itself:
            return F.pad(x, same_padding(x, self.kernel_size))
        return x[:, :, (x.shape[2] + 1) % 2 :, (x.shape[3] + 1) % 2 :] if self.skips_first else x


class Gate(nn.Module):
    """`SqueezeExcitation` as two linear layers on the means. (N, C, H, W) -> the same tensor, gated in place."""

    def __init__(self, layer: SqueezeExcitation, dtype: torch.dtype, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.squeeze, self.expand = as_linear(layer.squeeze, dtype), as_linear(layer.expand, dtype)
        self.act = type(layer.act)()

    def forward(self, x: Tensor) -> Tensor:
        gate = self.act(self.squeeze(mean_of_pixels(x, self.pooled)))  # (N, squeezed)
        return x.mul_(self.expand(gate).sigmoid_()[:, :, None, None])


class FoldedMBConv(nn.Module):
    """`MBConv` in evaluation, where stochastic depth is the identity."""

    def __init__(self, block: MBConv, rewrite: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.has_residual = block.has_residual
        self.expand, self.depthwise = rewrite(block.expand), rewrite(block.depthwise)
        self.gate, self.project = rewrite(block.gate), rewrite(block.project)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.gate(self.depthwise(self.expand(x)))
        return self.project(branch, x if self.has_residual else None)


class FoldedBottleneck(nn.Module):
    """ResNet's `Bottleneck` in evaluation. The activation after the sum is part of the last convolution."""

    def __init__(self, block: Bottleneck, rewrite: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.reduce, self.spatial = rewrite(block.reduce), rewrite(block.spatial)
        self.restore, self.shortcut = rewrite(block.restore, block.act), rewrite(block.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.restore(self.spatial(self.reduce(x)), self.shortcut(x))


class FoldedPlainConvolution(nn.Module):
    """`PlainConvolution` in evaluation. Its activation is before the sum."""

    def __init__(self, block: PlainConvolution, rewrite: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.has_residual, self.conv = block.has_residual, rewrite(block.conv)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.has_residual else self.conv(x)


class AsItIs(nn.Module):
    """A copy of a layer that the fast path does not know, in evaluation, in fp32 and in contiguous layout."""

    def __init__(self, layer: nn.Module, name: str) -> None:
        super().__init__()
        self.layer = copy_of(layer, name)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float().contiguous()).to(x.dtype, memory_format=torch.channels_last)


def copy_of(module: nn.Module, name: str) -> nn.Module:
    """A copy in fp32 that needs no gradient. Raises TypeError with the module's name if it cannot be copied."""
    try:
        return copy.deepcopy(module).float().requires_grad_(False)
    except Exception as error:  # a user's class may raise anything
        raise TypeError(f"{name} ({type(module).__name__}) cannot be copied: {error}") from error


def as_linear(conv: nn.Conv2d, dtype: torch.dtype) -> nn.Linear:
    """A linear layer that computes for one pixel what the 1x1 convolution does for each. Its weights are a copy."""
    linear = nn.Linear(conv.in_channels, conv.out_channels, device="meta")  # the weights follow
    linear.weight = nn.Parameter(conv.weight.detach().flatten(1).to(dtype, copy=True), requires_grad=False)
    linear.bias = nn.Parameter(conv.bias.detach().to(dtype, copy=True), requires_grad=False)
    return linear


def mean_of_pixels(x: Tensor, pooled: bool) -> Tensor:
    """The mean over the pixels: (N, C, H, W) -> (N, C).

    pooled: use average pooling, whose bf16 kernel on a CPU is several times as fast as `mean`. The kernel adds pixel by
    pixel, and one long sum would lose digits, so average each row first, then the row means.
    """
    if not pooled:
        return x.mean((2, 3))
    return F.avg_pool2d(F.avg_pool2d(x, (1, x.shape[3])), (x.shape[2], 1)).flatten(1)
