"""EfficientNet assembled from its stages: stem, MBConv stages, head.

The other baselines (MobileNetV1, MobileNetV2, ResNet-50) are assembled from their stages in the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Proxy
from torch.utils.checkpoint import checkpoint

from efficientnet.baselines.layers import Bottleneck, DepthwiseSeparable, MaxPool, PlainConvolution
from efficientnet.complexity import squeezed_channels
from efficientnet.layers import (
    AUTHORS,
    Convention,
    ConvNormAct,
    GatedAttention,
    MBConv,
    Pooling,
    initialise,
    pool_views,
)
from efficientnet.scaling import BLOCKS, SMALLEST_IMAGE, Stage


class EfficientNet(nn.Module):
    """The network that `stages` describes. (N, in_channels, H, W) -> (N, num_classes) logits.

    H and W are at least 32 pixels and may differ. num_classes 0 leaves out the classifier: the output is the pooled
    features (N, num_features), and the state_dict has no "classifier.weight" and "classifier.bias".

    dropout: the rate before the classifier.
    stochastic_depth: the limit of the drop rate. Block i = 0, ..., N - 1 of the scaled network has the rate
        stochastic_depth * i / N, so the first never drops.
    checkpoint_activations: in training, keep only each block's input and recompute the rest in the backward pass.
        Saves memory and costs time; gradients and batch-norm statistics are the same, also under torch.compile.
    pooling: over the pixels: "mean" as in the paper, "gem" or "max"; see `layers.Pooling`. "gem" has one parameter
        more, which `complexity` does not count.

    Attributes: stages, num_features (channels before the classifier), in_channels, num_classes, convention.
    `create_model` adds provenance, load_report and classes.

    Works with torch.compile, torch.export, torch.jit.trace, torch.fx.symbolic_trace and torchvision's
    `create_feature_extractor`. A graph traced by torch.fx does not check its input.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        num_classes: int = 1000,
        dropout: float = 0.2,
        stochastic_depth: float = 0.2,
        convention: Convention = AUTHORS,
        checkpoint_activations: bool = False,
        pooling: str = "mean",
    ) -> None:
        super().__init__()
        stem, *body, head = self.stages = tuple(stages)
        middle = {stage.operator for stage in body}
        if stem.operator != "conv" or head.operator not in ("head", "classifier") or not middle & {*BLOCKS}:
            raise ValueError("the stages must be a conv stem, at least one stage of blocks, and a head, as in Table 1")
        self.in_channels, self.num_classes = stem.in_channels, num_classes
        self.num_features = head.out_channels
        self.convention = convention
        self.checkpoint_activations = checkpoint_activations

        self.stem = build_convolution(stem, convention)
        blocks = sum(stage.layers for stage in body if stage.operator in BLOCKS)
        rates = iter(stochastic_depth_rates(stochastic_depth, blocks))
        self.body = nn.ModuleList(build_stage(stage, rates, convention) for stage in body)
        self.head = build_convolution(head, convention) if head.operator == "head" else nn.Identity()
        self.pooling = Pooling(pooling)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(self.pooled_features(x))

    def pooled_features(self, x: Tensor) -> Tensor:
        """The head's output, pooled over the pixels: (N, num_features)."""
        return self.pooling(self.forward_features(x))

    def classify(self, x: Tensor) -> Tensor:
        """Logits of pooled features: (N, num_features) -> (N, num_classes), or the same without a classifier."""
        return self.classifier(self.dropout(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The head's output before pooling: (N, num_features, ceil(H / 32), ceil(W / 32))."""
        for stage_output in self.stage_outputs(x):
            x = stage_output
        return self.head(x)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The last output at each of the strides 2, 4, 8, 16 and 32: five maps for a detection or segmentation head.

        For B0 these have 16, 24, 40, 112 and 320 channels.
        """
        return last_of_each_resolution(self.stages, self.stage_outputs(x))

    def stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the output of the stem, then of each stage between stem and head."""
        if not isinstance(x, Proxy):  # a Proxy of torch.fx.symbolic_trace has no values to check
            check_input(x, self.in_channels)
            self.check_batch(x)
        x = self.stem(x)
        yield x
        for stage in self.body:
            for block in stage:
                x = self.run_block(block, x)
            yield x

    def check_batch(self, x: Tensor) -> None:
        if x.shape[0] == 1 and x.shape[2] == x.shape[3] == SMALLEST_IMAGE and batch_norm_learns(self):
            raise ValueError(
                "training on 32x32 pixels needs at least two images per rank: batch norm in the last stages would see "
                "one value per channel. Use a larger batch or larger images."
            )

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        if not (self.checkpoint_activations and self.training):
            return block(x)
        # The recomputation must not update batch norm's running statistics a second time. Under torch.compile it never
        # does, and this context_fn would be an error.
        contexts = {"context_fn": lambda: (contextlib.nullcontext(), frozen_statistics(block))}
        return checkpoint(block, x, use_reentrant=False, **{} if torch.compiler.is_dynamo_compiling() else contexts)

    def __prepare_scriptable__(self) -> nn.Module:
        """Refuse `torch.jit.script`, which calls this: TorchScript has no generators."""
        raise NotImplementedError(
            "torch.jit.script cannot compile this network: use torch.export.export(model.eval(), (images,)), "
            "or torch.jit.trace(model.eval(), images)"
        )


class JointViews(EfficientNet):
    """An EfficientNet for all views of one breast together. (N, V, in_channels, H, W) -> (N, num_classes) logits.

    An absent view is nan throughout. Each of the others goes through the network once, and the classifier takes the
    mean of their pooled features, weighted by `GatedAttention`; at first, the weights are equal. The result does not
    depend on the order of the views or on absent ones. The features of a breast without any view are 0.
    (N, in_channels, H, W) is taken as one view each. `forward_features` and `feature_maps` take only such images.

    The other arguments, attributes and tensors are those of `EfficientNet`, so its weights fit. `attention` is new.
    torch.fx and torch.export cannot trace it, since the number of views depends on the values.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.attention = GatedAttention(self.num_features)

    def forward(self, x: Tensor) -> Tensor:
        return self.classify(pool_views(x, self.pooled_features, self.attention))


def check_input(x: Tensor, in_channels: int) -> None:
    """Reject bad input early, with a clear message: ValueError."""
    if not x.is_floating_point():
        raise ValueError(
            f"expected normalised floating-point images, got {x.dtype}: pass (images / 255 - mean) / std, with the "
            "mean and std that the weights were trained with"
        )
    if x.dim() != 4 or x.shape[1] != in_channels:
        raise ValueError(f"expected images (N, {in_channels}, H, W), got a tensor {tuple(x.shape)}")
    height, width = x.shape[-2:]
    if height < SMALLEST_IMAGE or width < SMALLEST_IMAGE:
        raise ValueError(f"images must be at least {SMALLEST_IMAGE} pixels a side, got {height}x{width}")


def last_of_each_resolution(stages: Sequence[Stage], outputs: Iterable[Tensor]) -> list[Tensor]:
    """The last output at each resolution, from the outputs of all stages but the head."""
    next_strides = [stage.stride for stage in stages[1:-1]] + [2]
    return [output for output, stride in zip(outputs, next_strides, strict=True) if stride > 1]


def stochastic_depth_rates(last: float, blocks: int) -> list[float]:
    """The drop rate of each of `blocks` blocks: last * i / blocks, linear from exactly 0.

    As in the released code, `blocks` counts the *scaled* blocks, and no block quite reaches `last`.
    """
    return [last * i / blocks for i in range(blocks)]


def build_convolution(stage: Stage, convention: Convention) -> ConvNormAct:
    """The convolution of a stem or a head."""
    return ConvNormAct(
        stage.in_channels,
        stage.out_channels,
        stage.kernel_size,
        stage.stride,
        activation=stage.activation,
        convention=convention,
    )


def build_stage(stage: Stage, rates: Iterator[float], convention: Convention) -> nn.Sequential:
    """The stage's layers; takes one drop rate from `rates` for each block."""
    shape, common = (stage.out_channels, stage.kernel_size), {"convention": convention, "activation": stage.activation}
    layers: list[nn.Module] = []
    for channels, stride in stage.block_inputs():
        if stage.operator == "max_pool":
            layers.append(MaxPool(stage.kernel_size, stride, convention))
            continue
        rate = next(rates)
        if stage.operator in ("mbconv", "inverted_residual"):
            squeezed = squeezed_channels(channels, stage.squeeze_ratio)
            layers.append(MBConv(channels, *shape, stride, stage.expansion, squeezed, rate, **common, skip=stage.skip))
        elif stage.operator == "plain":
            layers.append(PlainConvolution(channels, *shape, stride, rate, **common, skip=stage.skip))
        elif stage.operator == "separable":
            layers.append(DepthwiseSeparable(channels, *shape, stride, **common))
        elif stage.operator == "bottleneck":
            layers.append(Bottleneck(channels, *shape, stride, stage.expansion, rate, **common))
        else:
            raise ValueError(f"a stage between stem and head cannot be {stage.operator!r}")
    return nn.Sequential(*layers)


def batch_norm_learns(model: nn.Module) -> bool:
    """Whether any batch norm of the model takes its statistics from the batch."""
    return any(module.training for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))


@contextlib.contextmanager
def frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Restore batch norm's running statistics on exit. Inside the context, batch norm trains as usual."""
    norms = [module for module in block.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    kept = [dict(norm.named_buffers()) for norm in norms]
    for norm in norms:
        for name, buffer in norm.named_buffers():
            setattr(norm, name, buffer.clone())
    try:
        yield
    finally:
        for norm, buffers in zip(norms, kept, strict=True):
            for name, buffer in buffers.items():
                setattr(norm, name, buffer)
