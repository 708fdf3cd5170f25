"""The fast path for prediction: compute the function of a trained network in fewer steps.

`optimize_for_inference` rewrites the network. Every step but the last is exact up to rounding:

    folded       In evaluation, batch norm multiplies and shifts each channel. The factor goes into the weights of the
                 convolution before it, and the shift becomes that convolution's bias.
    mirrored     For an even size and stride 2, TensorFlow's SAME padding adds one pixel less before than after.
                 PyTorch's convolutions pad both sides alike, so layers.py pads into a copy of the tensor. In a mirror
                 image the larger padding comes first: symmetric padding by kernel_size // 2 gives the same result,
                 since no window reaches its surplus last pixel. Odd sizes are padded symmetrically in any case. So
                 the image and all kernels are mirrored once, top to bottom and left to right.
    laid out     Channels last: the channels of a pixel are contiguous, and a 1x1 convolution is a matrix product.
    fused        On a CPU, the convolution applies the activation or adds the block's input while its results are in
                 the cache. Its weights are kept in the blocked layout that its kernel reads.
    gated        The 1x1 convolutions of squeeze-excitation see one pixel, so they become linear layers. The gate is
                 multiplied in place.
    precision    bf16 halves memory traffic, and is faster on processors with units for it.

A layer that the user changed is not rewritten (see as_built.py). If any layer was changed, nothing is mirrored.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efficientnet.baselines.layers import Bottleneck, DepthwiseSeparable, MaxPool, PlainConvolution
from efficientnet.inference.as_built import changed_layers, check_network
from efficientnet.inference.engines import OF_ONNX, check_engine, features_of
from efficientnet.inference.folded import (
    AsItIs,
    FoldedBottleneck,
    FoldedConvolution,
    FoldedMBConv,
    FoldedPlainConvolution,
    Gate,
    copy_of,
    mean_of_pixels,
)
from efficientnet.inference.onednn import FusedConvolution, onednn_fuses
from efficientnet.inference.precision import PRECISIONS, autocast
from efficientnet.layers import ConvNormAct, MBConv, SqueezeExcitation, pool_views
from efficientnet.model import EfficientNet, JointViews, check_input, last_of_each_resolution


def optimize_for_inference(
    model: EfficientNet,
    precision: str = "fp32",
    *,
    engine: str = "torch",
    fused: bool | None = None,
    checkpoint: Path | None = None,
) -> InferenceModel:
    """A copy of the model for prediction. It computes what the model does in evaluation, with its weights and device.

    A stem, block, head or pooling that was changed in any way (another norm or activation, a bias, a wrapper, hooks,
    parametrizations) is copied as it is, in fp32, and is no faster than before; the result's `kept` names these
    layers. Dropout, classifier and the attention of `JointViews` may be anything and are copied too.

    The copy has no gradients (no output has a graph, so `backward()` is an error), no training, no stochastic depth,
    and other names of layers. Hooks on a copied layer run with the copy; a hook that is a method is bound to a
    copy of its object. Hooks of the whole network are refused.

    precision: "fp32", "bf16" or "fp16". On a CPU, weights and activations before the classifier have that type; on
        CUDA it is autocast's. Logits are always float32.
    engine: what runs the convolutions: "torch", "compile", "onnxruntime" or "openvino" (see engines.py). The last two
        are for the CPU, and onnxruntime for fp32. Only with "torch" can the result be copied or load a `state_dict`.
    fused: fuse activations into convolutions with oneDNN. None: for the engine "torch" on a CPU, if this PyTorch can.
        False uses only PyTorch's public operators, as an export needs.
    checkpoint: where the weights are from, such as runs/b3/best.pt. Beside it, onnxruntime and openvino keep their
        file for the next time, best.HASH.onnx, and delete those with an old hash. compile needs no checkpoint: it keeps
        its files in PyTorch's cache (`torch.hub.get_dir`).

    Raises ValueError for an unknown precision or engine, for a precision or device that the engine lacks, for `fused`
    if this PyTorch cannot fuse, and for `fused` with another engine. Raises UserError if the processor has no bf16 for
    OpenVINO and if compiling fails, and MissingExtra for an engine that is not installed. Raises TypeError, which names
    the module and its class, for a model of another class (a wrapper, a subclass), hooks of the whole model, a method
    that is patched on an instance, a module in training mode in a model in evaluation mode, and a changed layer that
    cannot be copied.
    """
    check_network(model)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}")
    device = next(model.parameters()).device
    check_engine(engine, precision, device.type)
    can_fuse = device.type == "cpu" and onednn_fuses(PRECISIONS[precision])
    if fused and not can_fuse:
        raise ValueError(f"this PyTorch cannot fuse {precision} convolutions on {device.type}: omit fused")
    if fused and engine != "torch":
        raise ValueError("fused is for the engine torch: omit one of the two")
    if fused is None:
        fused = can_fuse and engine == "torch"
    result = InferenceModel(model, "fp32" if engine in OF_ONNX else precision, fused)
    if engine != "torch":
        result.by_engine = features_of(result, engine, precision, checkpoint)
    return result


class InferenceModel(nn.Module):
    """The network on the fast path: (N, in_channels, H, W) -> float32 logits (N, num_classes), without a graph.

    Made from a `JointViews`, it takes the same input as that, (N, V, in_channels, H, W), and absent views are nan.
    H and W are at least 32 pixels. It has the attributes `stages`, `in_channels`, `num_classes` and `num_features` of
    the `EfficientNet`, and its methods `forward_features` and `feature_maps`. It is for prediction only: no gradient
    goes through it, and `train()` changes nothing. It stays on its device and in its types: `to`, `cuda`, `half` and
    the like raise TypeError if they would change one.

    `state_dict()` holds all weights, and loads into a fast path that was made with the same options. `parameters()`
    leaves out the weights of convolutions, which are not parameters here: count those of the `EfficientNet` instead.

    kept: names of the layers that are not as built and were copied as they are, such as "stem", "body.1.0", "head" or
        "pooling".
    """

    def __init__(self, model: EfficientNet, precision: str, fused: bool) -> None:
        super().__init__()
        self.stages, self.in_channels, self.num_classes = model.stages, model.in_channels, model.num_classes
        self.num_features = model.num_features
        self.precision = precision
        self.on_cpu = next(model.parameters()).device.type == "cpu"
        self.dtype = PRECISIONS[precision] if self.on_cpu else torch.float32
        self.pooled = fused and self.dtype == torch.bfloat16
        self.kept = changed_layers(model)
        self.mirrored = model.convention.padding == "same" and not self.kept
        options = {"dtype": self.dtype, "fused": fused, "mirrored": self.mirrored, "pooled": self.pooled}

        def rewrite(name: str, layer: nn.Module) -> nn.Module:
            return AsItIs(layer, name) if name in self.kept else rewritten(layer, **options)

        self.stem, self.head = rewrite("stem", model.stem), rewrite("head", model.head)
        self.body = nn.ModuleList(
            nn.Sequential(*(rewrite(f"body.{number}.{place}", block) for place, block in enumerate(stage)))
            for number, stage in enumerate(model.body)
        )
        self.averages = "pooling" not in self.kept and model.pooling.kind == "mean"
        self.pooling = copy_of(model.pooling, "pooling")
        self.attention = copy_of(model.attention, "attention") if isinstance(model, JointViews) else None
        self.dropout, self.classifier = copy_of(model.dropout, "dropout"), copy_of(model.classifier, "classifier")
        self.by_engine: Callable[[Tensor], Tensor] | None = None
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        joint = self.attention is not None
        x = pool_views(x, self.pooled_features, self.attention) if joint else self.pooled_features(x)
        with self.autocast():
            logits = self.classifier(self.dropout(x))
            return logits.float() if isinstance(logits, Tensor) else logits  # a classifier may have several outputs

    @torch.no_grad()
    def pooled_features(self, x: Tensor) -> Tensor:
        """See `EfficientNet.pooled_features`; in fp32."""
        check_input(x, self.in_channels)
        return self.by_engine(x) if self.by_engine else self.pooled_unchecked(x)

    def pooled_unchecked(self, x: Tensor) -> Tensor:
        with self.autocast():
            *_, x = self.stage_outputs(x)
            x = self.head(x)
            if self.averages:
                return mean_of_pixels(x, self.pooled).float()
            return self.pooling(x.float().contiguous()).float()  # of a mirror image, the same

    @torch.no_grad()
    def forward_features(self, x: Tensor) -> Tensor:
        """See `EfficientNet.forward_features`."""
        check_input(x, self.in_channels)
        with self.autocast():
            *_, x = self.stage_outputs(x)
            return self.unmirrored(self.head(x))

    @torch.no_grad()
    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """See `EfficientNet.feature_maps`."""
        check_input(x, self.in_channels)
        with self.autocast():
            return [self.unmirrored(x) for x in last_of_each_resolution(self.stages, self.stage_outputs(x))]

    def stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the output of the stem, then of each stage between stem and head, mirrored if `self.mirrored`."""
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

    def load_state_dict(self, state_dict: Mapping[str, Any], *arguments: Any, **options: Any) -> Any:
        """As for any module. Raises TypeError for an engine other than torch, which has weights of its own."""
        if self.by_engine:
            raise TypeError("the engine keeps the weights that it was made with: make a new one from the model")
        return super().load_state_dict(state_dict, *arguments, **options)

    def train(self, mode: bool = True) -> InferenceModel:
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> InferenceModel:
        """Refuse a new type or device from `to`, `cuda`, `half` and the like: kernels were chosen for the old ones."""
        for tensor in (*self.parameters(), *self.buffers()):
            new = fn(tensor)
            if (new.dtype, new.device) != (tensor.dtype, tensor.device):
                raise TypeError(
                    f"this fast path is for {self.precision} on {tensor.device} and cannot be converted or moved: make "
                    "a new one, optimize_for_inference(model.to(device), precision=...)"
                )
        return super()._apply(fn, recurse)

    __prepare_scriptable__ = EfficientNet.__prepare_scriptable__


def rewritten(
    module: nn.Module, act: nn.Module | None = None, *, dtype: torch.dtype, fused: bool, mirrored: bool, pooled: bool
) -> nn.Module:
    """The fast path's version of a module. act: replaces the activation of a convolution."""
    rewrite = functools.partial(rewritten, dtype=dtype, fused=fused, mirrored=mirrored, pooled=pooled)
    if isinstance(module, ConvNormAct):
        kind = FusedConvolution if fused else FoldedConvolution
        return kind(module, act or module.act, dtype, mirrored)
    if isinstance(module, SqueezeExcitation):
        return Gate(module, dtype, pooled)
    if isinstance(module, MBConv):
        return FoldedMBConv(module, rewrite)
    if isinstance(module, Bottleneck):
        return FoldedBottleneck(module, rewrite)
    if isinstance(module, PlainConvolution):
        return FoldedPlainConvolution(module, rewrite)
    if isinstance(module, DepthwiseSeparable):
        return nn.Sequential(rewrite(module.depthwise), rewrite(module.pointwise))
    if isinstance(module, MaxPool):
        if not mirrored:
            return copy.deepcopy(module)
        # Padded symmetrically, like the convolutions.
        return nn.MaxPool2d(module.pool.kernel_size, module.pool.stride, module.pool.kernel_size // 2)
    if isinstance(module, nn.Identity):
        return nn.Identity()
    raise TypeError(f"the fast path does not support {type(module).__name__}")
