"""The networks of the studies: small baselines, scaled in several ways to the same multiply-adds. No torch here."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial

import numpy as np

from efficientnet.analysis.search import grid_search
from efficientnet.architecture import BASES, FACTORS
from efficientnet.complexity import Complexity, complexity
from efficientnet.scaling import (
    ALPHA,
    BETA,
    BLOCKS,
    GAMMA,
    Baseline,
    Coefficients,
    compound_coefficients,
    scale,
    scaled_image_size,
)

BASELINE, COMPOUND = "baseline", "compound"


def compound_step(factor: float, bases: tuple[float, float, float]) -> Coefficients:
    """Equation 3 at phi = factor - 1."""
    return compound_coefficients(round(factor - 1, 6), *bases)


# One dimension alone, or all by Equation 3 with the paper's bases, as functions of one number that is at least 1.
WAYS: dict[str, Callable[[float], Coefficients]] = {
    "depth": lambda factor: Coefficients(depth=factor),
    "width": lambda factor: Coefficients(width=factor),
    "resolution": lambda factor: Coefficients(resolution=factor),
    COMPOUND: lambda factor: compound_step(factor, (ALPHA, BETA, GAMMA)),
}
STEP = 0.01  # between the numbers that are tried
# How far the multiply-adds may be from the target, and the target from the growth that was asked for.
TOLERANCE, LEEWAY = 0.05, 0.33
# The least phi of compound scaling, as a share of what Equation 3 takes for the same cost, log2 of its growth.
LEAST_PHI = 0.5
# The small baselines to choose from, as (width, image size), from the cheapest on. They keep their layers: with fewer,
# rounding up would leave little of compound scaling.
SIZES = ((0.35, 48), (0.5, 48), (0.5, 64), (0.5, 96), (1.0, 128), (1.0, 224))


@dataclass(frozen=True)
class Network:
    """A small baseline scaled in one way.

    counts: for one image, with the classifier for the data's classes.
    growth: the multiply-adds that were asked for, in those of the baseline.
    target: the multiply-adds to match, the same for all ways.
    """

    way: str
    baseline: Baseline
    coefficients: Coefficients
    counts: Complexity
    growth: float = 1.0
    target: float = 0.0

    @property
    def slug(self) -> str:
        """For file names: "b0-small-depth-x4"."""
        growth = "" if self.way == BASELINE else f"-x{self.growth:g}"
        return f"{self.baseline.name}-{self.way.replace(', ', '-')}{growth}"

    @property
    def flags(self) -> str:
        """The flags of train.py and scale.py after --baseline FILE: "--depth 5.01"."""
        chosen = self.coefficients
        if chosen.phi is None:
            return " ".join(f"--{name} {value:g}" for name in FACTORS if (value := getattr(chosen, name)) != 1)
        bases = [f"--{name} {value:g}" for name, usual in BASES.items() if (value := getattr(chosen, name)) != usual]
        return " ".join([f"--phi {chosen.phi:g}", *bases])

    @property
    def is_papers(self) -> bool:
        """Whether Equation 3 scales it, with the paper's bases."""
        chosen = self.coefficients
        return (chosen.alpha, chosen.beta, chosen.gamma) == (ALPHA, BETA, GAMMA)

    @property
    def layers(self) -> int:
        """Blocks, which are what depth multiplies."""
        return sum(stage.layers for stage in scale(self.baseline, self.coefficients) if stage.operator in BLOCKS)

    @property
    def image_size(self) -> int:
        return scaled_image_size(self.baseline, self.coefficients)


def small_baseline(baseline: Baseline, width: float, image_size: int) -> Baseline:
    """The baseline with fewer channels and on smaller images, as a baseline of its own."""
    title = f"{baseline.title} with width {width:g} at {image_size} pixels"
    return Baseline(f"{baseline.name}-small", scale(baseline, Coefficients(width=width)), image_size, title)


def unscaled_network(baseline: Baseline, classes: int) -> Network:
    """The baseline itself."""
    counts = counts_of(baseline, Coefficients(), classes)
    return Network(BASELINE, baseline, Coefficients(), counts, 1.0, counts.multiply_adds)


@cache
def matched_networks(baseline: Baseline, growth: float, classes: int) -> list[Network]:
    """The baseline scaled in each of the `WAYS` to about `growth` times its multiply-adds, all to the same target.

    Layers are whole, channels multiples of eight, and sizes whole pixels, so each way reaches only some costs. The
    target is the one near `growth` that the four match best.
    Raises ValueError if they cannot be matched within `TOLERANCE`.
    """
    wanted = growth * counts_of(baseline, Coefficients(), classes).multiply_adds
    reached = {way: reachable(baseline, make, wanted, classes) for way, make in WAYS.items()}

    def nearest(cost: float) -> list[Network]:
        return [min(networks, key=lambda network: distance(network, cost)) for networks in reached.values() if networks]

    def quality(cost: float) -> tuple[float, float]:
        """How well the ways match each other near this cost, and then how near it is to the growth."""
        costs = [network.counts.multiply_adds for network in nearest(cost)]
        return round(max(costs) / min(costs), 2), abs(math.log(cost / wanted))

    if not all(reached.values()):
        raise ValueError(f"{baseline.title}: {growth:g} times its multiply-adds is too little to scale it to")
    chosen = nearest(min((network.counts.multiply_adds for each in reached.values() for network in each), key=quality))
    costs = [network.counts.multiply_adds for network in chosen]
    target = math.sqrt(max(costs) * min(costs))
    if max(costs) > (1 + TOLERANCE) * target:
        raise ValueError(f"{baseline.title}: no scaling to {growth:g} times its multiply-adds matches within 5 %")
    return [replace(network, way=way, growth=growth, target=target) for way, network in zip(WAYS, chosen, strict=True)]


def distance(network: Network, cost: float) -> float:
    return abs(math.log(network.counts.multiply_adds / cost))


def counts_of(baseline: Baseline, coefficients: Coefficients, classes: int) -> Complexity:
    return complexity(scale(baseline, coefficients), scaled_image_size(baseline, coefficients), classes)


def reachable(baseline: Baseline, make: Callable[[float], Coefficients], wanted: float, classes: int) -> list[Network]:
    """The networks of different cost, within `LEEWAY` of the one that is wanted, that one way of scaling reaches.

    Layers are rounded up, which deepens a small baseline at once. So Equation 3 may reach a cost at a phi that scales
    little else; such networks are left out.
    """
    found: dict[int, Network] = {}
    unscaled = counts_of(baseline, Coefficients(), classes).multiply_adds
    for step in itertools.count(1):
        coefficients = make(round(1 + step * STEP, 6))
        counts = counts_of(baseline, coefficients, classes)
        if counts.multiply_adds > (1 + LEEWAY) * wanted:
            return list(found.values())
        growth, phi = counts.multiply_adds / unscaled, coefficients.phi
        is_balanced = phi is None or phi >= LEAST_PHI * math.log2(growth)
        if counts.multiply_adds > wanted / (1 + LEEWAY) and is_balanced:
            found.setdefault(counts.multiply_adds, Network("", baseline, coefficients, counts))


@cache
def step1_networks(baseline: Baseline, count: int, classes: int, step: float = 0.1) -> list[Network]:
    """Candidates of STEP 1 (section 4), the paper's first: alpha, beta, gamma on a grid where they double the cost.

    The paper takes phi = 1 and products of about 2. With few layers and channels, rounding moves the true cost far
    from that, so here each candidate has the phi at which its multiply-adds match those of the paper's choice, near
    twice the baseline's. Of the different networks, of which there are many, `count` are taken, evenly spread over the
    list ordered by alpha, beta and gamma.
    Raises ValueError if rounding leaves no network of the paper's choice near that cost.
    """
    paper = (ALPHA, BETA, GAMMA)
    doubled = 2 * counts_of(baseline, Coefficients(), classes).multiply_adds
    bases = [paper, *sorted(candidate.bases for candidate in grid_search(baseline, step) if not candidate.is_papers)]
    reached = {each: reachable(baseline, partial(compound_step, bases=each), doubled, classes) for each in bases}

    def matching(target: float) -> list[Network]:
        """The different networks whose cost is within `TOLERANCE` of this one."""
        found: dict[tuple, Network] = {}
        for each, networks in reached.items():
            network = min(networks, key=lambda network: distance(network, target), default=None)
            if network is not None and distance(network, target) <= math.log(1 + TOLERANCE):
                way = "{:g}, {:g}, {:g}".format(*each)
                same = scale(baseline, network.coefficients), network.counts
                found.setdefault(same, replace(network, way=way, growth=2.0, target=target))
        return list(found.values())

    lists = [matching(network.counts.multiply_adds) for network in reached[paper]]
    if not lists:
        raise ValueError(f"{baseline.title}: rounding leaves no network of the paper's choice at twice its cost")
    first, *others = max(lists, key=len)
    places = np.linspace(0, len(others) - 1, min(count - 1, len(others))).round().astype(int)
    return [first, *(others[place] for place in places)]
