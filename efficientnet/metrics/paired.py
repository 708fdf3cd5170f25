"""Student's paired t test, of one number for each seed under two conditions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class PairedDifference:
    """The mean of n differences, half the width of its 95 % interval, and the two-sided p value of a mean of 0.

    With a single pair, the half-width is infinite and p is nan.
    """

    mean: float
    half_width: float
    p: float


def paired_difference(values: Sequence[float], others: Sequence[float]) -> PairedDifference:
    """Values minus others, pair by pair. ValueError for different lengths and for none."""
    differences = np.array([value - other for value, other in zip(values, others, strict=True)], float)
    n = len(differences)
    if n == 0:
        raise ValueError("a paired difference needs at least one pair")
    mean = float(differences.mean())
    if n == 1:
        return PairedDifference(mean, math.inf, math.nan)
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    within, t = t_distribution(n - 1)
    if error == 0:
        return PairedDifference(mean, 0.0, float(mean == 0))
    return PairedDifference(
        mean, float(np.interp(0.95, within, t)) * error, 1 - float(np.interp(abs(mean) / error, t, within))
    )


def t_distribution(degrees: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (probability that |T| <= t, t), both increasing, of Student's t with so many degrees of freedom.

    With T = sqrt(degrees) tan(theta), the density of theta is proportional to cos(theta)^(degrees - 1).
    """
    theta = np.linspace(0, math.pi / 2, 200_001)[:-1]
    density = np.cos(theta) ** (degrees - 1)
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2)])
    return area / (area[-1] + density[-1] / 2), math.sqrt(degrees) * np.tan(theta)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values, adjusted so that a family of tests at 5 % finds anything by chance in at most 5 % of cases.

    nan stays nan and is not counted. Source: S. Holm (1979), "A simple sequentially rejective multiple test procedure".
    """
    order = [place for place in np.argsort(p_values) if not math.isnan(p_values[place])]
    adjusted, largest = [math.nan] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
