"""Pooling before the classifier: over the pixels of an image, and over the views of a breast."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

POOLINGS = ("mean", "gem", "max")


class Pooling(nn.Module):
    """Pool over the pixels, each channel by itself: (N, C, H, W) -> (N, C).

    kind: "mean", as in the paper, "max", or "gem", the generalised mean with a learnable exponent. Raises ValueError
    for another kind. Only "gem" has a parameter: `exponent` (1,), initially 3.
    """

    def __init__(self, kind: str = "mean") -> None:
        super().__init__()
        if kind not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}, not {kind!r}")
        self.kind = kind
        if kind == "gem":
            self.exponent = nn.Parameter(torch.full((1,), 3.0))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "gem":
            return generalised_mean(x, self.exponent)
        return x.amax((2, 3)) if self.kind == "max" else x.mean((2, 3))

    def extra_repr(self) -> str:
        return self.kind


def generalised_mean(x: Tensor, exponent: Tensor) -> Tensor:
    """The generalised mean over the pixels, (mean of x^p)^(1 / p): (N, C, H, W) -> (N, C).

    p = 1 is the mean, and p -> infinity the maximum. Powers need a positive base, but swish is slightly negative below
    0, so values below 1e-6 count as 1e-6. Computed in fp32 also under autocast, since powers exceed the range of fp16
    and the digits of bf16.
    Source: Radenovic, Tolias and Chum (2018), "Fine-tuning CNN image retrieval with no human annotation", section 3.2.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    positive = x.to(dtype).clamp(min=1e-6)
    exponent = exponent.to(dtype).clamp(min=1)  # below, it is no longer between the mean and the maximum
    # The mean is proportional to its input. Relative to the largest value, no power overflows and no mean is 0.
    largest = positive.detach().amax((2, 3), keepdim=True)
    mean = (positive / largest).pow(exponent).mean((2, 3)).pow(1 / exponent)
    return (mean * largest.flatten(1)).to(x.dtype)


class GatedAttention(nn.Module):
    """Weights of the views of a breast, from their features: w^T (tanh(V h) * sigmoid(U h)), and a softmax over views.

    features (M, F) of the views that are there, and present (N, V), which says where they are, with M True values
    -> weights (N, V), which sum to 1 over a breast's views and are 0 for absent ones. Initially they are equal.
    Source: Ilse, Tomczak and Welling (2018), "Attention-based deep multiple instance learning", Equation 9.
    """

    def __init__(self, features: int, hidden: int = 64) -> None:
        super().__init__()
        self.content = nn.Linear(features, hidden, bias=False)  # V
        self.gate = nn.Linear(features, hidden, bias=False)  # U
        self.score = nn.Linear(hidden, 1, bias=False)  # w
        nn.init.zeros_(self.score.weight)

    def forward(self, features: Tensor, present: Tensor) -> Tensor:
        scores = self.score(self.content(features).tanh() * self.gate(features).sigmoid()).flatten()  # (M,)
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        # The lowest number rather than -infinity, which would give nan for a breast without a view.
        lowest = torch.finfo(scores.dtype).min
        return scores.new_full(present.shape, lowest).masked_scatter(present, scores).softmax(1)


def pool_views(images: Tensor, features_of: Callable[[Tensor], Tensor], attention: nn.Module) -> Tensor:
    """The mean of the views' features, weighted by attention: (N, V, C, H, W) or, for V = 1, (N, C, H, W) -> (N, F).

    An absent view is nan throughout. features_of maps the M present ones, (M, C, H, W), to features (M, F), so an
    absent view costs no time and does not influence batch norm. A breast without any view has features 0. The result
    does not depend on the order of the views.
    Raises ValueError for another number of dimensions.
    """
    if images.dim() not in (4, 5):
        raise ValueError(f"expected images (N, V, C, H, W) or (N, C, H, W), got a tensor {tuple(images.shape)}")
    if images.dim() == 4:
        images = images[:, None]
    present = ~images[:, :, 0, 0, 0].isnan()  # (N, V)
    features = features_of(images[present])
    weights = attention(features, present)
    by_view = features.new_zeros(*present.shape, features.shape[1]).masked_scatter(present[..., None], features)
    return (weights[..., None] * by_view).sum(1).to(features.dtype)
