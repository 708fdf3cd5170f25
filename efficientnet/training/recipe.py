"""Optimisation options, common to all tasks."""

from __future__ import annotations

from dataclasses import dataclass

from efficientnet.common.command_line import number
from efficientnet.common.options import option


@dataclass(frozen=True)
class Recipe:
    """All options of the optimisation. The defaults are neutral; each task brings its own.

    An *update* is one optimizer step on batch_size * accumulate images on each rank.
    """

    seed: int = option(
        number(int, 0, 2**31), "seed of initialisation, order, augmentation and splits", 0, group="optimisation"
    )
    epochs: int = option(
        number(int, 1), "passes over as many images as the training set has; --resume may raise the number", 10
    )
    batch_size: int = option(number(int, 1), "images per rank in one forward pass", 8)
    accumulate: int = option(number(int, 1), "forward passes per update, whose gradients are averaged", 1)
    learning_rate: float = option(
        number(float, above=0), "peak rate for 16 images an update; the rate scales with their number", 1e-4
    )
    warmup_epochs: float = option(
        number(float, 0), "epochs of linear warm-up from 0.01 of the peak, before the cosine to 0", 0.0
    )
    weight_decay: float = option(number(float, 0), "weight decay of AdamW; none on norms and biases", 0.0)
    clip: float = option(number(float, 0), "largest norm of the gradient; 0: no limit", 0.0)
    ema_decay: float = option(number(float, 0, 0.999999), "decay of the weights' moving average; 0: none", 0.0)
    positive_share: float = option(
        number(float, 0, 0.9), "least share of positives among the images drawn; 0: as they come", 0.0
    )
    augmentation: float = option(
        number(float, 0, 2), "strength of the augmentation; 0: none", 0.0, group="regularisation"
    )
    dropout: float | None = option(
        number(float, 0, 0.99), "dropout rate before the classifier (default: the variant's, else 0.2)", None
    )
    stochastic_depth: float | None = option(
        number(float, 0, 0.99), "drop rate that the last block approaches (default: 0.2 with MBConv, else 0)", None
    )
    label_smoothing: float = option(number(float, 0, 0.5), "how far each label moves towards the others", 0.0)
    batch_norm_momentum: float = option(
        number(float, 0, 1), "weight of the newest batch in the running statistics", 0.01, group="architecture"
    )
    padding: str | None = option(
        str,
        "padding of the convolutions (default: that of --weights, else same)",
        None,
        choices=["same", "symmetric"],
    )
    batch_norm_eps: float | None = option(
        number(float, above=0), "epsilon of batch norm (default: that of --weights, else 1e-3)", None
    )
    pretrained_rate: float = option(
        number(float, above=0),
        "factor on the learning rate of layers that --weights filled",
        1.0,
        group="pretrained weights",
    )
    freeze_until: int = option(
        number(int, 0), "number of first stages, stem included, that keep the weights and statistics of --weights", 0
    )
    freeze_batch_norm: bool = option(bool, "keep the batch-norm statistics of --weights in every layer", False)
    precision: str | None = option(
        str,
        "autocast type (default: fp16 on CUDA, bf16 on CPUs with units for it, else fp32)",
        None,
        choices=["fp32", "bf16", "fp16"],
        group="machine",
    )
    checkpoint_activations: bool = option(
        bool, "recompute activations in the backward pass: saves memory, costs time", False
    )
    sync_batch_norm: bool = option(bool, "batch norm over all ranks, for small batches on each GPU; CUDA only", False)
