"""Read another library's checkpoint, load it into our model, and write our weights under the library's names.

    create_model("b3", weights="efficientnet_b3_rwightman-b3899882.pth")

The names of the tensors identify the library (`recognise.py`), and their shapes the variant (`variants.py`). Padding,
eps and normalisation follow from both (`conventions.py`). Nothing in a file is executed (`files.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efficientnet.architecture import Architecture, named_architecture, recorded_architecture
from efficientnet.layers import Convention
from efficientnet.model import EfficientNet, JointViews
from efficientnet.weights.conventions import (
    CONVENTIONS,
    WITHOUT_LITE,
    EvaluationInput,
    convention_of,
    evaluation_input,
    normalisation,
)
from efficientnet.weights.files import WeightsError, read_tensors, write_tensors
from efficientnet.weights.names import OURS, Names, find_names, operator_of, translate
from efficientnet.weights.published import find_file
from efficientnet.weights.recognise import OF_NO_VARIANT, Network, find_network, recognise_library
from efficientnet.weights.variants import (
    ADDITIONS,
    CLASSIFIER,
    COUNTER,
    STEM,
    compare,
    nearest_architecture,
    recognise_variant,
    variant_of,
)


@dataclass(frozen=True)
class Provenance:
    """The origin of weights, and the convention and images that they expect.

    library: one of `CONVENTIONS`.
    variant: a name in `variants.ARCHITECTURES`, the name that a file of this project records, or None.
    mean, std: of pixels in [0, 1], one for each channel of the file's input or one for all.
    normalisation_known: False if neither the file nor its name gives them; mean and std are then ImageNet's.
    evaluation: the input with which the published accuracy was measured; None for an unknown variant, and for a
        checkpoint of train.py, whose `preprocessing` has its own.
    evaluation_known: False if neither the file nor its name gives it; it is then the library's usual one.
    """

    file: str
    library: str
    variant: str | None
    convention: Convention
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalisation_known: bool
    evaluation: EvaluationInput | None = None
    evaluation_known: bool = False

    def text(self) -> str:
        """A description in one line."""
        convention, assumed, images = self.convention, "" if self.normalisation_known else " (assumed)", ""
        if self.evaluation:
            size, fraction, interpolation = self.evaluation
            images = f"evaluated at {size} pixels, crop {fraction:.3g}, {interpolation}"
            images += ", " if self.evaluation_known else " (input assumed), "
        return (
            f"{self.file}: {self.variant or 'no known variant'} ({self.library}), {convention.padding} padding, "
            f"batch-norm eps {convention.batch_norm_eps:g} and momentum {convention.batch_norm_momentum:g}, "
            f"{images}mean {numbers(self.mean)}, std {numbers(self.std)}{assumed}"
        )


@dataclass(frozen=True)
class LoadReport:
    """Where each tensor of a model came from, by our names.

    loaded: copied from the file. adapted: the stem, if the file has another number of input channels. fresh: left as
    initialised, since the file lacks the tensor or has another number of classes.
    prefix: the text before the names in the file. ignored: the file's names of tensors that the model does not use,
    such as those of a loss or of a custom head.
    """

    provenance: Provenance
    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    fresh: tuple[str, ...]
    prefix: str = ""
    ignored: tuple[str, ...] = ()

    def without_classifier(self) -> LoadReport:
        """The report on a model whose classifier was initialised anew."""
        classifier = tuple(name for name in self.loaded if name.startswith("classifier."))
        kept = tuple(name for name in self.loaded if name not in classifier)
        return replace(self, loaded=kept, fresh=(*self.fresh, *classifier))

    def text(self) -> str:
        """Two lines: the provenance of the weights, and the number or names of the tensors in each group."""
        parts = [f"{len(self.loaded)} tensors loaded{self.prefix and f', without the prefix {self.prefix}'}"]
        for names, what in ((self.adapted, "adapted"), (self.fresh, "left fresh"), (self.ignored, "ignored")):
            parts += [f"{first_three(names, ', ')} {what}"] if names else []
        return f"{self.provenance.text()}\n{'; '.join(parts)}"


@dataclass(frozen=True)
class Weights:
    """A file of weights, read and recognised.

    architecture: a known one, or the one that a file of this project records, or None.
    recorded: everything that a file of this project holds, such as the patients that a checkpoint was trained on.
    """

    path: Path
    network: Network
    provenance: Provenance
    architecture: Architecture | None
    recorded: Mapping[str, Any]

    @property
    def names(self) -> Names:
        return self.network.names

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The network's tensors by the library's names, without prefixes."""
        return self.network.tensors

    @property
    def num_classes(self) -> int | None:
        """The number of classes; None if the file has no classifier."""
        classifier = self.tensors.get(self.names.outer("classifier.weight"))
        return None if classifier is None or classifier.dim() != 2 else classifier.shape[0]

    @property
    def in_channels(self) -> int | None:
        """The number of input channels; None if the file has no stem and cannot be used."""
        stem = self.tensors.get(self.names.outer(STEM))
        return None if stem is None or stem.dim() != 4 else stem.shape[1]

    def load_into(self, model: EfficientNet) -> LoadReport:
        """Copy the tensors into the model.

        A classifier with another number of classes stays fresh, as do a pooling exponent and an attention that the file
        lacks. A stem with another number of channels is adapted (see `adapt_stem`), and batch-norm counters that the
        file lacks stay 0.
        Raises WeightsError if any other tensor is missing, unknown or of another shape, and leaves the model unchanged.
        """
        shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
        problems = compare(self.names, model.stages, shapes, self.tensors)
        if problems:
            raise self.misfit(variant_of(model.stages) or "this architecture", problems)
        state, adapted = {}, []
        for ours, theirs in translate(self.names, model.stages, shapes).items():
            tensor = self.tensors.get(theirs)
            if ours == STEM and tensor.shape != shapes[ours]:
                tensor = adapt_stem(tensor, model.in_channels)
                adapted.append(ours)
            if tensor is not None and tensor.shape == shapes[ours]:
                state[ours] = tensor
        model.load_state_dict(state, strict=False)
        fresh = [name for name in shapes if name not in state and not name.endswith(COUNTER)]
        loaded = [name for name in state if name not in adapted]
        ignored = [*self.network.ignored]
        if model.num_classes == 0:
            ignored += [name for name in map(self.names.outer, CLASSIFIER) if name in self.tensors]
        ignored += [name for name in self.tensors if name.startswith(ADDITIONS) and name not in shapes]
        groups = (tuple(loaded), tuple(adapted), tuple(fresh))
        return LoadReport(self.provenance, *groups, self.network.prefix, tuple(ignored))

    def known_architecture(self) -> Architecture:
        """The file's architecture. Raises WeightsError if it is neither known nor recorded."""
        if self.architecture is not None:
            return self.architecture
        nearest, problems = nearest_architecture(self.names, self.tensors)
        if nearest is None:
            raise WeightsError(f"{self.path}: {OF_NO_VARIANT}")
        raise self.misfit("any known variant", problems)

    def misfit(self, wanted: str, problems: Sequence[str]) -> WeightsError:
        """A two-line error: the probable content of the file, and its first differences from `wanted`."""
        nearest = self.provenance.variant or nearest_architecture(self.names, self.tensors)[0]
        seems = f"{nearest} ({self.provenance.library})" if nearest else "no known variant"
        return WeightsError(f"{self.path}: does not match {wanted}; it looks like {seems}\n{first_three(problems)}")

    def check_finite(self) -> None:
        """Raise WeightsError, in one line, if a value is NaN or infinite, or a tensor is sparse or has no values."""
        strange = [name for name, t in self.tensors.items() if t.is_meta or t.layout != torch.strided]
        if strange:
            raise WeightsError(
                f"{self.path}: {strange[0]} is sparse, or a meta tensor without values; save it as an ordinary tensor"
            )
        floats = {name: t.float() for name, t in self.tensors.items() if t.is_floating_point() and t.numel()}
        # `aminmax` returns NaN if any value is NaN.
        bad = [name for name, t in floats.items() if not torch.stack(t.aminmax()).isfinite().all()]
        if bad:
            others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
            raise WeightsError(f"{self.path}: contains NaN or infinity in {bad[0]}{others}; use an earlier checkpoint")


def first_three(phrases: Sequence[str], separator: str = "; ") -> str:
    """The first three phrases in one line, and the number of the others."""
    more = [f"and {len(phrases) - 3} more"] if len(phrases) > 3 else []
    return separator.join([*phrases[:3], *more])


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """Adapt the stem's weight to another number of channels: (out, C, k, k) -> (out, in_channels, k, k).

    Each new channel gets the sum over the file's channels divided by `in_channels`, since nothing is known about the
    content of the channels. An input that repeats one image in all channels then gives the same logits as the file's
    model with that image in all of its channels. This holds for normalised values. A gray image has one mean and std;
    the averages over the checkpoint's channels come closest to its normalisation.
    """
    return weight.sum(1, keepdim=True).div(in_channels).repeat(1, in_channels, 1, 1)


def read_weights(
    weights: str | Path,
    source: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    variant: str | None = None,
) -> Weights:
    """`inspect_weights`, but also raise WeightsError if the weights are not finite."""
    result = inspect_weights(weights, source, mean, std, variant)
    result.check_finite()
    return result


def inspect_weights(
    weights: str | Path,
    source: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    variant: str | None = None,
) -> Weights:
    """Read and recognise weights: a file, or a published name, URL or package that `published.find_file` resolves.

    source: the library (one of `CONVENTIONS`). Needed only for renamed files of timm, whose families "timm" and
        "timm_tf" have the same tensor names but different padding. efficientnet_blur_b0 also has these names but is
        another network; a renamed file of it cannot be recognised.
    mean, std: the normalisation used in training, for pixels in [0, 1], one value for all channels or one per channel.
        Needed if the file and its name do not give it (renamed files of timm and Hugging Face), or give it wrongly.
    variant: which network of torchvision, for weights "torchvision".
    Raises WeightsError if the file is missing, damaged, refused for holding code, not from a known library or not from
    `source`, or has no network or several; ValueError if mean or std is out of range; MissingExtra if the safetensors
    package is needed but not installed.
    """
    if (mean is None) != (std is None):
        raise ValueError("mean and std belong together: give both or none")
    if source is not None and source not in CONVENTIONS:
        raise WeightsError(f"unknown source {source!r}: the known ones are {', '.join(CONVENTIONS)}")
    path = find_file(weights, variant)
    tensors, recorded = read_tensors(path)
    network = find_network(path, tensors)
    variant, architecture = recognise_variant(network.names, network.tensors), None
    library = recognise_library(path, network.names, variant, source)
    if variant is not None:
        architecture = named_architecture(variant)
    elif "architecture" in recorded:
        try:
            architecture = recorded_architecture(recorded)
        except (LookupError, TypeError, ValueError) as error:
            raise WeightsError(f"{path}: the recorded architecture is damaged ({error})") from None
    name = architecture.name if architecture else None
    convention = convention_of(library, variant)
    images = (*normalisation(library, variant, path), *evaluation_input(library, variant, path))
    provenance = Provenance(path.name, library, name, convention, *images)
    if library == OURS.library:
        provenance = recorded_provenance(provenance, recorded)
    result = Weights(path, network, provenance, architecture, recorded)
    if mean is None:
        return result
    mean, std = (per_channel(name, value, result.in_channels) for name, value in (("mean", mean), ("std", std)))
    return replace(result, provenance=replace(provenance, mean=mean, std=std, normalisation_known=True))


def per_channel(name: str, value: float | Sequence[float], channels: int | None) -> tuple[float, ...]:
    """A mean or std as one number per channel, if `channels` is known. Raises ValueError if it is out of range."""
    values = tuple(value) if isinstance(value, Sequence) else (value,)
    if len(values) == 1:
        values *= channels or 1
    if channels is not None and len(values) != channels:
        raise ValueError(f"{name} has {len(values)} values, the weights have {channels} input channels")
    if not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
        raise ValueError(f"{name} must be {'above 0' if name == 'std' else 'finite'}, not {numbers(values)}")
    return values


def recorded_provenance(provenance: Provenance, recorded: Mapping[str, Any]) -> Provenance:
    """The provenance, updated with the convention and images that a file of this project records.

    The convention is in `architecture`; mean and std are in `preprocessing` (train.py) or at the top (`save_weights`),
    where the input of published weights is as well.
    """
    values = {**recorded.get("architecture", {}), **recorded.get("preprocessing", {}), **recorded}
    names = [field.name for field in fields(Convention)]
    convention = replace(provenance.convention, **{name: values[name] for name in names if name in values})
    known = "evaluation_input" in values
    evaluation = EvaluationInput(*values["evaluation_input"]) if known else provenance.evaluation
    if "preprocessing" in recorded:
        evaluation, known = None, False
    provenance = replace(provenance, convention=convention, evaluation=evaluation, evaluation_known=known)
    if "mean" not in values:
        return replace(provenance, normalisation_known=False)
    mean, std = (tuple(v) if isinstance(v, list) else (v,) for v in (values["mean"], values["std"]))
    return replace(provenance, mean=mean, std=std, normalisation_known=True)


def export_state_dict(model: EfficientNet, library: str, any_convention: bool = False) -> dict[str, Tensor]:
    """The model's tensors under the library's names, for `load_state_dict` of the library's own model of the variant.

    library: one of `CONVENTIONS`. The tensors are the model's own, not copies.
    Raises ValueError if the library has no such networks, blocks or pooling and, unless `any_convention`, if its
    padding or batch-norm eps differs, since it would then compute other logits.
    """
    if library not in CONVENTIONS:
        raise ValueError(f"unknown library {library!r}: the known ones are {', '.join(CONVENTIONS)}")
    names = find_names(library, operator_of(model.stages))
    if library != OURS.library and any(s.operator == "plain" or not s.skip for s in model.stages):
        raise ValueError(f"{library} has no plain convolutions and no blocks without a residual, so no such network")
    if library in WITHOUT_LITE and any(s.operator == "mbconv" and not s.squeeze_ratio for s in model.stages):
        others = ", ".join(name for name in CONVENTIONS if name not in WITHOUT_LITE)
        raise ValueError(f"{library} has no EfficientNet-Lite (no squeeze-excitation); these have: {others}")
    pooling = getattr(model.pooling, "kind", "custom")
    if library != OURS.library and (pooling != "mean" or isinstance(model, JointViews)):
        what = "attention over views" if isinstance(model, JointViews) else f"{pooling} pooling"
        raise ValueError(f"{library} has no {what}, so it would compute different logits from these weights")
    theirs, ours = convention_of(library, variant_of(model.stages)), model.convention
    if library != OURS.library and not any_convention:
        for what in ("padding", "batch_norm_eps"):
            if getattr(theirs, what) != getattr(ours, what):
                raise ValueError(
                    f"{library} would compute different logits from these weights: its {what} is "
                    f"{getattr(theirs, what)}, here it is {getattr(ours, what)}; use --any-convention "
                    "(any_convention=True) to write them anyway"
                )
    state = model.state_dict()
    translation = translate(names, model.stages, state)
    return {
        ("" if name.startswith("classifier.") else names.prefix) + translation[name]: tensor
        for name, tensor in state.items()
    }


def save_weights(path: Path, model: EfficientNet, library: str = OURS.library, any_convention: bool = False) -> None:
    """Write `export_state_dict` to a .safetensors file, or with `torch.save` to any other, completely or not at all.

    Under our own names the file also records the model's stages, convention and pooling, and the normalisation and the
    published input if the model's `provenance` knows them. Raises the errors of `export_state_dict`, and MissingExtra.
    """
    tensors = export_state_dict(model, library, any_convention)
    recorded: dict[str, Any] = {}
    if library == OURS.library:
        provenance = getattr(model, "provenance", None)  # set by `create_model`
        name = variant_of(model.stages) or (provenance and provenance.variant)
        stages = [asdict(stage) for stage in model.stages]
        further = {"pooling": getattr(model.pooling, "kind", "custom"), "joint_views": isinstance(model, JointViews)}
        recorded = {"variant": name, "architecture": {"name_or_stages": stages, **asdict(model.convention), **further}}
        if provenance is not None and provenance.normalisation_known:
            recorded |= {"mean": list(provenance.mean), "std": list(provenance.std)}
        if provenance is not None and provenance.evaluation_known:
            recorded["evaluation_input"] = list(provenance.evaluation)
    write_tensors(path, tensors, recorded)


def numbers(values: Sequence[float]) -> str:
    """The values as text, such as "0.485 0.456 0.406"; one number if all are the same."""
    return " ".join(f"{value:.4g}" for value in (values if len(set(values)) > 1 else values[:1]))
