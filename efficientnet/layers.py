"""The building blocks of Table 1: convolution with norm and activation, squeeze-excitation, stochastic depth, MBConv.

Then pooling, over the pixels of an image and over the views of a breast. Tensors are (N, C, H, W) throughout.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Convention:
    """The settings on which ports of EfficientNet disagree. The defaults are the authors'.

    padding: "same" is TensorFlow's, asymmetric for an even size and stride 2; "symmetric" is what torchvision and
        timm's plain models use. The same weights give different outputs under the other padding.
    batch_norm_eps: 1e-3 in the released code; 1e-5 in torchvision's B0-B4 and timm's plain models.
    batch_norm_momentum: the weight of the new batch, as in PyTorch; TensorFlow's 0.99 is 0.01 here.
    """

    padding: str = "same"
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.01

    def __post_init__(self) -> None:
        if self.padding not in ("same", "symmetric"):
            raise ValueError(f'padding must be "same" or "symmetric", not {self.padding!r}')


AUTHORS = Convention()

# The values of `Stage.activation`. Swish is x * sigmoid(x), PyTorch's SiLU.
ACTIVATIONS = {"swish": nn.SiLU, "relu": nn.ReLU, "relu6": nn.ReLU6}
POOLINGS = ("mean", "gem", "max")


def same_padding(x: Tensor, kernel_size: int) -> tuple[int, int, int, int]:
    """TensorFlow's SAME padding for stride 2 and an odd kernel size of 3 or more: (left, right, top, bottom).

    An even size gets one pixel less before than after. The arithmetic has no branch, so `torch.export` traces it for
    any size.
    """
    after = (kernel_size - 1) // 2
    before_width, before_height = ((kernel_size - 2 + x.shape[side] % 2) // 2 for side in (-1, -2))
    return before_width, after, before_height, after


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, and an activation: "swish" (SiLU), "relu", "relu6" or None.

    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)) for any H and W.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        groups: int = 1,
        activation: str | None = "swish",
        convention: Convention = AUTHORS,
    ) -> None:
        super().__init__()
        # With a stride, SAME padding depends on the input size, so pad explicitly.
        self.pads_itself = convention.padding == "same" and stride > 1 and kernel_size > 1
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=0 if self.pads_itself else kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels, eps=convention.batch_norm_eps, momentum=convention.batch_norm_momentum)
        self.act = ACTIVATIONS[activation]() if activation else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if self.pads_itself:
            x = F.pad(x, same_padding(x, self.conv.kernel_size[0]))
        return self.act(self.norm(self.conv(x)))


class SqueezeExcitation(nn.Module):
    """Scale each channel by a gate, computed from the means of all channels (Hu et al. 2018).

    x * sigmoid(expand(swish(squeeze(mean over H and W of x)))); the two 1x1 convolutions have biases.
    """

    def __init__(self, channels: int, squeezed_channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed_channels, 1)
        self.expand = nn.Conv2d(squeezed_channels, channels, 1)
        self.act = nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3), keepdim=True)  # (N, C, 1, 1)
        gate = self.expand(self.act(self.squeeze(gate)))
        return x * gate.sigmoid()


class StochasticDepth(nn.Module):
    """Drop the residual branch of random images in training (Huang et al. 2016).

    The released code calls it drop connect. Survivors are divided by the keep probability, so the expected value
    does not change. In evaluation this is the identity.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"the stochastic-depth rate must be in [0, 1), not {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        mask = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep)
        # In bf16 the factor is rounded, by at most 0.4 %. A mask in fp32 would promote the whole branch to fp32.
        return x * (mask / keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.4f}"


class MBConv(nn.Module):
    """Mobile inverted bottleneck (Sandler et al. 2018) with squeeze-excitation:

        expand    1x1 convolution, norm, swish      in_channels -> expanded   (left out at expansion 1)
        depthwise kxk convolution, norm, swish      expanded, with the stride
        gate      squeeze-excitation                expanded, squeezed to a share of in_channels
        project   1x1 convolution, norm             expanded -> out_channels, no activation
        residual  stochastic depth, plus the input  if the stride is 1 and the channels do not change

    squeezed_channels 0 leaves out the gate; with relu6 as well, this is MobileNetV2's inverted residual. skip False
    leaves out the residual.
    (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        expansion: int,
        squeezed_channels: int,
        stochastic_depth: float = 0.0,
        convention: Convention = AUTHORS,
        activation: str = "swish",
        skip: bool = True,
    ) -> None:
        super().__init__()
        expanded = in_channels * expansion
        self.has_residual = skip and stride == 1 and in_channels == out_channels
        conv = functools.partial(ConvNormAct, convention=convention)
        self.expand = conv(in_channels, expanded, 1, activation=activation) if expansion != 1 else nn.Identity()
        self.depthwise = conv(expanded, expanded, kernel_size, stride, groups=expanded, activation=activation)
        self.gate = SqueezeExcitation(expanded, squeezed_channels) if squeezed_channels else nn.Identity()
        self.project = conv(expanded, out_channels, 1, activation=None)
        self.stochastic_depth = StochasticDepth(stochastic_depth if self.has_residual else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        branch = self.project(self.gate(self.depthwise(self.expand(x))))
        return x + self.stochastic_depth(branch) if self.has_residual else branch


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


def initialise(module: nn.Module) -> None:
    """Initialise one module as the released code does; use with `model.apply(initialise)`.

    Convolutions: normal with variance 2 / fan_out, fan_out = k * k * out_channels / groups. (PyTorch's own fan_out
    ignores groups, so depthwise weights would start far too small.) Classifier: uniform within
    +-1 / sqrt(number of classes). Biases: 0. Batch norm: weight 1, bias 0.
    """
    if isinstance(module, nn.Conv2d):
        fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels // module.groups
        nn.init.normal_(module.weight, std=(2 / fan_out) ** 0.5)
    elif isinstance(module, nn.Linear):
        bound = module.out_features**-0.5
        nn.init.uniform_(module.weight, -bound, bound)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.ones_(module.weight)
    if getattr(module, "bias", None) is not None and isinstance(module.bias, torch.Tensor):
        nn.init.zeros_(module.bias)
