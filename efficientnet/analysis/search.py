"""Searches over Equation 3: the grid of STEP 1 (section 4), and the phi that fits a budget."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from efficientnet.complexity import Complexity, complexity
from efficientnet.scaling import (
    ALPHA,
    BETA,
    GAMMA,
    Baseline,
    Coefficients,
    TooLarge,
    compound_coefficients,
    flops_growth,
    scale,
    scaled_image_size,
)


def scaled_complexity(baseline: Baseline, coefficients: Coefficients) -> Complexity:
    """The counts of the baseline scaled by `coefficients`, resolution included."""
    return complexity(scale(baseline, coefficients), scaled_image_size(baseline, coefficients))


def exceeded(counts: Complexity, multiply_adds: float | None, parameters: float | None) -> list[str]:
    """The budgets that the counts exceed, by name: "multiply_adds", "parameters". None means no budget."""
    budgets = {"multiply_adds": multiply_adds, "parameters": parameters}
    return [name for name, most in budgets.items() if most is not None and getattr(counts, name) > most]


# Step of the search for phi: four decimals, few enough to type.
PHI_STEP = 1e-4


def largest_coefficients(
    baseline: Baseline,
    multiply_adds: float | None = None,
    parameters: float | None = None,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
) -> Coefficients:
    """The inverse of Equation 3: the coefficients at the largest phi whose architecture stays within the budgets.

    Counts grow with phi in steps, since channels, layers and pixels are rounded. Bisection finds the largest multiple
    of `PHI_STEP` that does not exceed the budgets.

    Raises ValueError if no budget is given, if the baseline itself (phi = 0) exceeds one, if every base that affects
    the budget is 1, or if the budget exceeds the largest architecture that `scaling` builds.
    """
    least = complexity(baseline.stages, baseline.image_size)
    limits = (multiply_adds, least.multiply_adds, "multiply-adds"), (parameters, least.parameters, "parameters")
    limits = [limit for limit in limits if limit[0] is not None]
    if not limits:
        raise ValueError("give a budget of multiply-adds, of parameters, or both")
    budgets = " and ".join(f"{budget:,.0f} {unit}" for budget, _, unit in limits)
    compound_coefficients(0, alpha, beta, gamma)  # checks the bases
    for budget, count, unit in limits:
        if count > budget:
            raise ValueError(
                f"a budget of {budget:,.0f} {unit} is too small: {baseline.title} itself (phi 0) has {count:,}"
            )
    if alpha == beta == 1 and (multiply_adds is None or gamma == 1):
        bases = "alpha and beta, which are both" if multiply_adds is None else "alpha, beta and gamma, which are all"
        raise ValueError(f"no phi reaches a budget of {budgets}: they depend only on {bases} 1")

    def coefficients(steps: int) -> Coefficients:
        return compound_coefficients(round(steps * PHI_STEP, 4), alpha, beta, gamma)

    def within(steps: int) -> bool:
        try:
            counts = scaled_complexity(baseline, coefficients(steps))
        except TooLarge:
            return False
        return not exceeded(counts, multiply_adds, parameters)

    low, high = 0, 2**13
    while within(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if within(middle) else (low, middle)
    try:
        scaled_complexity(baseline, coefficients(high))
    except TooLarge as error:
        raise ValueError(f"no phi reaches a budget of {budgets}: {error}") from None
    return coefficients(low)


def closest_coefficients(
    baseline: Baseline, multiply_adds: float, alpha: float = ALPHA, beta: float = BETA, gamma: float = GAMMA
) -> Coefficients:
    """The coefficients at the phi whose rounded architecture comes nearest to `multiply_adds`, by |log ratio|.

    Raises ValueError as `largest_coefficients` does.
    """
    below = largest_coefficients(baseline, multiply_adds, None, alpha, beta, gamma)
    above = compound_coefficients(below.phi + PHI_STEP, alpha, beta, gamma)
    return min(
        (below, above),
        key=lambda one: abs(math.log(scaled_complexity(baseline, one).multiply_adds / multiply_adds)),
    )


@dataclass(frozen=True)
class Candidate:
    """One (alpha, beta, gamma) of STEP 1 at phi = 1, with the true counts of its architecture after rounding."""

    coefficients: Coefficients
    product: float  # alpha * beta^2 * gamma^2, ideally 2
    counts: Complexity
    growth: float  # multiply-adds over the baseline's, ideally 2

    @property
    def bases(self) -> tuple[float, float, float]:
        return self.coefficients.alpha, self.coefficients.beta, self.coefficients.gamma

    @property
    def is_papers(self) -> bool:
        return self.bases == (ALPHA, BETA, GAMMA)


def grid_search(baseline: Baseline, step: float = 0.05, tolerance: float = 0.1) -> list[Candidate]:
    """The grid of STEP 1 (section 4): every alpha, beta, gamma >= 1 whose alpha * beta^2 * gamma^2 is about 2.

    Sorted by how closely the rounded architecture doubles the baseline's multiply-adds, |log(growth / 2)|. The paper
    trains each candidate and keeps the most accurate; this is the list to train.

    step: distance between grid points, which start at 1. tolerance: how far the product may be from 2.
    Raises ValueError for a step or tolerance out of range, and if the grid has no candidate.
    """
    if not 0.005 <= step <= 1:
        raise ValueError(f"the step of the grid must be from 0.005 to 1, not {step}")
    if not 0 < tolerance < 1:
        raise ValueError(f"the tolerance must be above 0 and below 1, not {tolerance}")
    before = complexity(baseline.stages, baseline.image_size).multiply_adds
    most = 2 + tolerance  # alpha, beta^2 or gamma^2 alone may reach this
    alphas = [1 + i * step for i in range(int((most - 1) / step + 1e-9) + 1)]
    roots = [value for value in alphas if value**2 <= most]
    found = []
    for alpha, beta, gamma in itertools.product(alphas, roots, roots):
        alpha, beta, gamma = round(alpha, 6), round(beta, 6), round(gamma, 6)
        product = flops_growth(alpha, beta, gamma)
        if abs(product - 2) > tolerance + 1e-9:
            continue
        coefficients = compound_coefficients(1, alpha, beta, gamma)
        counts = scaled_complexity(baseline, coefficients)
        found.append(Candidate(coefficients, product, counts, counts.multiply_adds / before))
    if not found:
        raise ValueError(f"no point of a grid with step {step} has a product within {tolerance} of 2: use a finer step")
    return sorted(found, key=lambda candidate: abs(math.log(candidate.growth / 2)))


def networks(baseline: Baseline, candidates: Sequence[Candidate]) -> list[list[Candidate]]:
    """Group the candidates that round to the same stages and image size, in the order of each group's first one.

    Within a group the paper's choice comes first. The others are sorted by how close their product is to 2.
    """
    together: dict[tuple, list[Candidate]] = {}
    for candidate in candidates:
        rounded = scale(baseline, candidate.coefficients), scaled_image_size(baseline, candidate.coefficients)
        together.setdefault(rounded, []).append(candidate)
    return [sorted(same, key=lambda one: (not one.is_papers, abs(one.product - 2))) for same in together.values()]
