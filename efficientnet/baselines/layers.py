"""Blocks of the other baselines that the paper scales, MobileNetV1 and ResNet, and of MnasNet's search space.

MobileNetV2's inverted residual is `layers.MBConv` without squeeze-excitation and with ReLU6.
Tensors are (N, C, H, W) throughout.
"""

from __future__ import annotations

import functools

from torch import Tensor, nn
from torch.nn import functional as F

from efficientnet.layers import ACTIVATIONS, AUTHORS, Convention, ConvNormAct, StochasticDepth, same_padding


class DepthwiseSeparable(nn.Module):
    """MobileNetV1's block: a kxk convolution of each channel alone, then a 1x1 convolution across channels.

    Norm and activation follow both. There is no residual.
    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        convention: Convention = AUTHORS,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        conv = functools.partial(ConvNormAct, activation=activation, convention=convention)
        self.depthwise = conv(in_channels, in_channels, kernel_size, stride, groups=in_channels)
        self.pointwise = conv(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise(self.depthwise(x))


class Bottleneck(nn.Module):
    """ResNet's bottleneck: 1x1 down to out_channels / expansion, kxk with the stride, 1x1 up, plus the input.

    If the shape changes, the input goes through a strided 1x1 convolution. The activation follows the sum.
    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        expansion: int = 4,
        stochastic_depth: float = 0.0,
        convention: Convention = AUTHORS,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        inner = out_channels // expansion
        conv = functools.partial(ConvNormAct, convention=convention)
        self.reduce = conv(in_channels, inner, 1, activation=activation)
        self.spatial = conv(inner, inner, kernel_size, stride, activation=activation)
        self.restore = conv(inner, out_channels, 1, activation=None)
        self.stochastic_depth = StochasticDepth(stochastic_depth)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same_shape else conv(in_channels, out_channels, 1, stride, activation=None)
        self.act = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        branch = self.restore(self.spatial(self.reduce(x)))
        return self.act(self.shortcut(x) + self.stochastic_depth(branch))


class PlainConvolution(nn.Module):
    """A kxk convolution with norm and activation, plus the input if its shape does not change and `skip` is True.

    The regular convolution of MnasNet's search space (Tan et al. 2019, arXiv 1807.11626, section 4.1).
    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        stochastic_depth: float = 0.0,
        convention: Convention = AUTHORS,
        activation: str = "swish",
        skip: bool = True,
    ) -> None:
        super().__init__()
        self.has_residual = skip and stride == 1 and in_channels == out_channels
        self.conv = ConvNormAct(
            in_channels, out_channels, kernel_size, stride, activation=activation, convention=convention
        )
        self.stochastic_depth = StochasticDepth(stochastic_depth if self.has_residual else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.conv(x)
        return x + self.stochastic_depth(branch) if self.has_residual else branch


class MaxPool(nn.Module):
    """The maximum of each kxk window, ignoring padding.

    (N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, kernel_size: int, stride: int, convention: Convention = AUTHORS) -> None:
        super().__init__()
        self.pads_itself = convention.padding == "same" and stride > 1 and kernel_size > 1
        self.pool = nn.MaxPool2d(kernel_size, stride, padding=0 if self.pads_itself else kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.pads_itself:
            x = F.pad(x, same_padding(x, self.pool.kernel_size), value=float("-inf"))
        return self.pool(x)
