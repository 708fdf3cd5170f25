"""The fast path for prediction: the same function as the model that it is made from, in fewer steps.

`optimize_for_inference` rewrites a trained network. Each step is exact but for rounding:

    folded      Batch norm in evaluation is a factor and a summand for each channel. The factor goes into the weights of
                the convolution before it, the summand becomes its bias.
    mirrored    TensorFlow's SAME padding of a stride-2 convolution gives an even size one pixel less before than after,
                which no convolution of PyTorch does by itself: the teaching path copies the tensor with its borders.
                In a mirror, where the last row comes first, it is the symmetric padding by kernel_size // 2 that every
                convolution has built in; an odd size is padded symmetrically in either case. So the image is mirrored
                once, top to bottom and left to right, and every kernel with it.
    laid out    Channels last: the channels of a pixel lie side by side, and a 1x1 convolution is a matrix product.
    fused       On a CPU the activation, and the sum with the block's input, are part of the convolution before them,
                done while its results are in the cache; and weights lie in the blocks that its kernel reads.
    gated       The two convolutions of squeeze-excitation see one pixel and are linear layers; the gate is multiplied
                in place; the mean over the pixels is taken by the kernel of average pooling.
    precision   bf16 halves what has to be moved, and is multiplied faster where the processor has units for it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efficientnet.baselines.layers import Bottleneck, DepthwiseSeparable, MaxPool
from efficientnet.inference.precision import PRECISIONS, autocast
from efficientnet.layers import ConvNormAct, MBConv, SqueezeExcitation
from efficientnet.model import EfficientNet, check_input, last_of_each_resolution

# What oneDNN calls them, with their parameters.
ONEDNN_NAMES: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.SiLU: ("swish", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.ReLU: ("relu", []),
    nn.Identity: ("none", []),
}


def optimize_for_inference(
    model: EfficientNet,
    precision: str = "fp32",
    *,
    fused: bool | None = None,
    compile: bool = False,
    cuda_graph: bool = False,
) -> InferenceModel:
    """A copy of the model for prediction on its device, of the same weights; the model itself stays as it is.

    precision: "fp32", "bf16" or "fp16".  On a CPU weights and activations are of that type, on CUDA it is autocast's;
        logits are float32 always.
    fused: let oneDNN do activations within convolutions.  None: on a CPU, where this PyTorch can.  False leaves
        PyTorch's public operators only, as an export needs.
    compile: `torch.compile` on top, which takes half a minute for a new kind of input.
    cuda_graph: record the kernels for each shape of input and replay them, which spares small batches the launches.

    Raises ValueError for another precision, where `fused` or `cuda_graph` cannot be, and for `fused` with `compile`;
    TypeError for a model with layers that are not those of `EfficientNet`.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    device = model.classifier.weight.device
    can_fuse = device.type == "cpu" and onednn_fuses(PRECISIONS[precision])
    if fused and not can_fuse:
        raise ValueError(f"this PyTorch fuses no {precision} convolutions on {device.type}: leave fused out")
    if fused and compile:
        raise ValueError("fused and compile are two ways to the same, of which only one can be")
    if cuda_graph and device.type != "cuda":
        raise ValueError(f"a CUDA graph needs a model on CUDA, and this one is on {device.type}: leave cuda_graph out")
    fused = (can_fuse and not compile) if fused is None else fused
    result = InferenceModel(model, precision, fused)
    if compile:
        result.compile_network()
    if cuda_graph:
        result.run = RecordedCalls(result.run)
    return result


class InferenceModel(nn.Module):
    """What `optimize_for_inference` returns: (N, in_channels, H, W) -> float32 logits (N, num_classes).

    Any H and W from 32 pixels, as `EfficientNet`, of which it has `stages`, `in_channels`, `num_classes`,
    `num_features`, `forward_features` and `feature_maps`.  It is for prediction: no gradient goes through it, and
    `train()` changes nothing.
    """

    def __init__(self, model: EfficientNet, precision: str, fused: bool) -> None:
        super().__init__()
        self.stages, self.in_channels, self.num_classes = model.stages, model.in_channels, model.num_classes
        self.num_features = model.num_features
        self.precision = precision
        self.on_cpu = model.classifier.weight.device.type == "cpu"
        self.dtype = PRECISIONS[precision] if self.on_cpu else torch.float32
        self.pooled = fused and self.dtype == torch.bfloat16
        self.mirrored = model.convention.padding == "same"
        rewrite = functools.partial(
            rewritten, dtype=self.dtype, fused=fused, mirrored=self.mirrored, pooled=self.pooled
        )
        self.stem, self.head = rewrite(model.stem), rewrite(model.head)
        self.body = nn.ModuleList(map(rewrite, model.body))
        self.classifier = copy.deepcopy(model.classifier).to(self.dtype).requires_grad_(False)
        self.run: Callable[[Tensor], Tensor] = self.logits
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        check_input(x, self.in_channels)
        return self.run(x)

    def logits(self, x: Tensor) -> Tensor:
        """`forward` without its check of the input."""
        with self.autocast():
            *_, x = self.stage_outputs(x)
            return self.classifier(mean_of_pixels(self.head(x), self.pooled)).float()

    def forward_features(self, x: Tensor) -> Tensor:
        """See `EfficientNet.forward_features`."""
        check_input(x, self.in_channels)
        with self.autocast():
            *_, x = self.stage_outputs(x)
            return self.unmirrored(self.head(x))

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """See `EfficientNet.feature_maps`."""
        check_input(x, self.in_channels)
        with self.autocast():
            return [self.unmirrored(x) for x in last_of_each_resolution(self.stages, self.stage_outputs(x))]

    def stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """The output of the stem and of each stage between it and the head, in order, mirrored where the model is."""
        x = x.flip(-2, -1) if self.mirrored else x
        x = self.stem(x.to(self.dtype, memory_format=torch.channels_last))
        yield x
        for stage in self.body:
            x = stage(x)
            yield x

    def unmirrored(self, x: Tensor) -> Tensor:
        return (x.flip(-2, -1) if self.mirrored else x).float()

    def autocast(self) -> contextlib.AbstractContextManager:
        return contextlib.nullcontext() if self.on_cpu else autocast(torch.device("cuda"), self.precision)

    def train(self, mode: bool = True) -> InferenceModel:
        return super().train(False)

    def compile_network(self) -> None:
        """`torch.compile` with the weights as constants, which it then lays out once for its kernels."""
        import torch._inductor.config as inductor

        compiled = torch.compile(self.logits)

        def run(x: Tensor) -> Tensor:
            with inductor.patch(freezing=True), torch.no_grad():
                return compiled(x)

        self.run = run


class RecordedCalls:
    """A function of one CUDA tensor whose kernels are recorded at the first call for each shape, and then replayed."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self.function = function
        self.recorded: dict[Any, tuple[torch.cuda.CUDAGraph, Tensor, Tensor]] = {}

    @torch.no_grad()
    def __call__(self, x: Tensor) -> Tensor:
        key = (x.shape, x.dtype, x.is_contiguous())
        if key not in self.recorded:
            given, graph = x.clone(), torch.cuda.CUDAGraph()
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):  # libraries choose their kernels in the first calls
                for _ in range(3):
                    self.function(given)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(graph):
                result = self.function(given)
            self.recorded[key] = graph, given, result
        graph, given, result = self.recorded[key]
        given.copy_(x)
        graph.replay()
        return result.clone()


def rewritten(
    module: nn.Module, act: nn.Module | None = None, *, dtype: torch.dtype, fused: bool, mirrored: bool, pooled: bool
) -> nn.Module:
    """The module as the fast path has it.  act: of a convolution, instead of its own."""
    again = functools.partial(rewritten, dtype=dtype, fused=fused, mirrored=mirrored, pooled=pooled)
    if isinstance(module, ConvNormAct):
        kind = FusedConvolution if fused else FoldedConvolution
        return kind(module, act or module.act, dtype, mirrored)
    if isinstance(module, SqueezeExcitation):
        return Gate(module, dtype, pooled)
    if isinstance(module, MBConv):
        return FoldedMBConv(module, again)
    if isinstance(module, Bottleneck):
        return FoldedBottleneck(module, again)
    if isinstance(module, DepthwiseSeparable):
        return nn.Sequential(again(module.depthwise), again(module.pointwise))
    if isinstance(module, MaxPool):  # symmetric padding, as the convolutions
        return nn.MaxPool2d(module.pool.kernel_size, module.pool.stride, module.pool.kernel_size // 2)
    if isinstance(module, nn.Sequential):
        return nn.Sequential(*map(again, module))
    if isinstance(module, nn.Identity):
        return module
    raise TypeError(f"the fast path knows no {type(module).__name__}")


class FoldedConvolution(nn.Module):
    """`ConvNormAct` in evaluation: a convolution with a bias, an optional summand, the activation.

    (N, in_channels, H, W) and (N, out_channels, ceil(H / stride), ceil(W / stride)) or None -> as the latter.
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
        self.stride, self.padding, self.groups = conv.stride[0], conv.kernel_size[0] // 2, conv.groups
        # A 1x1 convolution takes each second pixel from the first on; in the mirror of an even size, from the second.
        self.offset = mirrored and self.padding == 0 and self.stride == 2
        self.act = act

    def forward(self, x: Tensor, summand: Tensor | None = None) -> Tensor:
        x = F.conv2d(self.from_offset(x), self.weight, self.bias, self.stride, self.padding, 1, self.groups)
        return self.act(x if summand is None else x + summand)

    def from_offset(self, x: Tensor) -> Tensor:
        return x[:, :, (x.shape[2] + 1) % 2 :, (x.shape[3] + 1) % 2 :] if self.offset else x


class FusedConvolution(FoldedConvolution):
    """The same by oneDNN, which does the activation or the sum within the convolution, and wants weights in blocks.

    Of a weight that lies as PyTorch's do it makes the blocks anew in every call, a fifth of the time of one image
    through B0. Here they are made once, at the third input of the same shape in a row. Another shape has other blocks,
    and to make those from wrong ones takes several times as long as from no blocks at all: hence the way back.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.onednn = ONEDNN_NAMES[type(self.act)]
        self.sides = (self.padding,) * 2, (self.stride,) * 2, (1, 1), self.groups
        # The shape of the last input, how many in a row had it, and the weight for it.  They change together, so that
        # several threads may share the layer.  In place of the buffer, since blocks can be neither copied nor saved.
        self.laid_out: tuple[torch.Size | None, int, Tensor] = None, 0, self.weight
        del self.weight

    def forward(self, x: Tensor, summand: Tensor | None = None) -> Tensor:
        x = self.from_offset(x)
        weight = self.weight_for(x.shape)
        if summand is None:
            return fused_convolution(x, weight, self.bias, self.sides, *self.onednn)
        return self.act(fused_sum(x, weight, self.bias, self.sides, summand))

    def weight_for(self, shape: torch.Size) -> Tensor:
        before, count, weight = self.laid_out
        if shape != before:
            weight = self.plain_weight()
            self.laid_out = shape, 1, weight
        elif count < 3:
            weight = in_blocks(weight, self.sides, shape) if count == 2 else weight
            self.laid_out = shape, count + 1, weight
        return weight

    def plain_weight(self) -> Tensor:
        weight = self.laid_out[2]
        return weight.to_dense().contiguous(memory_format=torch.channels_last) if weight.is_mkldnn else weight

    def get_extra_state(self) -> Tensor:
        """The weight, for `state_dict`."""
        return self.plain_weight()

    def set_extra_state(self, weight: Tensor) -> None:
        self.laid_out = None, 0, weight

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled."""
        return {**self.__dict__, "laid_out": (None, 0, self.plain_weight())}


def fused_convolution(
    x: Tensor, weight: Tensor, bias: Tensor, shape: tuple, activation: str, values: list[float]
) -> Tensor:
    """oneDNN's convolution and activation in one pass.

    shape: padding, stride and dilation, each of both directions, and the number of groups.
    """
    return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, *shape, activation, values, "")


def fused_sum(x: Tensor, weight: Tensor, bias: Tensor, shape: tuple, summand: Tensor) -> Tensor:
    """oneDNN's convolution and the sum with a tensor of the result's shape in one pass."""
    return torch.ops.mkldnn._convolution_pointwise.binary(x, summand, weight, bias, *shape, "add", 1.0, None, [], None)


def in_blocks(weight: Tensor, shape: tuple, input_shape: Sequence[int]) -> Tensor:
    """The weight as oneDNN's convolution reads it for inputs of this shape, in a layout of its own."""
    return torch.ops.mkldnn._reorder_convolution_weight(weight, *shape, list(input_shape))


class Gate(nn.Module):
    """`SqueezeExcitation` as two linear layers on the means.  (N, C, H, W) -> the same tensor, gated in place."""

    def __init__(self, layer: SqueezeExcitation, dtype: torch.dtype, pooled: bool) -> None:
        super().__init__()
        self.pooled = pooled
        self.squeeze, self.expand = as_linear(layer.squeeze, dtype), as_linear(layer.expand, dtype)

    def forward(self, x: Tensor) -> Tensor:
        gate = F.silu(self.squeeze(mean_of_pixels(x, self.pooled)))
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
    """ResNet's `Bottleneck` in evaluation."""

    def __init__(self, block: Bottleneck, rewrite: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.reduce, self.spatial = rewrite(block.reduce), rewrite(block.spatial)
        self.restore, self.shortcut = rewrite(block.restore, block.act), rewrite(block.shortcut)

    def forward(self, x: Tensor) -> Tensor:
        return self.restore(self.spatial(self.reduce(x)), self.shortcut(x))


def as_linear(conv: nn.Conv2d, dtype: torch.dtype) -> nn.Linear:
    """The layer that does to one pixel what the 1x1 convolution does to each."""
    linear = nn.Linear(conv.in_channels, conv.out_channels, device="meta")
    linear.weight = nn.Parameter(conv.weight.detach().flatten(1).to(dtype), requires_grad=False)
    linear.bias = nn.Parameter(conv.bias.detach().to(dtype), requires_grad=False)
    return linear


def mean_of_pixels(x: Tensor, pooled: bool) -> Tensor:
    """(N, C, H, W), channels last -> (N, C).

    pooled: by average pooling, whose kernel for bf16 on a CPU is several times as fast as that of `mean`.  It adds
    pixel by pixel, which is why rows come first and their means after them: one sum over all would lose digits.
    """
    if not pooled:
        return x.mean((2, 3))
    return F.avg_pool2d(F.avg_pool2d(x, (1, x.shape[3])), (x.shape[2], 1)).flatten(1)


@functools.cache
def onednn_fuses(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has the fused convolutions, and they compute what the separate operators do.

    They are what `torch.compile` uses, and no public interface: so they are tried, not asked for their version.
    """
    x, weight = torch.linspace(-2, 2, 64).reshape(1, 4, 4, 4).to(dtype), torch.linspace(-1, 1, 16).reshape(4, 4, 1, 1)
    weight, bias, shape = weight.to(dtype), torch.linspace(-1, 1, 4).to(dtype), ((0, 0), (1, 1), (1, 1), 1)
    plain = F.conv2d(x, weight, bias)
    tolerance = 1e-5 if dtype == torch.float32 else 0.1
    try:
        pairs = [
            (fused_convolution(x, weight, bias, shape, *activation), kind()(plain))
            for kind, activation in ONEDNN_NAMES.items()
        ]
        pairs.append((fused_sum(x, in_blocks(weight, shape, x.shape), bias, shape, x), plain + x))
    except (AttributeError, RuntimeError, NotImplementedError):
        return False
    return all(torch.allclose(found.float(), expected.float(), atol=tolerance) for found, expected in pairs)
