"""Class-activation maps: which regions of an image raise one output of the network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efficientnet.model import EfficientNet, JointViews

LAST = "head"


def class_activation(
    model: EfficientNet, images: Tensor, output: int = 0, layer: str | None = None
) -> tuple[Tensor, Tensor]:
    """Logits (N, O) in evaluation, and maps (N, H, W) of where the images raise the logit `output`.

    images: (N, C, H, W), or (N, V, C, H, W) for a `JointViews`, whose maps are then (N, V, H, W), 0 for absent views.
    layer: the name of a module whose output is (N, K, h, w), such as "body.3". By default it is the head, and for mean
        pooling the map is CAM; otherwise it is Grad-CAM, which is the same there up to a factor.
    Maps are float32, at the size of the images. Each is at least 0, and its maximum is 1, unless it is 0 throughout.
    The model does not change. Raises ValueError for an unknown output or layer.
    """
    if not 0 <= output < model.num_classes:
        raise ValueError(f"output must be from 0 to {model.num_classes - 1}, not {output}")
    averages = getattr(model.pooling, "kind", None) == "mean" and type(model.classifier) is nn.Linear
    with evaluating(model):
        if layer is None and averages and not isinstance(model, JointViews):
            with torch.no_grad():
                features = model.forward_features(images)
                logits, maps = model.classify(model.pooling(features)), cam(features, model.classifier, output)
        else:
            logits, maps = grad_cam(model, images, output, LAST if layer is None else layer)
    maps = as_heat(maps, images.shape[-2:])
    if isinstance(model, JointViews):
        views = images if images.dim() == 5 else images[:, None]
        present = ~views[:, :, 0, 0, 0].isnan()
        everywhere = maps.new_zeros(*present.shape, *images.shape[-2:])
        everywhere[present] = maps
        maps = everywhere.reshape(*images.shape[:-3], *images.shape[-2:])
    return logits, maps


def cam(features: Tensor, classifier: nn.Linear, output: int) -> Tensor:
    """The features before mean pooling (N, K, h, w), weighted by the classifier: (N, h, w).

    The mean over the pixels, plus the classifier's bias, is the logit.
    Source: Zhou et al. (2016), "Learning deep features for discriminative localization", Equation 2.
    """
    return torch.einsum("nkhw,k->nhw", features.float(), classifier.weight[output].detach().float())


def grad_cam(model: nn.Module, images: Tensor, output: int, layer: str) -> tuple[Tensor, Tensor]:
    """Logits, and the layer's output (M, K, h, w) weighted by the mean gradients of its channels: (M, h, w).

    M is the number of images; of a `JointViews`, that of the views that are there.
    Source: Selvaraju et al. (2017), "Grad-CAM", Equations 1 and 2, before the rectification.
    """
    try:
        module = model.get_submodule(layer)
    except AttributeError:
        raise ValueError(f'there is no layer {layer!r}: use one such as "head" or "body.3"') from None
    while isinstance(module, nn.Sequential):  # the network calls the blocks of a stage one by one
        module = module[-1]
    found: list[Tensor] = []

    def begin(module: nn.Module, inputs: object, features: Tensor) -> Tensor:
        """Begin the graph here: the layers before need none, and would take memory."""
        found.append(features.detach().requires_grad_())
        torch.set_grad_enabled(True)  # until the end of `no_grad` below
        return found[-1]

    handle = module.register_forward_hook(begin)
    try:
        with torch.no_grad():
            logits = model(images)
    finally:
        handle.remove()
    if not found or found[0].dim() != 4:
        raise ValueError(f'the output of {layer!r} has no pixels: use a layer such as "head" or "body.3"')
    (gradient,) = torch.autograd.grad(logits[:, output].sum(), found[0])
    weights = gradient.float().mean((2, 3), keepdim=True)  # (M, K, 1, 1)
    return logits.detach(), (weights * found[0].detach().float()).sum(1)


def as_heat(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The positive part of maps (M, h, w) at this size, relative to the maximum of each: (M, H, W) in [0, 1]."""
    maps = F.interpolate(maps.relu()[:, None], size, mode="bilinear")[:, 0]
    largest = maps.amax((1, 2), keepdim=True)
    return torch.where(largest > 0, maps / largest, 0)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; on exit, every module is again in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
