"""EfficientNet assembled from its stages: stem, MBConv stages, head; and `create_model` for the released variants."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from efficientnet.complexity import squeezed_channels
from efficientnet.layers import AUTHORS, Convention, ConvNormAct, MBConv, initialise
from efficientnet.scaling import SMALLEST_IMAGE, Stage, get_variant


class EfficientNet(nn.Module):
    """The network that `stages` describes.  (N, in_channels, H, W) -> (N, num_classes) logits.

    Any H and W from 32 pixels, square or not.  The architecture is `stages` and nothing else: channels, layers,
    kernels and strides are read from there.

    dropout: before the classifier.  stochastic_depth: the rate that the last block approaches; block i of N has
        stochastic_depth * i / N, counted over the scaled blocks, so the first never drops.
    checkpoint_activations: in training, keep only each block's input and compute the rest again in the backward
        pass: less memory for more time, with the same gradients and batch-norm statistics.

    Attributes: stages, num_features (channels before the classifier), in_channels, num_classes.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        num_classes: int = 1000,
        dropout: float = 0.2,
        stochastic_depth: float = 0.2,
        convention: Convention = AUTHORS,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        stem, *body, head = self.stages = tuple(stages)
        if stem.operator != "conv" or head.operator != "head" or {s.operator for s in body} != {"mbconv"}:
            raise ValueError("the stages must be one conv, one or more mbconv, and one head, as in Table 1")
        self.in_channels, self.num_classes = stem.in_channels, num_classes
        self.num_features = head.out_channels
        self.convention = convention
        self.checkpoint_activations = checkpoint_activations

        self.stem = ConvNormAct(
            stem.in_channels, stem.out_channels, stem.kernel_size, stem.stride, convention=convention
        )
        rates = iter(stochastic_depth_rates(stochastic_depth, sum(stage.layers for stage in body)))
        self.body = nn.ModuleList(build_stage(stage, rates, convention) for stage in body)
        self.head = ConvNormAct(head.in_channels, head.out_channels, head.kernel_size, convention=convention)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.num_features, num_classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        x = self.forward_features(x)  # (N, num_features, H / 32, W / 32)
        x = x.mean((2, 3))  # (N, num_features)
        return self.classifier(self.dropout(x))  # (N, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """The head's output before pooling: (N, num_features, ceil(H / 32), ceil(W / 32))."""
        for stage_output in self.stage_outputs(x):
            x = stage_output
        return self.head(x)

    def feature_maps(self, x: Tensor) -> list[Tensor]:
        """The last output at each resolution, strides 2 to 32: five maps for detection or segmentation on top.

        For B0 these have 16, 24, 40, 112 and 320 channels.
        """
        outputs = list(self.stage_outputs(x))
        next_strides = [stage.stride for stage in self.stages[1:-1]] + [2]  # the end closes the last resolution
        return [output for output, stride in zip(outputs, next_strides, strict=True) if stride > 1]

    def stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """The output of the stem and of each MBConv stage, in order."""
        self.check_input(x)
        x = self.stem(x)
        yield x
        for stage in self.body:
            for block in stage:
                x = self.run_block(block, x)
            yield x

    def run_block(self, block: nn.Module, x: Tensor) -> Tensor:
        if not (self.checkpoint_activations and self.training):
            return block(x)
        # The second forward pass must not update batch norm's running statistics a second time.
        return checkpoint(
            block,
            x,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), frozen_statistics(block)),
        )

    def check_input(self, x: Tensor) -> None:
        """ValueError in words for what would fail deep inside, or worse, would not."""
        if x.dim() != 4 or x.shape[1] != self.in_channels:
            raise ValueError(f"expected images (N, {self.in_channels}, H, W), got a tensor {tuple(x.shape)}")
        height, width = x.shape[-2:]
        if height < SMALLEST_IMAGE or width < SMALLEST_IMAGE:
            raise ValueError(f"images must be at least {SMALLEST_IMAGE} pixels a side, got {height}x{width}")
        if x.shape[0] == 1 and height == width == SMALLEST_IMAGE and self.head.norm.training:
            raise ValueError(
                "training on 32x32 pixels needs two images a rank: batch norm in the last stages would see one value "
                "per channel. Use a larger batch or larger images."
            )


def stochastic_depth_rates(last: float, blocks: int) -> list[float]:
    """The drop rate of each of `blocks` blocks: last * i / blocks, linear from exactly 0.

    The released code divides by the number of *scaled* blocks, and so never quite reaches `last`.
    """
    return [last * i / blocks for i in range(blocks)]


def build_stage(stage: Stage, rates: Iterator[float], convention: Convention) -> nn.Sequential:
    """The stage's MBConv layers; takes one drop rate from `rates` for each."""
    return nn.Sequential(
        *(
            MBConv(
                channels,
                stage.out_channels,
                stage.kernel_size,
                stride,
                stage.expansion,
                squeezed_channels(channels, stage.squeeze_ratio) if stage.squeeze_ratio else 0,
                next(rates),
                convention,
            )
            for channels, stride in stage.block_inputs()
        )
    )


@contextlib.contextmanager
def frozen_statistics(block: nn.Module) -> Iterator[None]:
    """Within it, batch norm in training works as ever, but what it does to its running statistics is forgotten."""
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


def create_model(
    name_or_stages: str | Sequence[Stage],
    num_classes: int = 1000,
    in_channels: int = 3,
    *,
    dropout: float | None = None,
    stochastic_depth: float = 0.2,
    padding: str = "same",
    batch_norm_eps: float = 1e-3,
    batch_norm_momentum: float = 0.01,
    checkpoint_activations: bool = False,
) -> EfficientNet:
    """A randomly initialised EfficientNet: a released variant by name, or what `scale(B0, coefficients)` returns.

    dropout: None takes Table 2's rate of the variant, 0.2 for other stages.  The rest: see `EfficientNet` and
    `layers.Convention`.

    Raises ValueError for an unknown name (listing the known ones) and values out of range.
    """
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if isinstance(name_or_stages, str):
        variant = get_variant(name_or_stages)
        stages, default_dropout = variant.stages, variant.dropout
    else:
        stages, default_dropout = tuple(name_or_stages), 0.2
    return EfficientNet(
        (replace(stages[0], in_channels=in_channels), *stages[1:]),
        num_classes,
        default_dropout if dropout is None else dropout,
        stochastic_depth,
        Convention(padding, batch_norm_eps, batch_norm_momentum),
        checkpoint_activations,
    )
