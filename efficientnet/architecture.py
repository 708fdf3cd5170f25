"""Flags that name an architecture, shared by scale.py and train.py. No torch here.

--variant b3                                a released model
--phi 1.5 [--alpha 1.3 ...]                 Equation 3 on the baseline
--depth 0.5 --width 0.25 [--resolution 1]   factors on the baseline, one or more
--baseline resnet50                         the baseline of the last two (default: B0)
--baseline mine.json                        a baseline in a file, as scale.py --json prints it
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientnet.baselines.files import read_baseline
from efficientnet.baselines.stages import BASELINES, get_architecture, get_baseline
from efficientnet.scaling import (
    ALPHA,
    BETA,
    GAMMA,
    LITE_VARIANTS,
    SMALLEST_IMAGE,
    VARIANTS,
    Baseline,
    Coefficients,
    Stage,
    Variant,
    compound_coefficients,
    flops_growth,
    get_variant,
    scale,
    scaled_image_size,
)

FACTORS = ("depth", "width", "resolution")
BASES = {"alpha": ALPHA, "beta": BETA, "gamma": GAMMA}
KNOWN = VARIANTS | LITE_VARIANTS
# Three ways to name an architecture.
BY_VARIANT, BY_FACTORS, BY_PHI = "--variant", "--depth/--width/--resolution", "--phi"
# Warn if alpha * beta^2 * gamma^2 is further than this from 2. The paper's own values give 1.920.
CONSTRAINT_TOLERANCE = 0.2


@dataclass(frozen=True)
class Architecture:
    """Stages with a name and an image size, and the baseline and coefficients that they were derived from.

    name: such as "b3", "b0 at phi 1.5" or "resnet50 with depth 2, width 0.5".
    image_size: pixels a side; None if the stages come from a file that does not record it.
    dropout: the rate of a released variant; None leaves it to `create_model`.
    baseline, coefficients: None if the stages come from a file.
    """

    name: str
    stages: tuple[Stage, ...]
    image_size: int | None
    dropout: float | None = None
    baseline: Baseline | None = None
    coefficients: Coefficients | None = None

    @property
    def title(self) -> str:
        """The name as papers write it: "EfficientNet-B3", "EfficientNet-B0 at phi 1.5"."""
        first, space, rest = self.name.partition(" ")
        known = BASELINES.get(first) or self.baseline
        if known is not None and known.name == first:
            return known.title + space + rest
        return f"EfficientNet-{first.capitalize()}{space}{rest}" if first in KNOWN else self.name

    @property
    def slug(self) -> str:
        """The name in a form that fits into file names: "b3", "b0-phi1.5", "resnet50-depth2-width0.5"."""
        words = re.sub(r" at | with |, ", "-", self.name)
        return re.sub(r"[^\w.-]", "", words).removesuffix("-phi0")  # the name may come from an untrusted file

    @property
    def flags(self) -> str:
        """The command-line flags that reproduce this architecture; empty if the stages come from a file."""
        if self.coefficients is None:
            return ""
        if self.name in KNOWN:
            return f"--variant {self.name}"
        named = ("phi", *BASES) if self.coefficients.phi is not None else FACTORS
        usual = {name: 1 for name in FACTORS} | BASES
        values = {name: getattr(self.coefficients, name) for name in named}
        baseline = self.baseline.file or self.baseline.name
        flags = [] if baseline == "b0" else ["--baseline", shlex.quote(baseline)]
        for name, value in values.items():
            flags += [f"--{name}", shortest(value)] if value != usual.get(name) else []
        return " ".join(flags)


def shortest(value: float) -> str:
    """The shortest text that reads back as the number: "3" for 3.0, all digits if they matter."""
    return text if float(text := f"{value:g}") == value else repr(value)


def derive(baseline: Baseline, coefficients: Coefficients) -> Architecture:
    """The scaled baseline, with a name made from the coefficients.

    Raises ValueError for images below 32 pixels and for a stage of more than 10,000 layers.
    """
    named = [name for name in FACTORS if getattr(coefficients, name) != 1]
    name = baseline.name
    if coefficients.phi is not None:
        name += f" at phi {shortest(coefficients.phi)}"
        named = [base for base, usual in BASES.items() if getattr(coefficients, base) != usual]
    if named:
        name += " with " + ", ".join(f"{one} {shortest(getattr(coefficients, one))}" for one in named)
    image_size = scaled_image_size(baseline, coefficients)
    if image_size < SMALLEST_IMAGE:
        raise ValueError(
            f"resolution {coefficients.resolution:g} gives images of {image_size} pixels; "
            f"the minimum is {SMALLEST_IMAGE}"
        )
    return Architecture(name, scale(baseline, coefficients), image_size, None, baseline, coefficients)


def named_architecture(name: str) -> Architecture:
    """The released variant or the baseline of that name; ValueError lists the known ones."""
    found = get_architecture(name)
    if isinstance(found, Variant):
        origin = (found.dropout, found.baseline, found.coefficients)
    else:
        origin = (None, found, Coefficients())
    return Architecture(found.name, found.stages, found.image_size, *origin)


def recorded_architecture(content: Mapping[str, Any]) -> Architecture:
    """The architecture that a checkpoint of train.py, or a file of `weights.save_weights`, records.

    Raises LookupError if it records none, TypeError or ValueError if the record is damaged.
    """
    stages = content["architecture"]["name_or_stages"]
    if isinstance(stages, str):  # an old checkpoint: a name, not the stages
        return named_architecture(stages)
    named = content["plan"]["architecture"] if "plan" in content else {"name": content["variant"]}
    name = named["name"] if isinstance(named["name"], str) else "own stages"
    return Architecture(name, tuple(Stage(**stage) for stage in stages), named.get("image_size"))


def add_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Add the flags to a parser. default: what the help says is used without any of them."""
    group = parser.add_argument_group("architecture", f"name it in one way (default: {default})")
    group.add_argument("--variant", metavar="NAME", help=f"a released model: {', '.join(KNOWN)}")
    group.add_argument("--phi", type=float, metavar="X", help="compound coefficient, 0 or more, fractions too")
    for (name, value), what in zip(BASES.items(), FACTORS, strict=True):
        group.add_argument(
            f"--{name}", type=float, metavar="X", help=f"base of the {what}, at least 1 (default: {value})"
        )
    for name, what in zip(FACTORS, ("depth", "width", "image size"), strict=True):
        text = f"factor on the baseline's {what}, above 0, instead of phi (default: 1)"
        group.add_argument(f"--{name}", type=float, metavar="X", help=text)
    group.add_argument(
        "--baseline",
        metavar="NAME|FILE",
        help=f"the baseline to scale: {', '.join(BASELINES)}, or a .json file from scale.py --json (default: b0)",
    )


def given(arguments: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    """The values of the flags in `names` that are on the command line."""
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


def is_given(arguments: argparse.Namespace, *names: str) -> bool:
    """Whether any of the flags is on the command line."""
    return bool(given(arguments, names))


def chosen_way(
    arguments: argparse.Namespace,
    others: Mapping[str, bool] | None = None,
    others_with_bases: Collection[str] = (),
    others_with_baseline: Collection[str] = (),
) -> str | None:
    """The one way in which the flags name an architecture, or the one of `others` that is given, or None.

    others: flags of the command that exclude all ways, and whether each is given.
    others_with_bases, others_with_baseline: the `others` that use alpha, beta and gamma, or the baseline.
    Raises ValueError if flags contradict each other.
    """
    ways = {
        **(others or {}),
        BY_VARIANT: is_given(arguments, "variant"),
        BY_FACTORS: is_given(arguments, *FACTORS),
        BY_PHI: is_given(arguments, "phi"),
    }
    chosen = [way for way, used in ways.items() if used]
    if len(chosen) > 1:
        raise ValueError(f"{' and '.join(chosen)} cannot be combined: choose one way to name an architecture")
    if not chosen:
        return BY_PHI if is_given(arguments, *BASES, "baseline") else None
    if is_given(arguments, *BASES) and chosen[0] not in (BY_PHI, *others_with_bases):
        raise ValueError(f"--alpha, --beta and --gamma do not apply to {chosen[0]}")
    if is_given(arguments, "baseline") and chosen[0] not in (BY_PHI, BY_FACTORS, *others_with_baseline):
        raise ValueError(f"--baseline does not apply to {chosen[0]}")
    return chosen[0]


def chosen_baseline(arguments: argparse.Namespace) -> Baseline:
    """The baseline of --baseline: that of a file if the name ends in .json. Raises ValueError if there is none."""
    name = arguments.baseline or "b0"
    if name.lower().endswith(".json"):
        return read_baseline(Path(name))
    try:
        return get_baseline(name)
    except ValueError as error:
        raise ValueError(f"{error}; a file's name must end in .json") from None


def chosen_bases(arguments: argparse.Namespace) -> dict[str, float]:
    """alpha, beta and gamma; by default the paper's."""
    return BASES | given(arguments, BASES)


def chosen_architecture(arguments: argparse.Namespace, way: str) -> Architecture:
    """The architecture that the flags name by `way`, a result of `chosen_way`; ValueError if there is none."""
    if way == BY_VARIANT:
        return named_architecture(get_variant(arguments.variant).name)
    baseline = chosen_baseline(arguments)
    if way == BY_FACTORS:
        return derive(baseline, Coefficients(**given(arguments, FACTORS)))
    return derive(baseline, compound_coefficients(arguments.phi or 0.0, **chosen_bases(arguments)))


def constraint_warning(arguments: argparse.Namespace) -> str | None:
    """A warning if alpha, beta and gamma are far from the constraint of Equation 3, else None."""
    growth = flops_growth(**chosen_bases(arguments))
    if abs(growth - 2) <= CONSTRAINT_TOLERANCE:
        return None
    return (
        f"alpha * beta^2 * gamma^2 = {growth:.3f}, far from 2 (Equation 3): multiply-adds grow by about "
        f"{growth:.2f}^phi, not 2^phi"
    )
