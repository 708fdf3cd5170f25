"""How to train: one frozen dataclass <-> command line <-> JSON in the run folder and the checkpoint."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from efficientnet.common.command_line import number


def option(default: Any, convert: Any, help: str, **more: Any) -> Any:
    """A field of the recipe with what its flag needs: the argparse type and the help line."""
    return field(default=default, metadata={"type": convert, "help": help, **more})


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the optimisation.  A field `learning_rate` is the flag --learning-rate.

    The defaults here are plain; what a kind of data wants is given by whoever knows it.

    One *update* is one step of the optimizer: batch_size * accumulate images on each of the ranks.
    """

    seed: int = option(0, number(int, 0, 2**31), "decides initialisation, order, augmentation and folds")
    epochs: int = option(10, number(int, 1), "passes over as many images as the training set has")
    batch_size: int = option(8, number(int, 1), "images a rank in one forward pass")
    accumulate: int = option(1, number(int, 1), "forward passes whose gradients make one update")
    learning_rate: float = option(1e-4, number(float, above=0), "peak rate at 16 images an update; scales with them")
    warmup_epochs: float = option(0.0, number(float, 0), "linear warm-up from 0.01 of the peak, then cosine to 0")
    weight_decay: float = option(0.0, number(float, 0), "AdamW's; none on norms and biases")
    clip: float = option(0.0, number(float, 0), "largest norm of the gradient; 0 leaves it alone")
    dropout: float | None = option(
        None, number(float, 0, 0.99), "before the classifier (default: the variant's, 0.2 for others)"
    )
    stochastic_depth: float | None = option(
        None, number(float, 0, 0.99), "drop rate that the last block approaches (default: 0.2 with MBConv, else 0)"
    )
    auxiliary_weight: float = option(1.0, number(float, 0), "weight of the mean loss of the auxiliary targets")
    label_smoothing: float = option(0.0, number(float, 0, 0.5), "labels become this and 1 minus this")
    positive_share: float = option(
        0.0, number(float, 0, 0.9), "share of positives to which batches are filled up by drawing them again; 0: no"
    )
    prior_correction: bool = option(True, None, "correct predictions back to the prior before --positive-share")
    ema_decay: float = option(0.0, number(float, 0, 0.999999), "moving average of the weights; 0: none")
    augmentation: float = option(0.0, number(float, 0, 2), "strength of flips, affine, contrast, dropout; 0: none")
    batch_norm_momentum: float = option(0.01, number(float, 0, 1), "weight of the newest batch in the statistics")
    pretrained_rate: float = option(1.0, number(float, above=0), "factor on the rate of layers that --weights filled")
    freeze_until: int = option(
        0, number(int, 0), "stages, counted from the stem as 1, that keep the weights of --weights and their statistics"
    )
    freeze_batch_norm: bool = option(False, None, "batch norm keeps the statistics of --weights in every layer")
    sync_batch_norm: bool = option(False, None, "batch norm over all ranks, for small batches on each GPU")
    checkpoint_activations: bool = option(False, None, "keep less for the backward pass: less memory, more time")
    precision: str | None = option(
        None,
        str,
        "autocast type (default: fp16 on CUDA, bf16 on CPUs with units for it, else fp32)",
        choices=["fp32", "bf16", "fp16"],
    )
    select: str = option(
        "pf1", str, "metric that decides which epoch is best.pt",
        choices=["pf1", "pf1_best", "auc", "average_precision", "val_loss"],
    )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the inverse of `Recipe(**values)`."""
        return asdict(self)


NAMES = frozenset(item.name for item in fields(Recipe))


def add_arguments(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    """One flag for each field.  A flag that is not given leaves no trace in the namespace: see `given_values`."""
    group = parser.add_argument_group("recipe")
    for item in fields(Recipe):
        flag = "--" + item.name.replace("_", "-")
        default = getattr(recipe, item.name)
        text = item.metadata["help"] + ("" if default is None else f" (default: {default})")
        if item.metadata["type"] is None:
            group.add_argument(flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS, help=text)
        else:
            group.add_argument(
                flag,
                type=item.metadata["type"],
                choices=item.metadata.get("choices"),
                metavar=None if "choices" in item.metadata else "N",
                default=argparse.SUPPRESS,
                help=text,
            )
    group.add_argument(
        "--freeze-stem",
        dest="freeze_until",
        action="store_const",
        const=1,
        default=argparse.SUPPRESS,
        help="the same as --freeze-until 1",
    )


def given_values(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of the recipe that the command line names."""
    return {name: getattr(arguments, name) for name in sorted(NAMES) if hasattr(arguments, name)}


def from_dict(values: Mapping[str, Any]) -> Recipe:
    """A recipe read back from JSON or a checkpoint.  ValueError names fields that are unknown or out of range."""
    unknown = sorted(set(values) - NAMES)
    if unknown:
        raise ValueError(f"unknown recipe fields: {', '.join(unknown)}")
    for item in fields(Recipe):
        value, convert = values.get(item.name, item.default), item.metadata["type"]
        try:
            plain = value is None or isinstance(value, bool | int | float | str)
            if not plain or (value != item.default and (convert(str(value)) if convert else bool(value)) != value):
                raise ValueError(f"{value!r} is not a {type(item.default).__name__}")
        except (ValueError, argparse.ArgumentTypeError) as error:
            raise ValueError(f"recipe field {item.name}: {error}") from None
    return Recipe(**values)
