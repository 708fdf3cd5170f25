"""Probabilistic F1, the score of the RSNA 2022 screening-mammography competition, and related metrics.

The functions take one label (0 or 1) and one probability per breast: two sequences of length N, as lists, numpy
arrays or torch tensors.

The probabilities are *mass*: a breast with p = 0.3 counts as 0.3 of a positive call. Summed over the breasts,

    true mass        t = sum of p over the positive breasts     (Kaggle's ctp)
    predicted mass   m = sum of p over all breasts              (Kaggle's ctp + cfp)
    positives        n = number of positive breasts

give precision t / m and recall t / n. With p in {0, 1} these are the ordinary precision and recall. That is why a
threshold tuned on held-out patients may be applied before scoring, and why it raises the score so much.

`summarise` computes all metrics at once; `bootstrap_interval` gives the uncertainty of the score.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Metric = Callable[[NDArray[np.bool_], NDArray[np.float64]], float]


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


def bootstrap_interval(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: Iterable[Hashable] | None,
    metric: Metric = probabilistic_f1,
    samples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of a metric, resampling groups with replacement.

    `groups` names the patient of each breast. Patients are drawn, not breasts, since the two breasts of a woman are
    not independent; None makes every breast its own group. Each of the `samples` draws takes as many groups as the
    data have, and computes `metric(labels, probabilities)` over all their breasts.

    Draws for which the metric is NaN (such as an AUC without a positive) are left out. Returns (NaN, NaN) if no draw
    remains or the input is empty. pF1 is never NaN: a draw without positives counts as 0. The same seed gives the
    same interval. Raises ValueError as `probabilistic_f1` does, for a group that is missing (NaN, None or masked) or
    not hashable, for samples < 1, and for a confidence not between 0 and 1.

    Source: Efron and Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13.
    """
    if samples < 1 or not 0.0 < confidence < 1.0:
        raise ValueError(f"samples must be positive and confidence in (0, 1), not {samples} and {confidence}")
    positive, scores = validated(labels, probabilities)
    codes = group_codes(range(len(scores)) if groups is None else groups, len(scores))
    if len(scores) == 0:
        return math.nan, math.nan
    by_group = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes
    generator = np.random.default_rng(seed)

    def value_of_a_draw() -> float:
        drawn = generator.integers(len(sizes), size=len(sizes))
        lengths = sizes[drawn]
        # Element i of the draw is element i - (the start of its group in the draw) of that group.
        begins = np.cumsum(lengths) - lengths
        members = by_group[np.arange(lengths.sum()) + np.repeat(starts[drawn] - begins, lengths)]
        return float(metric(positive[members], scores[members]))

    values = np.array([value_of_a_draw() for _ in range(samples)])
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return math.nan, math.nan
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(values, [tail, 1.0 - tail])
    return float(low), float(high)


def summarise(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: Iterable[Hashable] | None = None,
    threshold: float | None = None,
    beta: float = 1.0,
) -> dict[str, Any]:
    """All metrics of one set of predictions, ready for JSON (non-finite values become None):

    count, positives                 number of breasts, and of those with label 1
    pf1                              probabilistic F-beta of the probabilities, without a threshold
    pf1_best, threshold              the highest F-beta of any threshold, and that threshold, tuned on these breasts
    sensitivity, specificity         at that threshold
    auc, average_precision           from the order of the probabilities alone
    pf1_all_ones                     the score of calling every breast positive, the best constant prediction;
                                     2 q / (1 + q) at prevalence q for beta = 1: .0405 on RSNA (q = .02065)

    With a `threshold` that was tuned on other breasts, also the unbiased counterparts of the tuned values:
    given_threshold, pf1_at_given_threshold, sensitivity_at_given_threshold, specificity_at_given_threshold.

    With `groups` (the patient of each breast), also 95 % bootstrap intervals [low, high], each threshold held fixed:
    pf1_interval, pf1_best_interval and, with a given threshold, pf1_at_given_threshold_interval. The bootstrap does
    not account for tuning on the same breasts: pf1_best_interval is as optimistic as pf1_best.

    Raises ValueError as `probabilistic_f1` does, for a NaN threshold, and for a missing group.
    """
    positive, scores = validated(labels, probabilities)
    tuned, pf1_best = best_threshold(positive, scores, beta)
    sensitivity, specificity = math.nan, math.nan
    if not math.isnan(tuned):
        sensitivity, specificity = sensitivity_and_specificity(positive, scores, tuned)
    summary: dict[str, Any] = {
        "count": len(scores),
        "positives": int(positive.sum()),
        "pf1": probabilistic_f1(positive, scores, beta),
        "pf1_best": pf1_best,
        "threshold": tuned,
        "auc": roc_auc(positive, scores),
        "average_precision": average_precision(positive, scores),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "pf1_all_ones": probabilistic_f1(positive, np.ones(len(scores)), beta),
    }
    predictions = {"pf1": scores, "pf1_best": scores >= tuned}
    if threshold is not None:
        sensitivity, specificity = sensitivity_and_specificity(positive, scores, threshold)
        predictions["pf1_at_given_threshold"] = scores >= threshold
        summary["given_threshold"] = float(threshold)
        summary["pf1_at_given_threshold"] = probabilistic_f1(positive, scores >= threshold, beta)
        summary["sensitivity_at_given_threshold"] = sensitivity
        summary["specificity_at_given_threshold"] = specificity
    if groups is not None:
        codes = group_codes(groups, len(scores))
        for name, predicted in predictions.items():
            interval = bootstrap_interval(positive, predicted, codes, partial(probabilistic_f1, beta=beta))
            summary[f"{name}_interval"] = list(interval)
    return {name: for_json(value) for name, value in summary.items()}


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


def at_or_above(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The reverse cumulative sum: each count plus all counts after it."""
    return np.cumsum(counts[::-1])[::-1]


def share(values: NDArray[np.bool_]) -> float:
    """The share of values that are true; NaN if `values` is empty."""
    return float(values.mean()) if values.size else math.nan


def group_codes(groups: Iterable[Hashable], expected: int) -> NDArray[np.intp]:
    """For each of the N members, the index of its group in order of first appearance."""
    # Elements of a tensor hash by identity, so without tolist no two breasts would share a group.
    members = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(shape := tuple(getattr(groups, "shape", [expected]))) != 1:
        raise ValueError(f"groups must be one-dimensional, one value per breast, not of shape {shape}")
    if len(members) != expected:
        raise ValueError(f"{len(members)} groups but {expected} probabilities")
    for place, member in enumerate(members):
        if not isinstance(member, Hashable):
            raise ValueError(f"groups[{place}] is {member!r}; a group must be hashable, such as a number or a string")
        if member is None or member != member:  # each NaN would be a group of its own
            raise ValueError(f"groups[{place}] is missing ({member})")
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(member, len(places)) for member in members], dtype=np.intp)


def for_json(value: Any) -> Any:
    if isinstance(value, list):
        return [for_json(element) for element in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
