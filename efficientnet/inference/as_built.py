"""Find the layers that are exactly as `EfficientNet` builds them. The fast path may replace only these.

A user can change a network in any way: another norm or activation, a bias, a wrapper, hooks, parametrizations. So this
module does not look for particular changes. A layer is as built if it equals the one that the network's stages build:
the same classes, settings and shapes all the way down, and no hooks.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from efficientnet.layers import ACTIVATIONS, Convention, GatedAttention, Pooling, SqueezeExcitation
from efficientnet.model import EfficientNet, JointViews
from efficientnet.scaling import Stage

# Settings that do not matter in evaluation, or that the fast path reads from the layer itself.
FREE_SETTINGS = {"training", "eps", "momentum", "rate", "inplace"}
ACTIVATION_KINDS = {*ACTIVATIONS.values()}
# Classes that behave the same in training and in evaluation.
WITHOUT_MODES = (
    *(nn.Sequential, nn.ModuleList, nn.Identity, nn.Conv2d, nn.Linear, SqueezeExcitation, Pooling, GatedAttention),
    *ACTIVATION_KINDS,
)


def check_network(model: nn.Module) -> None:
    """Raise TypeError, naming the module and its class, for a network that copies of its layers cannot reproduce."""
    if type(model) not in (EfficientNet, JointViews):
        raise TypeError(
            f"the fast path needs an EfficientNet, not {type(model).__name__}: "
            "a wrapper or a subclass may compute something else"
        )
    if has_hooks(model):
        raise TypeError(
            f"the network ({type(model).__name__}) has forward hooks, which the fast path would not run: remove them"
        )
    for name, module in model.named_modules():
        what = f"{name or 'the network'} ({type(module).__name__})"
        patched = [name for name in vars(module) if callable(getattr(type(module), name, None))]
        if patched:  # the copy would run a method that may be bound to the original
            raise TypeError(f"{what} overrides {patched[0]} on the instance, which the fast path cannot copy")
        has_modes = not any(is_kind(type(module), kind) for kind in WITHOUT_MODES)
        if module.training and not model.training and has_modes:
            raise TypeError(f"{what} is in training mode, but the network is not: call model.eval() first")


def changed_layers(model: EfficientNet) -> tuple[str, ...]:
    """The names of the stem, blocks, head and pooling that are not as built, such as "body.1.0" or "head"."""
    pooling = model.pooling.kind if isinstance(model.pooling, Pooling) else "mean"
    built = dict(named_layers(network_as_built(model.stages, model.convention, pooling)))
    return tuple(
        name for name, layer in named_layers(model) if name not in built or not is_as_built(layer, built[name])
    )


def named_layers(model: EfficientNet) -> Iterator[tuple[str, nn.Module]]:
    """The stem, the blocks, the head and the pooling, with their names in the model."""
    yield "stem", model.stem
    for number, stage in enumerate(model.body):
        for place, block in enumerate(stage):
            yield f"body.{number}.{place}", block
    yield "head", model.head
    yield "pooling", model.pooling


@functools.cache
def network_as_built(stages: Sequence[Stage], convention: Convention, pooling: str) -> EfficientNet:
    """The network of these stages on the meta device, without weights."""
    with torch.device("meta"):
        return EfficientNet(stages, convention=convention, pooling=pooling)


def is_as_built(layer: nn.Module, built: nn.Module) -> bool:
    """Whether `layer` computes what `built` would compute with the layer's tensors."""
    found, expected = (dict(one.named_modules(remove_duplicate=False)) for one in (layer, built))
    return found.keys() == expected.keys() and all(is_like(found[name], expected[name]) for name in expected)


def is_like(module: nn.Module, built: nn.Module) -> bool:
    """`is_as_built` for the module alone, without its submodules."""
    return (
        is_kind(type(module), type(built))
        and not has_hooks(module)
        and settings(built).items() <= settings(module).items()
        and tensors(module) == tensors(built)
    )


def is_kind(kind: type, built: type) -> bool:
    """Whether `kind` computes in evaluation what `built` does, or both are known activations.

    This package's own subclasses compute the same, and are only faster in training. A user's may compute anything.
    """
    ours = __name__.partition(".")[0] == kind.__module__.partition(".")[0] and issubclass(kind, built)
    synchronised = (kind, built) == (nn.SyncBatchNorm, nn.BatchNorm2d)
    return kind is built or {kind, built} <= ACTIVATION_KINDS or synchronised or ours


def has_hooks(module: nn.Module) -> bool:
    """Whether the module has forward hooks. Other hooks run only in a backward pass or with a state_dict."""
    return any(value for name, value in vars(module).items() if name.startswith("_forward"))


def settings(module: nn.Module) -> dict[str, Any]:
    """Public attributes other than tensors, modules and `FREE_SETTINGS`: sizes, strides, padding and the like."""
    return {
        name: value for name, value in vars(module).items() if not name.startswith("_") and name not in FREE_SETTINGS
    }


def tensors(module: nn.Module) -> dict[str, tuple[type, torch.Size]]:
    """The class and shape of the module's own parameters and buffers. A quantised tensor has a class of its own."""
    named = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
    return {name: (type(tensor), tensor.shape) for name, tensor in named}
