"""EfficientNet assembled from its stages: stem, MBConv stages, head; and `create_model` for the released variants.

The stages of any other baseline that `scale` scaled are assembled in the same way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from efficientnet.baseline_layers import Bottleneck, DepthwiseSeparable, MaxPool
from efficientnet.baselines import get_architecture
from efficientnet.complexity import squeezed_channels
from efficientnet.layers import AUTHORS, Convention, ConvNormAct, MBConv, initialise
from efficientnet.scaling import BLOCKS, SMALLEST_IMAGE, Stage, Variant

if TYPE_CHECKING:
    from efficientnet.weights import LoadReport, Provenance

# Endings of files of weights.
WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")


class EfficientNet(nn.Module):
    """The network that `stages` describes.  (N, in_channels, H, W) -> (N, num_classes) logits.

    Any H and W from 32 pixels, square or not.  The architecture is `stages` and nothing else: channels, layers,
    kernels and strides are read from there.

    dropout: before the classifier.  stochastic_depth: the rate that the last block approaches; block i of N has
        stochastic_depth * i / N, counted over the scaled blocks, so the first never drops.
    checkpoint_activations: in training, keep only each block's input and compute the rest again in the backward
        pass: less memory for more time, with the same gradients and batch-norm statistics.

    Attributes: stages, num_features (channels before the classifier), in_channels, num_classes, convention; and
    `provenance` and `load_report` (see `weights`), None where the weights are no file's.
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
        middle = {stage.operator for stage in body}
        if stem.operator != "conv" or head.operator not in ("head", "classifier") or not middle & {*BLOCKS}:
            raise ValueError("the stages must be one conv, one or more of blocks, and one head, as in Table 1")
        self.in_channels, self.num_classes = stem.in_channels, num_classes
        self.num_features = head.out_channels
        self.convention = convention
        self.provenance: Provenance | None = None
        self.load_report: LoadReport | None = None
        self.checkpoint_activations = checkpoint_activations

        self.stem = build_convolution(stem, convention)
        blocks = sum(stage.layers for stage in body if stage.operator in BLOCKS)
        rates = iter(stochastic_depth_rates(stochastic_depth, blocks))
        self.body = nn.ModuleList(build_stage(stage, rates, convention) for stage in body)
        self.head = build_convolution(head, convention) if head.operator == "head" else nn.Identity()
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
        return last_of_each_resolution(self.stages, self.stage_outputs(x))

    def stage_outputs(self, x: Tensor) -> Iterator[Tensor]:
        """The output of the stem and of each stage between it and the head, in order."""
        check_input(x, self.in_channels)
        if x.shape[0] == 1 and x.shape[2] == x.shape[3] == SMALLEST_IMAGE and batch_norm_learns(self):
            raise ValueError(
                "training on 32x32 pixels needs two images a rank: batch norm in the last stages would see one value "
                "per channel. Use a larger batch or larger images."
            )
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


def check_input(x: Tensor, in_channels: int) -> None:
    """ValueError in words for what would fail deep inside, or worse, would not."""
    if x.dim() != 4 or x.shape[1] != in_channels:
        raise ValueError(f"expected images (N, {in_channels}, H, W), got a tensor {tuple(x.shape)}")
    height, width = x.shape[-2:]
    if height < SMALLEST_IMAGE or width < SMALLEST_IMAGE:
        raise ValueError(f"images must be at least {SMALLEST_IMAGE} pixels a side, got {height}x{width}")


def last_of_each_resolution(stages: Sequence[Stage], outputs: Iterable[Tensor]) -> list[Tensor]:
    """Of the outputs of all stages but the head, those after which the resolution is halved, or ends."""
    next_strides = [stage.stride for stage in stages[1:-1]] + [2]
    return [output for output, stride in zip(outputs, next_strides, strict=True) if stride > 1]


def stochastic_depth_rates(last: float, blocks: int) -> list[float]:
    """The drop rate of each of `blocks` blocks: last * i / blocks, linear from exactly 0.

    The released code divides by the number of *scaled* blocks, and so never quite reaches `last`.
    """
    return [last * i / blocks for i in range(blocks)]


def build_convolution(stage: Stage, convention: Convention) -> ConvNormAct:
    """The convolution of a stem or head."""
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
        if stage.operator == "mbconv":
            squeezed = squeezed_channels(channels, stage.squeeze_ratio) if stage.squeeze_ratio else 0
            layers.append(MBConv(channels, *shape, stride, stage.expansion, squeezed, rate, **common))
        elif stage.operator == "inverted_residual":
            layers.append(MBConv(channels, *shape, stride, stage.expansion, 0, rate, **common))
        elif stage.operator == "separable":
            layers.append(DepthwiseSeparable(channels, *shape, stride, **common))
        elif stage.operator == "bottleneck":
            layers.append(Bottleneck(channels, *shape, stride, stage.expansion, rate, **common))
        else:
            raise ValueError(f"a stage between stem and head cannot be {stage.operator!r}")
    return nn.Sequential(*layers)


def batch_norm_learns(model: nn.Module) -> bool:
    """Whether any batch norm of the model would take its statistics from the batch."""
    return any(module.training for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm))


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


def is_file(name: object) -> bool:
    """Whether what stands for an architecture is rather a file that holds one."""
    return isinstance(name, Path) or (isinstance(name, str) and Path(name).suffix in WEIGHT_SUFFIXES)


def create_model(
    name_or_stages: str | Path | Sequence[Stage | Mapping[str, Any]] | None = None,
    num_classes: int | None = None,
    in_channels: int | None = None,
    *,
    weights: str | Path | None = None,
    source: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    dropout: float | None = None,
    stochastic_depth: float | None = None,
    padding: str | None = None,
    batch_norm_eps: float | None = None,
    batch_norm_momentum: float | None = None,
    checkpoint_activations: bool = False,
) -> EfficientNet:
    """A released variant or a baseline by name, what `scale(baseline, coefficients)` returns, or what a file holds.

    name_or_stages: the name, the stages (or the dicts that a checkpoint keeps of them), or the file: a Path, or a text
        with a file's ending, is the same as `weights`.

    weights: None initialises at random.  A file of this project or of another library, or "lite0" to "lite2" for the
        installed package; source: its library, mean and std: its normalisation, which the model's `provenance` then
        has, where they cannot be recognised (see `weights.read_weights`).
    name_or_stages, num_classes, in_channels: None takes what the weights have, or else 1000 classes and 3 channels.
        A file of this project knows the stages of any architecture, another library's those of the known ones.
        With another number of classes the classifier stays random, another number of channels adapts the stem.
    dropout: None takes Table 2's rate of the variant, 0.2 for other stages.
    stochastic_depth: None is 0.2 where there are MBConv stages, 0 for other baselines, which were published without.
    padding, batch_norm_eps, batch_norm_momentum: see `layers.Convention`; None takes that of the weights, or else the
        authors'.

    Raises ValueError for an unknown name (listing the known ones), values out of range, and weights that are not of
    the architecture.
    """
    pretrained, convention, default_classes, default_channels = None, AUTHORS, 1000, 3
    if is_file(name_or_stages):
        if weights is not None:
            raise ValueError(f"weights are named twice: {name_or_stages} and {weights}")
        name_or_stages, weights = None, name_or_stages
    if weights is not None:
        from efficientnet.weights import read_weights  # only here, since building a model needs none of it

        pretrained = read_weights(weights, source, mean, std)
        convention = pretrained.provenance.convention
        default_classes = pretrained.num_classes or default_classes
        default_channels = pretrained.in_channels or default_channels
        if name_or_stages is None:
            architecture = pretrained.known_architecture()
            name_or_stages = architecture.stages
            dropout = architecture.dropout if dropout is None else dropout
    elif any(value is not None for value in (source, mean, std)):
        raise ValueError("source, mean and std say what weights are: give weights too")
    if name_or_stages is None:
        raise ValueError("name a variant, such as b0, or give stages or weights")
    num_classes = default_classes if num_classes is None else num_classes
    in_channels = default_channels if in_channels is None else in_channels
    for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")

    default_dropout = 0.2
    if isinstance(name_or_stages, str):
        named = get_architecture(name_or_stages)
        stages = named.stages
        default_dropout = named.dropout if isinstance(named, Variant) else default_dropout
    else:
        stages = tuple(stage if isinstance(stage, Stage) else Stage(**stage) for stage in name_or_stages)
    if stochastic_depth is None:
        stochastic_depth = 0.2 if any(stage.operator == "mbconv" for stage in stages) else 0.0
    chosen = {
        "padding": padding,
        "batch_norm_eps": batch_norm_eps,
        "batch_norm_momentum": batch_norm_momentum,
    }
    model = EfficientNet(
        (replace(stages[0], in_channels=in_channels), *stages[1:]),
        num_classes,
        default_dropout if dropout is None else dropout,
        stochastic_depth,
        replace(convention, **{name: value for name, value in chosen.items() if value is not None}),
        checkpoint_activations,
    )
    if pretrained is not None:
        pretrained.load_into(model)
    return model
