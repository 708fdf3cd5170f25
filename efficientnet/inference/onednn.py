"""Convolutions fused with an activation or a sum by oneDNN, on a CPU.

`torch.compile` uses the same operators. They have no public interface; `onednn_fuses` tests whether this PyTorch has
them.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efficientnet.inference.folded import FoldedConvolution

# oneDNN post-op names and parameters.
ONEDNN_NAMES: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.SiLU: ("swish", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.ReLU: ("relu", []),
    nn.Identity: ("none", []),
}


class FusedConvolution(FoldedConvolution):
    """`FoldedConvolution` with the activation or the sum inside the convolution.

    oneDNN reads weights in blocks, in a layout that depends on the input's shape. Given a plain weight, it makes the
    blocks again in every call, which takes a fifth of B0's time for one image. This layer makes them once, at the third
    input in a row of the same shape, and keeps them. For another shape it first restores the plain weight, since making
    blocks from other blocks takes several times as long.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.post_op = ONEDNN_NAMES[type(self.act)]
        self.geometry = (self.padding,) * 2, (self.stride,) * 2, (1, 1), self.groups
        # Shape of the last input, number of inputs in a row with it (up to 3), weight for it. One tuple, replaced in
        # one assignment, so that threads may share the layer. Not a buffer, since blocks can be neither copied nor
        # saved. No plain weight is kept beside it, since that would double the memory.
        self.cached: tuple[torch.Size | None, int, Tensor] = None, 0, self.weight
        del self.weight

    def forward(self, x: Tensor, summand: Tensor | None = None) -> Tensor:
        x = self.aligned(x)
        weight = self.weight_for(x.shape)
        if summand is None:
            return fused_convolution(x, weight, self.bias, self.geometry, *self.post_op)
        return self.act(fused_sum(x, weight, self.bias, self.geometry, summand))

    def weight_for(self, shape: torch.Size) -> Tensor:
        """The weight for an input of this shape, in blocks from the third such input in a row."""
        last_shape, count, weight = self.cached
        if shape != last_shape:
            count, weight = 0, self.plain_weight()
        elif count == 2:
            weight = in_blocks(weight, self.geometry, shape)
        if count < 3:
            self.cached = shape, count + 1, weight
        return weight

    def plain_weight(self) -> Tensor:
        weight = self.cached[2]
        return weight.to_dense().contiguous(memory_format=torch.channels_last) if weight.is_mkldnn else weight

    def get_extra_state(self) -> Tensor:
        """The plain weight, for `state_dict`."""
        return self.plain_weight()

    def set_extra_state(self, weight: Tensor) -> None:
        self.cached = None, 0, self.plain_weight().copy_(weight)

    def __getstate__(self) -> dict[str, Any]:
        """The state for copies and pickles, with the plain weight."""
        return {**self.__dict__, "cached": (None, 0, self.plain_weight())}


def fused_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, geometry: tuple, activation: str, values: list[float]
) -> Tensor:
    """A convolution, then an activation: its oneDNN name and its parameters (`values`).

    geometry: padding, stride and dilation, each for both directions, and the number of groups.
    """
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *geometry, activation, values, "")


def fused_sum(x: Tensor, weight: Tensor, bias: Tensor, geometry: tuple, summand: Tensor) -> Tensor:
    """A convolution, plus `summand`, a tensor of the output's shape."""
    operator = torch.ops.mkldnn._convolution_pointwise.binary
    return operator(x, summand, weight, bias, *geometry, "add", 1.0, None, [], None)


def in_blocks(weight: Tensor, geometry: tuple, input_shape: Sequence[int]) -> Tensor:
    """The weight in oneDNN's own layout for inputs of this shape."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(input_shape))


@functools.cache
def onednn_fuses(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has the fused operators and they compute the same as the separate ones.

    Private operators change without notice, so try them instead of checking PyTorch's version.
    """
    x, weight = torch.linspace(-2, 2, 64).reshape(1, 4, 4, 4).to(dtype), torch.linspace(-1, 1, 16).reshape(4, 4, 1, 1)
    weight, bias, geometry = weight.to(dtype), torch.linspace(-1, 1, 4).to(dtype), ((0, 0), (1, 1), (1, 1), 1)
    plain = F.conv2d(x, weight, bias)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    try:
        pairs = [
            (fused_convolution(x, weight, bias, geometry, *post_op), kind()(plain))
            for kind, post_op in ONEDNN_NAMES.items()
        ]
        pairs.append((fused_sum(x, in_blocks(weight, geometry, x.shape), bias, geometry, x), plain + x))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return all(torch.allclose(found.float(), expected.float(), atol=tolerance) for found, expected in pairs)
