"""The fast path for training on a CPU: less memory, and faster gradients of depthwise convolutions.

bf16 halves memory traffic, and processors with bf16 units multiply bf16 several times as fast as fp32. For an
EfficientNet, bf16 autocast alone gains nothing, because two gradients of depthwise convolutions are slow in bf16: the
gradient of a 5x5 kernel, and the gradient of the input at stride 2. Together they take longer than the rest of a step
(B0 at 224 pixels, 16 images, two cores of a Zen 4: 840 of 1,300 ms). `Depthwise` reduces the 840 ms to 100:

    - it assembles the gradient of a 5x5 kernel from four gradients of 3x3 kernels, which are fast (see
      `gradient_of_5x5`);
    - it computes the gradient of the input at stride 2 in fp32.

In fp32, the gradient of a 5x5 kernel is as slow on images with a side below 5, which the last stages see when a network
trains on small images, and is assembled in the same way.

`NormSwish` saves memory: batch norm's output is computed again from its input instead of kept for Swish's gradient.

All results equal PyTorch's up to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from efficientnet.layers import ConvNormAct, SqueezeExcitation, same_padding


def accelerate_training(model: nn.Module, precision: str = "bf16") -> None:
    """Replace layers of the model by those of this module, in place.

    The computed function, its gradients, and the parameters and their names do not change. The replacement pays off on
    a CPU in the channels_last layout: with bf16 units (`cpu.has_bf16_units`) under bf16 autocast, and in fp32, where
    squeeze-excitations and 3x3 kernels stay as they are.
    """
    in_bf16 = precision == "bf16"
    for parent in list(model.modules()):
        for name, module in list(parent.named_children()):
            if isinstance(module, nn.Conv2d) and is_depthwise(module):
                if in_bf16 or module.kernel_size == (5, 5):
                    setattr(parent, name, DepthwiseConvolution(module))
            elif in_bf16 and isinstance(module, SqueezeExcitation):
                setattr(parent, name, LinearSqueezeExcitation(module))
            elif type(module) is ConvNormAct and type(module.norm) is nn.BatchNorm2d and type(module.act) is nn.SiLU:
                module.__class__ = ConvNormSwish


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether `Depthwise` can compute the convolution."""
    square = conv.kernel_size in ((3, 3), (5, 5)) and conv.stride in ((1, 1), (2, 2)) and conv.dilation == (1, 1)
    padded = conv.padding in ((0, 0), (1, 1), (2, 2)) and conv.padding_mode == "zeros"
    return square and padded and conv.bias is None and conv.groups == conv.in_channels == conv.out_channels > 1


class DepthwiseConvolution(nn.Conv2d):
    """A depthwise convolution computed by `Depthwise`, with the parameter of an existing `nn.Conv2d`."""

    def __init__(self, conv: nn.Conv2d) -> None:
        sides = conv.kernel_size, conv.stride, conv.padding
        # The weight is replaced below. On "meta", it takes neither memory nor random numbers.
        super().__init__(conv.in_channels, conv.out_channels, *sides, groups=conv.groups, bias=False, device="meta")
        self.weight = conv.weight

    def forward(self, x: Tensor) -> Tensor:
        return Depthwise.apply(x, self.weight, self.stride[0], self.padding[0])


class LinearSqueezeExcitation(SqueezeExcitation):
    """A `SqueezeExcitation` with faster operators and the submodules of an existing one.

    Its convolutions act on a single pixel and are computed as linear layers. Its mean is computed by average pooling.
    """

    def __init__(self, gate: SqueezeExcitation) -> None:
        with torch.device("meta"):
            super().__init__(gate.squeeze.in_channels, gate.squeeze.out_channels)
        self.squeeze, self.expand = gate.squeeze, gate.expand

    def forward(self, x: Tensor) -> Tensor:
        gate = F.avg_pool2d(x, x.shape[2:]).flatten(1)  # (N, C)
        gate = self.act(F.linear(gate, as_matrix(self.squeeze.weight), self.squeeze.bias))
        gate = F.linear(gate, as_matrix(self.expand.weight), self.expand.bias)
        return x * gate.sigmoid()[:, :, None, None]


class ConvNormSwish(ConvNormAct):
    """A `ConvNormAct` with Swish that keeps less memory for the backward pass."""

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        if not norm.training:
            return super().forward(x)
        if self.pads_itself:
            x = F.pad(x, same_padding(x, self.conv.kernel_size[0]))
        norm.num_batches_tracked.add_(1)
        statistics = norm.running_mean, norm.running_var, norm.momentum, norm.eps
        return NormSwish.apply(self.conv(x), norm.weight, norm.bias, *statistics)


def as_matrix(kernel: Tensor) -> Tensor:
    """Reshape (O, I, 1, 1) to (O, I). The permutation gives the gradient the channels_last layout."""
    return kernel.permute(0, 2, 3, 1).flatten(1)


class NormSwish(torch.autograd.Function):
    """Batch norm in training, then Swish, of x (N, C, H, W). It keeps x, and not batch norm's output."""

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        running_mean: Tensor,
        running_var: Tensor,
        momentum: float,
        eps: float,
    ) -> Tensor:
        result, mean, inverse_deviation = torch.native_batch_norm(
            x, weight, bias, running_mean, running_var, True, momentum, eps
        )
        ctx.save_for_backward(x, weight, bias, mean, inverse_deviation)
        ctx.eps = eps
        return F.silu(result, inplace=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, inverse_deviation = ctx.saved_tensors
        variance = inverse_deviation**-2 - ctx.eps
        result = F.batch_norm(x, mean, variance, weight, bias, eps=ctx.eps)
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        gradient = torch.ops.aten.silu_backward.grad_input(gradient, result, grad_input=result)
        gradients = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, None, None, mean, inverse_deviation, True, ctx.eps, ctx.needs_input_grad[:3]
        )
        return *gradients, None, None, None, None


class Depthwise(torch.autograd.Function):
    """`F.conv2d` of x (N, C, H, W) and a weight (C, 1, k, k) with C groups; k is 3 or 5."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        kernel = weight.to(x.dtype)
        ctx.save_for_backward(x, kernel)
        ctx.weight_dtype, ctx.stride, ctx.padding = weight.dtype, stride, padding
        return F.conv2d(x, kernel, None, stride, padding, 1, x.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, kernel = ctx.saved_tensors
        stride, padding = ctx.stride, ctx.padding
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = of_kernel = None
        if ctx.needs_input_grad[0]:
            of_x = gradient_of_input(gradient, x, kernel, stride, padding)
        if ctx.needs_input_grad[1]:
            if kernel.shape[-1] == 5 and (x.dtype != torch.float32 or min(x.shape[2:]) < 5):
                of_kernel = gradient_of_5x5(gradient, x, stride, padding)
            else:
                of_kernel = gradient_of_kernel(gradient, x, kernel.shape[-1], stride, padding)
            # Match the kernel's strides exactly, even for sides of length 1; otherwise DDP copies the gradient.
            of_kernel = torch.empty_like(kernel, dtype=ctx.weight_dtype).copy_(of_kernel)
        return of_x, of_kernel, None, None


def gradient_of_input(gradient: Tensor, x: Tensor, kernel: Tensor, stride: int, padding: int) -> Tensor:
    """PyTorch's own input gradient. With a stride, use the fp32 kernel, 20 to 50 times as fast as the bf16 kernel."""
    dtype = x.dtype
    if stride > 1 and dtype in (torch.bfloat16, torch.float16):
        # This gradient depends only on the shape of x, not on its values.
        gradient, x, kernel = gradient.float(), torch.empty_like(x, dtype=torch.float32), kernel.float()
    return convolution_backward(gradient, x, kernel, stride, padding, (True, False, False))[0].to(dtype)


def gradient_of_kernel(gradient: Tensor, x: Tensor, size: int, stride: int, padding: int) -> Tensor:
    """PyTorch's own kernel gradient: (N, C, H', W') and (N, C, H, W) -> (C, 1, size, size)."""
    kernel = x.new_empty(x.shape[1], 1, size, size)  # only its shape matters
    return convolution_backward(gradient, x, kernel, stride, padding, (False, True, False))[1]


def gradient_of_5x5(gradient: Tensor, x: Tensor, stride: int, padding: int) -> Tensor:
    """The gradient of a 5x5 kernel from four gradients of 3x3 kernels.

    Entry (i, j) is the sum over (y, x) of gradient[y, x] * p[stride * y + i, stride * x + j], where p is the padded
    image. Write i = a + i' with a = 0 or 2 and i' in 0..2, and j = b + j' likewise. Then entry (i, j) is entry (i', j')
    of the gradient of a 3x3 kernel on p without its first a rows and b columns. The middle row and column are computed
    twice, with the same result.
    """
    padded = F.pad(x, (padding, padding, padding, padding)) if padding else x
    height, width = (stride * (side - 1) + 3 for side in gradient.shape[2:])
    result = x.new_empty(x.shape[1], 1, 5, 5)
    for a in (0, 2):
        for b in (0, 2):
            part = padded[:, :, a : a + height, b : b + width].contiguous(memory_format=torch.channels_last)
            result[..., a : a + 3, b : b + 3] = gradient_of_kernel(gradient, part, 3, stride, 0)
    return result


def convolution_backward(
    gradient: Tensor, x: Tensor, kernel: Tensor, stride: int, padding: int, wanted: tuple[bool, bool, bool]
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of a depthwise convolution's input, kernel and bias that `wanted` selects."""
    sides = [stride, stride], [padding, padding], [1, 1]
    return torch.ops.aten.convolution_backward(
        gradient, x, kernel, None, *sides, False, [0, 0], x.shape[1], list(wanted)
    )
