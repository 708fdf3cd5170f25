"""The fast path for training on a CPU: bf16 autocast, without what bf16 is slow at.

Under autocast PyTorch multiplies in bf16, which halves what has to be moved; processors with units for bf16 multiply
it several times as fast as fp32. For an EfficientNet that alone gains nothing: of the backward passes of depthwise
convolutions two are slow in bf16, the gradient of a 5x5 kernel and that of the input at stride 2, and take longer than
all the rest of a step (B0 at 224 pixels, 16 images, two cores of a Zen 4: 840 of 1,300 ms). But

    - the gradient of a 5x5 kernel is made of four gradients of 3x3 kernels, on images that are shifted by 0 or 2 pixels
      (see `gradient_of_5x5`), and those are fast;
    - the gradient of the input of a convolution with stride 2 is fast in fp32.

Together they bring the 840 down to 100, and `Depthwise` is the convolution that does so. Its results are those of
PyTorch's own but for rounding, and whatever else is as in layers.py: the modules keep their parameters and names.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F

from efficientnet.layers import SqueezeExcitation


def accelerate_training(model: nn.Module) -> None:
    """Makes the model's depthwise convolutions and squeeze-excitations those of this module.

    In place: the same parameters under the same names, the same function, the same gradients.  They pay on a CPU with
    units for bf16 (`cpu.has_bf16_units`), in channels_last and under autocast to bf16.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and is_depthwise(module):
            module.__class__ = DepthwiseConvolution
        elif type(module) is SqueezeExcitation:
            module.__class__ = LinearSqueezeExcitation


def is_depthwise(conv: nn.Conv2d) -> bool:
    """Whether it is one that `Depthwise` computes."""
    square = conv.kernel_size in ((3, 3), (5, 5)) and conv.stride in ((1, 1), (2, 2)) and conv.dilation == (1, 1)
    padded = conv.padding in ((0, 0), (1, 1), (2, 2)) and conv.padding_mode == "zeros"
    return square and padded and conv.bias is None and conv.groups == conv.in_channels == conv.out_channels > 1


class DepthwiseConvolution(nn.Conv2d):
    """A depthwise `nn.Conv2d` without bias that goes back through `Depthwise`."""

    def forward(self, x: Tensor) -> Tensor:
        return Depthwise.apply(x, self.weight, self.stride[0], self.padding[0])


class LinearSqueezeExcitation(SqueezeExcitation):
    """`SqueezeExcitation` with its convolutions of one pixel as the linear layers that they are, and its mean by the
    kernel of average pooling, both of which are faster."""

    def forward(self, x: Tensor) -> Tensor:
        gate = F.avg_pool2d(x, x.shape[2:]).flatten(1)  # (N, C)
        gate = self.act(F.linear(gate, as_matrix(self.squeeze.weight), self.squeeze.bias))
        gate = F.linear(gate, as_matrix(self.expand.weight), self.expand.bias)
        return x * gate.sigmoid()[:, :, None, None]


def as_matrix(kernel: Tensor) -> Tensor:
    """(O, I, 1, 1) -> (O, I), such that the gradient comes back in the layout of channels_last."""
    return kernel.permute(0, 2, 3, 1).flatten(1)


class Depthwise(torch.autograd.Function):
    """(N, C, H, W), (C, 1, k, k) with k 3 or 5, stride, padding -> as `F.conv2d` with C groups."""

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
            if kernel.shape[-1] == 5 and x.dtype != torch.float32:
                of_kernel = gradient_of_5x5(gradient, x, stride, padding)
            else:
                of_kernel = gradient_of_kernel(gradient, x, kernel.shape[-1], stride, padding)
            # In memory as the kernel, to the stride of a side of one, or DDP copies it.
            of_kernel = torch.empty_like(kernel, dtype=ctx.weight_dtype).copy_(of_kernel)
        return of_x, of_kernel, None, None


def gradient_of_input(gradient: Tensor, x: Tensor, kernel: Tensor, stride: int, padding: int) -> Tensor:
    """PyTorch's own; with a stride in fp32, whose kernel is 20 to 50 times as fast there as that of bf16."""
    dtype = x.dtype
    if stride > 1 and dtype in (torch.bfloat16, torch.float16):
        # Of x this gradient needs the shape only.
        gradient, x, kernel = gradient.float(), torch.empty_like(x, dtype=torch.float32), kernel.float()
    return convolution_backward(gradient, x, kernel, stride, padding, (True, False, False))[0].to(dtype)


def gradient_of_kernel(gradient: Tensor, x: Tensor, size: int, stride: int, padding: int) -> Tensor:
    """PyTorch's own: (N, C, H', W') and (N, C, H, W) -> (C, 1, size, size)."""
    kernel = x.new_empty(x.shape[1], 1, size, size)  # of which it needs the shape only
    return convolution_backward(gradient, x, kernel, stride, padding, (False, True, False))[1]


def gradient_of_5x5(gradient: Tensor, x: Tensor, stride: int, padding: int) -> Tensor:
    """The gradient of a 5x5 kernel from four of 3x3 kernels.

    Of the padded image p, entry (i, j) is the sum over (y, x) of gradient[y, x] * p[stride * y + i, stride * x + j].
    For i = a + i' with a = 0 or 2 and i' in 0..2, and j likewise, that is entry (i', j') of the gradient of a 3x3
    kernel on p without its first a rows and b columns.  The row and the column in the middle come out twice, alike.
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
    """Gradients of input, kernel and bias of a depthwise convolution, those that are wanted."""
    sides = [stride, stride], [padding, padding], [1, 1]
    return torch.ops.aten.convolution_backward(
        gradient, x, kernel, None, *sides, False, [0, 0], x.shape[1], list(wanted)
    )
