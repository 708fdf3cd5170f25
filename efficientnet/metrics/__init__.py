"""Probabilistic F1, the score of the RSNA 2022 screening-mammography competition, and related metrics.

The functions take one label (0 or 1) and one probability per breast: two sequences of length N, as lists, numpy
arrays or torch tensors.

The probabilities are *mass*: a breast with p = 0.3 counts as 0.3 of a positive call. Summed over the breasts,

    true mass        t = sum of p over the positive breasts     (Kaggle's ctp)
    predicted mass   m = sum of p over all breasts              (Kaggle's ctp + cfp)
    positives        n = number of positive breasts

give precision t / m and recall t / n. With p in {0, 1} these are the ordinary precision and recall. That is why a
threshold tuned on held-out patients may be applied before scoring, and why it raises the score so much.

bootstrap        a module: `summarise` computes all metrics at once, each with its interval
paired           a module: the paired t test, of a number for each seed
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


def probabilistic_f1(labels: ArrayLike, probabilities: ArrayLike, beta: float = 1.0) -> float:
    """The probabilistic F-beta score (pF1 for beta = 1), as Kaggle computes it; between 0 and 1.

    Probabilities outside [0, 1] are clipped to it. The score is 0.0 where Kaggle's code divides by zero (no positive
    label, or no predicted mass) and for empty input.

    Raises ValueError for a NaN, a masked value, a label other than 0 or 1, unequal lengths, or a beta that is not
    positive.
    Source: the competition's "Evaluation" page, after Yacouby and Axman (2020), "Probabilistic Extension of
    Precision, Recall, and F1 Score for More Thorough Evaluation of Classification Models".
    """
    positive, scores = validated(labels, probabilities)
    mass = np.clip(scores, 0.0, 1.0)
    return float(f_score(mass[positive].sum(), mass.sum(), positive.sum(), beta))


def clshub_pf1(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The pF1 of clshub's model card, in percent: both denominators are at least 1, and nothing is clipped.

    Without predictions outside [0, 1], it is below 100 x pF1 only if the predicted mass is less than 1.
    Raises ValueError as `probabilistic_f1` does.
    """
    positive, scores = validated(labels, probabilities)
    true_mass, false_mass = float(scores[positive].sum()), float(scores[~positive].sum())
    precision, recall = true_mass / max(true_mass + false_mass, 1.0), true_mass / max(int(positive.sum()), 1)
    return 100 * 2 * precision * recall / (precision + recall) if precision > 0 and recall > 0 else 0.0


def best_threshold(labels: ArrayLike, probabilities: ArrayLike, beta: float = 1.0) -> tuple[float, float]:
    """The threshold whose calls `probability >= threshold` have the highest F-beta, and that F-beta.

    The threshold lies midway between the lowest score that is called and the highest that is not, so it does not hinge
    on a single breast. If every breast is called, it is the lowest score itself. Among thresholds of equal F-beta the
    highest wins: the same score with fewer women recalled.

    Without a positive label the threshold is NaN and the score 0.0, since all thresholds are equally good. The score
    is optimistic, because the threshold is tuned on the same breasts. Raises ValueError as `probabilistic_f1` does.
    """
    positive, scores = validated(labels, probabilities)
    thresholds, positives, negatives = tally(positive, scores)
    f1 = f_score(at_or_above(positives), at_or_above(positives + negatives), positive.sum(), beta)
    if not positive.any():
        return math.nan, 0.0
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    lowest_called = float(thresholds[best])
    highest_not_called = float(thresholds[best - 1]) if best > 0 else lowest_called
    middle = highest_not_called + (lowest_called - highest_not_called) / 2
    # There is no midpoint of two equal scores, of adjacent floating-point numbers, or of minus infinity and a number.
    lies_between = highest_not_called < middle <= lowest_called
    return middle if lies_between else lowest_called, float(f1[best])


def roc_auc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Area under the ROC curve; the scores may have any range, since only their order counts.

    This is the probability that a positive breast scores above a negative one, with a tie counted as one half (the
    Mann-Whitney statistic with mid-ranks). NaN unless both classes are present. Raises ValueError as
    `probabilistic_f1` does.
    """
    _, positives, negatives = tally(*validated(labels, probabilities))
    pairs = float(positives.sum()) * float(negatives.sum())
    if pairs == 0:
        return math.nan
    negatives_below = np.cumsum(negatives) - negatives
    return float(positives @ (negatives_below + negatives / 2) / pairs)


def average_precision(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Average precision: the sum over thresholds of (increase in recall) x (precision), without interpolation.

    The definition is that of scikit-learn's `average_precision_score`. NaN if no label is positive (scikit-learn warns
    and returns 0). Raises ValueError as `probabilistic_f1` does.
    """
    _, positives, negatives = tally(*validated(labels, probabilities))
    if positives.sum() == 0:
        return math.nan
    true_positives, called = at_or_above(positives), at_or_above(positives + negatives)
    return float(positives @ (true_positives / called) / positives.sum())


def sensitivity_and_specificity(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> tuple[float, float]:
    """The share of positive breasts with probability >= threshold, and of negative breasts below it.

    NaN for a class that is absent. Raises ValueError as `probabilistic_f1` does, and for a NaN threshold.
    """
    positive, scores = validated(labels, probabilities)
    if math.isnan(threshold):
        raise ValueError("threshold is NaN")
    called = scores >= threshold
    return share(called[positive]), share(~called[~positive])


def precision_and_recall_rate(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> tuple[float, float]:
    """The share of positives among the breasts with probability >= threshold, and the share of breasts called.

    In screening these are the positive predictive value and the recall rate, which is not the "recall" of an F score.
    NaN where nothing is called, or for empty input. Raises ValueError as `sensitivity_and_specificity` does.
    """
    positive, scores = validated(labels, probabilities)
    if math.isnan(threshold):
        raise ValueError("threshold is NaN")
    called = scores >= threshold
    return share(positive[called]), share(called)


def sensitivity_at_specificity(labels: ArrayLike, probabilities: ArrayLike, specificity: float = 0.9) -> float:
    """The highest sensitivity of any threshold whose specificity is at least as given.

    NaN unless both classes are present. Raises ValueError as `probabilistic_f1` does.
    """
    sensitivities, specificities = roc_curve(*validated(labels, probabilities))
    return float(sensitivities[specificities >= specificity].max()) if len(sensitivities) else math.nan


def specificity_at_sensitivity(labels: ArrayLike, probabilities: ArrayLike, sensitivity: float = 0.9) -> float:
    """The highest specificity of any threshold whose sensitivity is at least as given.

    NaN unless both classes are present. Raises ValueError as `probabilistic_f1` does.
    """
    sensitivities, specificities = roc_curve(*validated(labels, probabilities))
    return float(specificities[sensitivities >= sensitivity].max()) if len(sensitivities) else math.nan


def brier_score(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """The mean squared difference of label and probability, clipped to [0, 1]; lower is better.

    NaN for empty input. Raises ValueError as `probabilistic_f1` does.
    """
    positive, scores = validated(labels, probabilities)
    return float(((np.clip(scores, 0.0, 1.0) - positive) ** 2).mean()) if len(scores) else math.nan


class ReliabilityBin(NamedTuple):
    """Breasts of similar probability. Of calibrated predictions, `predicted` and `observed` agree."""

    count: int
    positives: int
    predicted: float  # mean probability
    observed: float  # share of positives


def reliability(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> list[ReliabilityBin]:
    """The reliability diagram, by ascending probability, in bins of about equal counts.

    Equal probabilities share a bin, so there may be fewer bins. Raises ValueError as `probabilistic_f1` does.
    """
    positive, scores = validated(labels, probabilities)
    mass = np.clip(scores, 0.0, 1.0)
    codes = equal_count_bins(mass, bins)
    members = [codes == code for code in np.unique(codes)]
    return [
        ReliabilityBin(int(each.sum()), int(positive[each].sum()), float(mass[each].mean()), share(positive[each]))
        for each in members
    ]


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = 10) -> float:
    """The mean over breasts of |predicted - observed| of their bin of `reliability`; lower is better.

    NaN for empty input. Raises ValueError as `probabilistic_f1` does.
    """
    table = reliability(labels, probabilities, bins)
    count = sum(each.count for each in table)
    return sum(each.count * abs(each.predicted - each.observed) for each in table) / count if count else math.nan


def as_scores(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """A one-dimensional float64 array of a sequence, array or tensor (any device). ValueError for a missing value."""
    if hasattr(values, "detach"):  # a torch tensor may require gradients, be on a GPU, or be bfloat16
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, one value per breast, not of shape {array.shape}")
    if np.ma.is_masked(values):
        raise ValueError(f"{name}[{np.argmax(np.ma.getmaskarray(values))}] is masked")
    if array.dtype.kind not in "biufO":
        raise ValueError(f"{name} must be numbers, not {array.dtype}")
    try:
        scores = array.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be numbers: {error}") from None
    missing = np.isnan(scores)
    if missing.any():
        raise ValueError(f"{name}[{np.argmax(missing)}] is NaN")
    return scores


def validated(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels as booleans and probabilities as float64, both of shape (N,)."""
    values, scores = as_scores("labels", labels), as_scores("probabilities", probabilities)
    if len(values) != len(scores):
        raise ValueError(f"{len(values)} labels but {len(scores)} probabilities")
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        raise ValueError(f"labels[{np.argmax(wrong)}] is {values[wrong][0]:g}; labels must be 0 or 1")
    return values == 1, scores


def f_score(true_mass: Any, predicted_mass: Any, positives: Any, beta: float) -> NDArray[np.float64]:
    """F-beta from t, m and n (see the top of this file), elementwise.

    Put P = t / m and R = t / n into (1 + b^2) P R / (b^2 P + R) and multiply numerator and denominator by m n / t. The
    result, (1 + b^2) t / (b^2 n + m), is 0 wherever P or R is 0 or undefined, since t is then 0.
    """
    weight = beta * beta
    if not (beta > 0.0 and 0.0 < weight < math.inf):
        raise ValueError(f"beta must be positive (and its square finite), not {beta}")
    denominator = np.asarray(weight * positives + predicted_mass, dtype=np.float64)
    return np.divide((1.0 + weight) * true_mass, denominator, np.zeros_like(denominator), where=denominator > 0)


def tally(
    positive: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The K distinct scores, ascending, and the numbers of positives and of negatives at each score."""
    distinct, codes = np.unique(scores, return_inverse=True)
    positives = np.bincount(codes[positive], minlength=len(distinct))
    return distinct, positives, np.bincount(codes, minlength=len(distinct)) - positives


def roc_curve(
    positive: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sensitivity and specificity of every threshold, the last of which calls nothing; empty without both classes."""
    _, positives, negatives = tally(positive, scores)
    if not (positives.sum() and negatives.sum()):
        return np.empty(0), np.empty(0)
    called, not_called = np.append(at_or_above(positives), 0), np.append(0, np.cumsum(negatives))
    return called / positives.sum(), not_called / negatives.sum()


def equal_count_bins(values: NDArray[np.float64], bins: int) -> NDArray[np.intp]:
    """The bin of each value, from 0 to `bins` - 1, between quantiles; equal values share a bin."""
    if not len(values):
        return np.empty(0, dtype=np.intp)
    return np.searchsorted(np.quantile(values, np.arange(1, bins) / bins), values, side="right")


def at_or_above(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The reverse cumulative sum: each count plus all counts after it."""
    return np.cumsum(counts[::-1])[::-1]


def share(values: NDArray[np.bool_]) -> float:
    """The share of values that are true; NaN if `values` is empty."""
    return float(values.mean()) if values.size else math.nan
