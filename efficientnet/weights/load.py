"""Read another library's checkpoint, load it into our model, and write our weights under the library's names.

    create_model("b3", weights="efficientnet_b3_rwightman-b3899882.pth")

The library is recognised from the names of the tensors (`names.py`), the variant from their shapes (`variants.py`).
Padding, eps and normalisation follow from both (`conventions.py`). Nothing in a file is executed (`files.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from efficientnet.architecture import Architecture, named_architecture, recorded_architecture
from efficientnet.layers import Convention
from efficientnet.model import EfficientNet
from efficientnet.scaling import LITE_VARIANTS
from efficientnet.weights.conventions import CONVENTIONS, WITHOUT_LITE, convention_of, normalisation, published_name
from efficientnet.weights.files import WeightsError, packaged_file, read_tensors, write_tensors
from efficientnet.weights.names import NAMES, OURS, Names, find_names, operator_of, translate
from efficientnet.weights.variants import (
    ARCHITECTURES,
    COUNTER,
    STEM,
    architecture_shapes,
    closest_variant,
    compare,
    recognise_variant,
    variant_of,
)


@dataclass(frozen=True)
class Provenance:
    """Where weights come from, and what they expect of the model and of its input.

    library: one of `CONVENTIONS`.
    variant: a name in `ARCHITECTURES`, or that of an architecture of one's own in a file of this project; else None.
    mean, std: per channel of the file's own input, or one for all of them, of pixels in [0, 1].
    normalisation_known: False where neither the file nor its name tells; mean and std are then ImageNet's.
    """

    file: str
    library: str
    variant: str | None
    convention: Convention
    mean: tuple[float, ...]
    std: tuple[float, ...]
    normalisation_known: bool

    def text(self) -> str:
        """One line."""
        convention, assumed = self.convention, "" if self.normalisation_known else " (assumed)"
        return (
            f"{self.file}: {self.variant or 'no known variant'} ({self.library}), {convention.padding} padding, "
            f"batch-norm eps {convention.batch_norm_eps:g} and momentum {convention.batch_norm_momentum:g}, "
            f"mean {numbers(self.mean)}, std {numbers(self.std)}{assumed}"
        )


@dataclass(frozen=True)
class LoadReport:
    """What became of each of a model's tensors, by our names.

    loaded: as they are in the file.  adapted: the stem, to another number of input channels.  fresh: in the model but
    not in the file, or of another number of classes, and so left as they were initialised.
    """

    provenance: Provenance
    loaded: tuple[str, ...]
    adapted: tuple[str, ...]
    fresh: tuple[str, ...]

    def text(self) -> str:
        """Two lines: where the weights come from, and what was done with them."""
        parts = [f"{len(self.loaded)} tensors loaded"]
        for names, what in ((self.adapted, "adapted"), (self.fresh, "left fresh")):
            parts += [f"{', '.join(names)} {what}"] if names else []
        return f"{self.provenance.text()}\n{'; '.join(parts)}"


@dataclass(frozen=True)
class Weights:
    """A file of weights, read and recognised.  `tensors` have the library's names, without prefixes.

    architecture: a known one, or the one that a file of this project records; else None.
    """

    path: Path
    names: Names
    tensors: Mapping[str, Tensor]
    provenance: Provenance
    architecture: Architecture | None

    @property
    def num_classes(self) -> int | None:
        """None where the file has no classifier."""
        classifier = self.tensors.get(self.names.outer("classifier.weight"))
        return None if classifier is None or classifier.dim() != 2 else classifier.shape[0]

    @property
    def in_channels(self) -> int | None:
        """None where the file has no stem, and cannot be used."""
        stem = self.tensors.get(self.names.outer(STEM))
        return None if stem is None or stem.dim() != 4 else stem.shape[1]

    def load_into(self, model: EfficientNet) -> LoadReport:
        """Copy the tensors into the model; returns what became of each.

        A classifier of another number of classes stays fresh, a stem of another number of channels is adapted (see
        `adapt_stem`); counters of batches that the file does not have stay 0.
        Raises WeightsError where any other tensor is missing, unknown or of another shape; the model is then as before.
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
        return LoadReport(self.provenance, tuple(loaded), tuple(adapted), tuple(fresh))

    def known_architecture(self) -> Architecture:
        """What the file is of; WeightsError where it does not say and is of no known architecture."""
        if self.architecture is not None:
            return self.architecture
        closest, problems = self.nearest()
        if closest is None:
            raise WeightsError(f"{self.path}: is of no known variant; name the architecture")
        raise self.misfit("any known variant", problems)

    def nearest(self) -> tuple[str | None, list[str]]:
        """The known variant from which the fewest tensors differ, and how; None and nothing where most differ."""
        closest = closest_variant(self.names, self.tensors)
        if closest is None:
            return None, []
        return closest, compare(self.names, ARCHITECTURES[closest], architecture_shapes(closest), self.tensors)

    def misfit(self, wanted: str, problems: Sequence[str]) -> WeightsError:
        """In two lines what the file seems to be, and the first differences to what was wanted."""
        closest = self.provenance.variant or closest_variant(self.names, self.tensors)
        seems = "no known variant" if closest is None else f"{closest} ({self.provenance.library})"
        return WeightsError(f"{self.path}: does not fit {wanted}; it seems to be {seems}\n{first_three(problems)}")


def first_three(problems: Sequence[str]) -> str:
    more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
    return "; ".join(problems[:3]) + more


def adapt_stem(weight: Tensor, in_channels: int) -> Tensor:
    """The stem's weight (out, file's channels, k, k) for another number of input channels: (out, in_channels, k, k).

    Each channel gets the sum over the file's channels divided by `in_channels`, since nothing is known of what the
    channels hold.  So an input whose channels are all the same gives the logits that the file's model gives for that
    channel three times.  That is the same after normalisation: a gray image, which has one mean and std, is here what
    a gray image normalised alike in all channels is there.  The averages of the checkpoint's mean and std come closest
    to its own.
    """
    return weight.sum(1, keepdim=True).div(in_channels).repeat(1, in_channels, 1, 1)


def read_weights(
    weights: str | Path,
    source: str | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
) -> Weights:
    """Reads and recognises a .pth, .pt, .bin or .safetensors file, or the installed package of "lite0" to "lite2".

    source: the library (one of `CONVENTIONS`).  It is recognised without, but for timm's two families: "timm" and
        "timm_tf" have the same names and other padding, so that either the file's name or `source` has to say which.
    mean, std: what the weights were trained with, of pixels in [0, 1], one for all channels or one for each, where
        neither the file nor its name tells (timm's and Hugging Face's, renamed) or where they are wrong.
    Raises WeightsError for a file that is missing, damaged, refused for holding code, or not of a known library, and
    for a `source` that it is not; ValueError for a mean and std that cannot be; MissingExtra where the safetensors
    package is missing.
    """
    if (mean is None) != (std is None):
        raise ValueError("mean and std belong together: give both or none")
    if source is not None and source not in CONVENTIONS:
        raise WeightsError(f"unknown source {source!r}: the known ones are {', '.join(CONVENTIONS)}")
    path = packaged_file(str(weights)) if str(weights) in LITE_VARIANTS else Path(weights)
    tensors, recorded = read_tensors(path)
    names, library = recognise_library(path, tensors, source)
    variant = recognise_variant(names, tensors)
    convention = convention_of(library, variant)
    provenance = Provenance(path.name, library, variant, convention, *normalisation(library, variant, path))
    architecture = None if variant is None else named_architecture(variant)
    if library == OURS.library:
        provenance = recorded_provenance(provenance, recorded)
        if architecture is None and "architecture" in recorded:
            try:
                architecture = recorded_architecture(recorded)
            except (LookupError, TypeError, ValueError) as error:
                raise WeightsError(f"{path}: the architecture that it records is damaged ({error})") from None
        provenance = replace(provenance, variant=architecture.name if architecture else None)
    result = Weights(path, names, tensors, provenance, architecture)
    if mean is None or std is None:
        return result
    mean, std = (per_channel(name, value, result.in_channels) for name, value in (("mean", mean), ("std", std)))
    return replace(result, provenance=replace(provenance, mean=mean, std=std, normalisation_known=True))


def per_channel(name: str, value: float | Sequence[float], channels: int | None) -> tuple[float, ...]:
    """A mean or std as one number for each of the channels, if their number is known; ValueError where it cannot be."""
    values = tuple(value) if isinstance(value, Sequence) else (value,) * (channels or 1)
    values = values * (channels or 1) if len(values) == 1 else values
    if channels is not None and len(values) != channels:
        raise ValueError(f"{name} has {len(values)} values, the weights have {channels} input channels")
    if not all(map(math.isfinite, values)) or (name == "std" and min(values) <= 0):
        raise ValueError(f"{name} must be {'above 0' if name == 'std' else 'finite'}, not {numbers(values)}")
    return values


def recognise_library(path: Path, tensors: Mapping[str, Tensor], source: str | None) -> tuple[Names, str]:
    """The table of names that the tensors follow, and the library, which `source` or the path tells where two share it.

    Raises WeightsError where no table fits, where `source` is another library, or where timm's family is unknown.
    """
    for names in (*NAMES, OURS):
        if any(name.startswith(names.signature) for name in tensors):
            break
    else:
        shown = ", ".join(list(tensors)[:3])
        raise WeightsError(f"{path}: no known library names its tensors like this: {shown}")
    if source is not None and source.removesuffix("_tf") != names.library:
        raise WeightsError(f"{path}: its tensors have {names.library}'s names, not {source}'s")
    if source is not None or names.library != "timm":
        return names, source or names.library
    for prefix, library in (("efficientnet_", "timm"), ("tf_efficientnet_", "timm_tf")):
        if published_name(path).startswith(prefix):
            return names, library
    raise WeightsError(
        f"{path}: timm's plain and tf_ models have the same tensors, but other padding and batch-norm eps; "
        'say which this is: source "timm" or "timm_tf"'
    )


def recorded_provenance(provenance: Provenance, recorded: Mapping[str, Any]) -> Provenance:
    """The same, with what one of our own files says of itself.

    The convention is in `architecture`; mean and std are in `preprocessing` (train.py) or at the top (`save_weights`).
    """
    values = {**recorded.get("architecture", {}), **recorded.get("preprocessing", {}), **recorded}
    names = [field.name for field in fields(Convention)]
    convention = replace(provenance.convention, **{name: values[name] for name in names if name in values})
    if "mean" not in values:
        return replace(provenance, convention=convention, normalisation_known=False)
    mean, std = (tuple(v) if isinstance(v, list) else (v,) for v in (values["mean"], values["std"]))
    return replace(provenance, convention=convention, mean=mean, std=std, normalisation_known=True)


def export_state_dict(model: EfficientNet, library: str, any_convention: bool = False) -> dict[str, Tensor]:
    """The model's tensors under the library's names, for `load_state_dict` of the library's own model of the variant.

    library: one of `CONVENTIONS`.  The tensors are the model's own, not copies.
    Raises ValueError for a library without a table for such networks or without EfficientNet-Lite, and, unless
    `any_convention`, where it would compute other logits from them, since its padding or batch-norm eps is another.
    """
    if library not in CONVENTIONS:
        raise ValueError(f"unknown library {library!r}: the known ones are {', '.join(CONVENTIONS)}")
    names = find_names(library, operator_of(model.stages))
    if library in WITHOUT_LITE and any(s.operator == "mbconv" and not s.squeeze_ratio for s in model.stages):
        others = ", ".join(name for name in CONVENTIONS if name not in WITHOUT_LITE)
        raise ValueError(f"{library} has no EfficientNet-Lite (no squeeze-excitation); these have: {others}")
    theirs, ours = convention_of(library, variant_of(model.stages)), model.convention
    if library != OURS.library and not any_convention:
        for what in ("padding", "batch_norm_eps"):
            if getattr(theirs, what) != getattr(ours, what):
                raise ValueError(
                    f"{library} would compute other logits from these weights: its {what} is {getattr(theirs, what)}, "
                    f"here it is {getattr(ours, what)}; --any-convention (any_convention=True) writes them all the same"
                )
    state = model.state_dict()
    translation = translate(names, model.stages, state)
    return {
        ("" if name.startswith("classifier.") else names.prefix) + translation[name]: tensor
        for name, tensor in state.items()
    }


def save_weights(path: Path, model: EfficientNet, library: str = OURS.library, any_convention: bool = False) -> None:
    """Writes `export_state_dict` to .safetensors or, in any other file, as PyTorch does; whole or not at all.

    A file of our own also records the model's stages and convention, and the normalisation of its `provenance` where it
    is known.
    Raises what `export_state_dict` raises, and MissingExtra.
    """
    tensors = export_state_dict(model, library, any_convention)
    recorded: dict[str, Any] = {}
    if library == OURS.library:
        provenance = getattr(model, "provenance", None)  # of a model from `create_model`
        name = variant_of(model.stages) or (provenance and provenance.variant)
        stages = [asdict(stage) for stage in model.stages]
        recorded = {"variant": name, "architecture": {"name_or_stages": stages, **asdict(model.convention)}}
        if provenance is not None and provenance.normalisation_known:
            recorded |= {"mean": list(provenance.mean), "std": list(provenance.std)}
    write_tensors(path, tensors, recorded)


def numbers(values: Sequence[float]) -> str:
    """Such as "0.485 0.456 0.406", or one number where all are the same."""
    return " ".join(f"{value:.4g}" for value in (values if len(set(values)) > 1 else values[:1]))
