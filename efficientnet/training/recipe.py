"""Optimisation options, common to all tasks."""

from __future__ import annotations

from dataclasses import dataclass

from efficientnet.common.command_line import number
from efficientnet.common.options import option


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the optimisation. The defaults are neutral; a task brings its own.

    An *update* is one step of the optimizer: batch_size * accumulate images on each rank.
    """

    seed: int = option(number(int, 0, 2**31), "decides initialisation, order, augmentation and splits", 0)
    epochs: int = option(
        number(int, 1), "passes over as many images as the training set has; --resume may raise them", 10
    )
    batch_size: int = option(number(int, 1), "images per rank in one forward pass", 8)
    accumulate: int = option(number(int, 1), "forward passes whose gradients make one update", 1)
    learning_rate: float = option(number(float, above=0), "peak rate at 16 images an update; scales with them", 1e-4)
    warmup_epochs: float = option(number(float, 0), "linear warm-up from 0.01 of the peak, then cosine to 0", 0.0)
    weight_decay: float = option(number(float, 0), "AdamW's; none on norms and biases", 0.0)
    clip: float = option(number(float, 0), "largest norm of the gradient; 0: no limit", 0.0)
    dropout: float | None = option(
        number(float, 0, 0.99), "before the classifier (default: the variant's, 0.2 for others)", None
    )
    stochastic_depth: float | None = option(
        number(float, 0, 0.99), "drop rate that the last block approaches (default: 0.2 with MBConv, else 0)", None
    )
    label_smoothing: float = option(number(float, 0, 0.5), "moves each label this far towards the others", 0.0)
    positive_share: float = option(
        number(float, 0, 0.9), "least share of positives in an update, drawn again as needed; 0: as they come", 0.0
    )
    ema_decay: float = option(number(float, 0, 0.999999), "moving average of the weights; 0: none", 0.0)
    augmentation: float = option(number(float, 0, 2), "strength of the augmentation; 0: none", 0.0)
    batch_norm_momentum: float = option(number(float, 0, 1), "weight of the newest batch in the statistics", 0.01)
    padding: str | None = option(
        str, "of the convolutions (default: as --weights were trained, else same)", None, choices=["same", "symmetric"]
    )
    batch_norm_eps: float | None = option(
        number(float, above=0), "of every batch norm (default: as --weights were trained, else 1e-3)", None
    )
    pretrained_rate: float = option(
        number(float, above=0), "factor on the learning rate of layers that --weights filled", 1.0
    )
    freeze_until: int = option(
        number(int, 0), "stages, counted from the stem as 1, that keep the weights and statistics of --weights", 0
    )
    freeze_batch_norm: bool = option(bool, "batch norm keeps the statistics of --weights in every layer", False)
    sync_batch_norm: bool = option(bool, "batch norm over all ranks, for small batches on each GPU", False)
    checkpoint_activations: bool = option(bool, "keep less for the backward pass: less memory, more time", False)
    precision: str | None = option(
        str,
        "autocast type (default: fp16 on CUDA, bf16 on CPUs with units for it, else fp32)",
        None,
        choices=["fp32", "bf16", "fp16"],
    )
