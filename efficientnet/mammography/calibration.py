"""Calibration: probabilities that mean what they say.

A network ranks breasts well, but its probabilities are too extreme or too timid, and pF1 depends on them. Two numbers,
fitted to breasts that it was not trained on, correct the logits: a slope (the inverse of a temperature) and a bias.

Source: Platt (1999), "Probabilistic Outputs for Support Vector Machines"; with the bias 0, the temperature scaling of
Guo et al. (2017), "On Calibration of Modern Neural Networks".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efficientnet.mammography.targets import sigmoid
from efficientnet.metrics import validated

PENALTY = 0.1  # of the squared distance from slope 1 and bias 0, in nats; breasts weigh more as soon as there are some
LEAST = 1e-7  # probabilities are clipped to [LEAST, 1 - LEAST]: float32 rounds others to 0 and 1


@dataclass(frozen=True)
class Calibration:
    """Turns a breast's probability p into sigmoid(slope * logit(p) + bias). A slope of at least 0 keeps the order."""

    slope: float = 1.0
    bias: float = 0.0

    def __call__(self, probabilities: ArrayLike) -> NDArray[np.float64]:
        return sigmoid(self.slope * logit(probabilities) + self.bias)

    @property
    def temperature(self) -> float:
        """Above 1 if the predictions were too extreme, below 1 if too timid."""
        return 1 / self.slope if self.slope else math.inf


def logit(probabilities: ArrayLike) -> NDArray[np.float64]:
    clipped = np.clip(np.asarray(probabilities, dtype=np.float64), LEAST, 1 - LEAST)
    return np.log(clipped) - np.log1p(-clipped)


def fit_calibration(labels: ArrayLike, probabilities: ArrayLike) -> Calibration:
    """The calibration with the lowest log loss on these breasts, lightly drawn towards leaving them as they are.

    If high probabilities are worse than low ones, the slope is 0. Without breasts, nothing is changed. Raises
    ValueError as `metrics.probabilistic_f1` does.
    """
    positive, scores = validated(labels, probabilities)
    features = np.stack((logit(scores), np.ones(len(scores))), axis=1)
    slope, bias = newton(features, positive, np.array([1.0, 0.0]))
    if slope < 0:
        slope, (bias,) = 0.0, newton(features[:, 1:], positive, np.zeros(1))
    return Calibration(float(slope), float(bias))


def newton(
    features: NDArray[np.float64], positive: NDArray[np.bool_], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Minimise the log loss of sigmoid(features (N, K) @ w) plus PENALTY |w - start|^2, which is convex in w (K,)."""

    def loss(w: NDArray[np.float64]) -> float:
        signed = np.where(positive, -1.0, 1.0) * (features @ w)
        return float(np.logaddexp(0, signed).sum() + PENALTY * ((w - start) ** 2).sum())

    w = start
    for _ in range(100):
        probabilities = sigmoid(features @ w)
        gradient = features.T @ (probabilities - positive) + 2 * PENALTY * (w - start)
        weights = probabilities * (1 - probabilities)
        hessian = (features * weights[:, None]).T @ features + 2 * PENALTY * np.eye(len(w))
        step = np.linalg.solve(hessian, gradient)
        while loss(w - step) > loss(w) and np.abs(step).max() > 1e-10:  # far from the minimum, a step may be too long
            step = step / 2
        w = w - step
        if np.abs(step).max() < 1e-8:
            break
    return w


def cross_fitted(
    labels: ArrayLike, probabilities: ArrayLike, patients: Sequence[str], folds: int = 5, seed: int = 0
) -> NDArray[np.float64]:
    """Calibrated probabilities (N,), each by a calibration that was fitted to other patients only.

    Patients with and without a positive breast are dealt into `folds` in the order of a hash of their identifiers, so
    the result does not depend on the order of the breasts. Raises ValueError as `metrics.probabilistic_f1` does.
    """
    positive, scores = validated(labels, probabilities)
    fold_of = deal(positive, patients, folds, seed)
    folds_of_breasts = np.array([fold_of[patient] for patient in patients], dtype=int)
    calibrated = np.empty(len(scores))
    for fold in set(fold_of.values()):
        own = folds_of_breasts == fold
        calibrated[own] = fit_calibration(positive[~own], scores[~own])(scores[own])
    return calibrated


def deal(positive: NDArray[np.bool_], patients: Sequence[str], folds: int, seed: int) -> dict[str, int]:
    """The fold of each patient."""

    def key(patient: str) -> bytes:
        return hashlib.sha256(f"{seed} {patient}".encode(errors="surrogateescape")).digest()

    affected = {patient for patient, has in zip(patients, positive, strict=True) if has}
    order = [*sorted(affected, key=key), *sorted(set(patients) - affected, key=key)]
    return {patient: place % folds for place, patient in enumerate(order)}
