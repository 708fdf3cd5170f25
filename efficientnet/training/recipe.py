"""Optimisation options, common to all tasks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from efficientnet.common.command_line import number
from efficientnet.common.options import option

# The longest default average, that of the competition's winner: over about 5,000 updates.
LONGEST_DECAY = 0.9998


@dataclass(frozen=True)
class Recipe:
    """All options of the optimisation. The defaults are neutral; each task brings its own.

    An *update* is one optimizer step on batch_size * accumulate images on each rank. `fitted` fills in what depends on
    the length of the run.
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
    optimizer: str = option(
        str, "AdamW, or RMSProp as in the paper's released code", "adamw", choices=["adamw", "rmsprop"]
    )
    schedule: str = option(
        str,
        "learning rate after the warm-up: half a cosine to 0, or exponential decay in steps, as in the released code",
        "cosine",
        choices=["cosine", "exponential"],
    )
    decay_rate: float = option(
        number(float, 0, 1, above=0),
        "factor of each step of the exponential decay",
        0.97,
        only_with=("schedule", "exponential"),
    )
    decay_epochs: float = option(
        number(float, above=0), "epochs between these steps", 2.4, only_with=("schedule", "exponential")
    )
    warmup_epochs: float | None = option(
        number(float, 0),
        "epochs of linear warm-up from 0.01 of the peak, or with exponential from 0 (default: a tenth of the run)",
        None,
    )
    weight_decay: float = option(
        number(float, 0), "weight decay; none on norms, and with adamw none on biases either", 0.0
    )
    clip: float = option(number(float, 0), "largest norm of the gradient; 0: no limit", 0.0)
    ema_decay: float | None = option(
        number(float, 0, 0.999999),
        "decay of the weights' moving average; 0: none (default: an average over a tenth of the run, at most 0.9998)",
        None,
    )
    positive_share: float = option(
        number(float, 0, 0.9),
        "least share of positives among the images drawn, and at least one in every batch of every rank; 0: as they "
        "come",
        0.0,
    )
    mixup: float = option(number(float, 0), "alpha of mixup; 0: none", 0.0)
    cutmix: float = option(number(float, 0), "alpha of CutMix; 0: none; with mixup, one of the two for each batch", 0.0)
    dropout: float | None = option(
        number(float, 0, 0.99),
        "dropout rate before the classifier (default: the variant's, else 0.2)",
        None,
        group="regularisation",
    )
    stochastic_depth: float | None = option(
        number(float, 0, 0.99), "drop rate that the last block approaches (default: 0.2 with MBConv, else 0)", None
    )
    label_smoothing: float = option(number(float, 0, 0.5), "how far each label moves towards the others", 0.0)
    batch_norm_momentum: float = option(
        number(float, 0, 1), "weight of the newest batch in the running statistics", 0.01, group="architecture"
    )
    pooling: str | None = option(
        str,
        "pooling before the classifier: the mean, the generalised mean or the maximum over the pixels (default: that "
        "of --weights, else mean)",
        None,
        choices=["mean", "gem", "max"],
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
    freeze_epochs: int = option(
        number(int, 0), "first epochs in which only the layers that --weights did not fill learn", 0
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

    def with_a_positive_in_each_batch(self) -> Recipe:
        """The recipe with a positive share of at least one image in a batch, if positives are drawn more often at all.

        A batch of one image has no room for it.
        """
        if self.positive_share == 0 or self.batch_size == 1:
            return self
        return replace(self, positive_share=max(self.positive_share, 1 / self.batch_size))

    def fitted(self, updates: int) -> Recipe:
        """The recipe with the defaults that follow from the number of updates in an epoch.

        An average whose horizon, 1 / (1 - decay) updates, is longer than a tenth of the run only holds it back.
        """
        values = {}
        if self.warmup_epochs is None:
            values["warmup_epochs"] = round(self.epochs / 10, 3)
        if self.ema_decay is None:
            values["ema_decay"] = round(max(0.0, min(LONGEST_DECAY, 1 - 10 / (updates * self.epochs))), 6)
        return replace(self, **values)
