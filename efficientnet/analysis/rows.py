"""The answers of scale.py as plain dicts and lists, for --json and for notebooks. No torch here."""

from __future__ import annotations

import functools
import math
from dataclasses import asdict

from efficientnet.analysis.paper_tables import Reproduction
from efficientnet.analysis.search import PHI_STEP, Candidate, exceeded, scaled_complexity
from efficientnet.architecture import BASES, FACTORS, Architecture, derive, named_architecture
from efficientnet.complexity import Complexity, complexity, stage_complexities
from efficientnet.scaling import (
    ALPHA,
    B0,
    BETA,
    GAMMA,
    VARIANTS,
    Baseline,
    TooLarge,
    Variant,
    compound_coefficients,
    fit_phi,
    implied_phi,
)


@functools.cache
def released_counts() -> dict[str, Complexity]:
    """The counts of each released variant at its own image size."""
    return {name: complexity(variant.stages, variant.image_size) for name, variant in VARIANTS.items()}


def closest_variant(multiply_adds: int) -> tuple[Variant, Complexity]:
    """The released variant with the nearest multiply-adds, by |log ratio|, and its counts."""
    counts = released_counts()
    name = min(counts, key=lambda name: abs(math.log(multiply_adds / counts[name].multiply_adds)))
    return VARIANTS[name], counts[name]


def architecture_row(derived: Architecture) -> dict:
    """One architecture, as `--json` prints it."""
    rows = stage_complexities(derived.stages, derived.image_size)
    total = complexity(derived.stages, derived.image_size)
    return {
        "name": derived.name,
        "coefficients": {key: getattr(derived.coefficients, key) for key in ("phi", *BASES, *FACTORS)},
        "image_size": derived.image_size,
        "stages": [
            {
                **asdict(row.stage),
                "input_resolution": row.input_resolution[0],
                "parameters": row.counts.parameters,
                "multiply_adds": row.counts.multiply_adds,
            }
            for row in rows
        ],
        "parameters": total.parameters,
        "multiply_adds": total.multiply_adds,
        "closest_variant": closest_variant(total.multiply_adds)[0].name,
    }


def budget_rows(derived: Architecture, multiply_adds: float | None, parameters: float | None) -> dict:
    """How `largest_coefficients` uses its budgets: {budgets: {name: {limit, share}}, binding: [name, ...]}.

    share: the part of the limit that is used. binding: the budgets that the next larger phi exceeds.
    """
    chosen = derived.coefficients
    counts = scaled_complexity(derived.baseline, chosen)
    larger = compound_coefficients(chosen.phi + PHI_STEP, chosen.alpha, chosen.beta, chosen.gamma)
    limits = {"multiply_adds": multiply_adds, "parameters": parameters}
    return {
        "budgets": {
            name: {"limit": limit, "share": getattr(counts, name) / limit}
            for name, limit in limits.items()
            if limit is not None
        },
        "binding": exceeded(scaled_complexity(derived.baseline, larger), multiply_adds, parameters),
    }


def table_rows() -> list[dict]:
    """The released variants with their figures in Table 2, or None where the table has no figure."""
    rows = []
    for variant in VARIANTS.values():
        row = architecture_row(named_architecture(variant.name))
        paper = (variant.paper_parameters, 1e6), (variant.paper_flops, 1e9)
        row["paper_parameters"], row["paper_multiply_adds"] = (
            None if value is None else round(value * unit) for value, unit in paper
        )
        row["paper_top1"] = variant.paper_top1
        row["dropout"] = variant.dropout
        row["implied_phi"] = dict(zip(FACTORS, implied_phi(variant.coefficients), strict=True))
        rows.append(row)
    return rows


def fit_rows() -> list[dict]:
    """Equation 3 at the phi that fits each released variant's coefficients best, beside the variant itself."""
    rows = []
    for variant in VARIANTS.values():
        row = architecture_row(derive(B0, compound_coefficients(max(0.0, fit_phi(variant.coefficients)))))
        released = complexity(variant.stages, variant.image_size)
        row["variant"] = variant.name
        row["implied_phi"] = dict(zip(FACTORS, implied_phi(variant.coefficients), strict=True))
        row["variant_image_size"] = variant.image_size
        row["variant_parameters"] = released.parameters
        row["variant_multiply_adds"] = released.multiply_adds
        rows.append(row)
    return rows


def search_rows(baseline: Baseline, candidates: list[Candidate]) -> list[dict]:
    """All candidates of STEP 1 as architectures, best first.

    product, growth: the growth of multiply-adds before and after rounding.
    paper_choice: whether the paper chose it. Candidates that round to the same network have a row each.
    """
    return [
        architecture_row(derive(baseline, candidate.coefficients))
        | {"product": candidate.product, "growth": candidate.growth, "paper_choice": candidate.is_papers}
        for candidate in candidates
    ]


def paper_rows(reproductions: list[Reproduction]) -> list[dict]:
    """Rows of Table 3 or 7: the architecture, the paper's figure, and whether it reproduces."""
    rows = []
    for one in reproductions:
        row = architecture_row(derive(one.row.baseline, one.coefficients))
        row["baseline"] = one.row.baseline.name
        row["paper_multiply_adds"] = round(1e9 * one.row.giga_flops)
        row["paper_top1"] = one.row.top1
        row["coefficients_inferred"] = one.inferred
        row["reproduces"] = one.reproduces
        row["difference"] = one.difference
        rows.append(row)
    return rows


def curve_rows(
    baseline: Baseline,
    alpha: float = ALPHA,
    beta: float = BETA,
    gamma: float = GAMMA,
    last: float = 8,
    step: float = 1,
    most: float = math.inf,
) -> list[dict]:
    """Points {phi, parameters, multiply_adds} of Equation 3 on the baseline, from phi 0 to `last`.

    The curve ends at the first point above `most` multiply-adds, and before the first coefficients that are `TooLarge`.
    """
    rows = []
    for i in range(int(last / step + 1e-9) + 1):
        try:
            counts = scaled_complexity(baseline, compound_coefficients(i * step, alpha, beta, gamma))
        except TooLarge:
            break
        rows.append({"phi": i * step, "parameters": counts.parameters, "multiply_adds": counts.multiply_adds})
        if counts.multiply_adds > most:
            break
    return rows
