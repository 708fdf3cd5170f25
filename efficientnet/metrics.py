"""Probabilistic F1, the score of the RSNA 2022 screening-mammography competition, and what stands beside it.

Every function takes one label (0 or 1) and one probability per breast: two sequences of length N, as lists, numpy
arrays or torch tensors. `aggregate` makes one probability per breast out of one per image.

The probabilities are *mass*: a breast with p = 0.3 is 0.3 of a positive call. Summed over the breasts,

    true mass        t = sum of p over the positive breasts     (Kaggle's ctp)
    predicted mass   m = sum of p over all breasts              (Kaggle's ctp + cfp)
    positives        n = number of positive breasts

give precision t / m and recall t / n. With p in {0, 1} these are the ordinary precision and recall, which is why a
threshold tuned on held-out patients may be applied before the score is taken, and why it raises it so much.

One pass over all of this is `summarise`; the uncertainty of the score is `bootstrap_interval`.
"""

import math
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Metric = Callable[[NDArray[np.bool_], NDArray[np.float64]], float]


def probabilistic_f1(labels: ArrayLike, probabilities: ArrayLike, beta: float = 1.0) -> float:
    """The probabilistic F-beta score (pF1 for beta = 1), as Kaggle computes it; between 0 and 1.

    Probabilities outside [0, 1] are clipped to it. Where Kaggle's code divides by zero (no positive label, or no
    predicted mass) the score is 0.0, and so it is for empty input.

    Raises ValueError for a NaN, a label other than 0 or 1, unequal lengths, or a beta that is not positive.
    Source: the competition's "Evaluation" page, after Yacouby and Axman (2020), "Probabilistic Extension of
    Precision, Recall, and F1 Score for More Thorough Evaluation of Classification Models".
    """
    positive, scores = _validated(labels, probabilities)
    mass = np.clip(scores, 0.0, 1.0)
    return float(_f_score(mass[positive].sum(), mass.sum(), positive.sum(), beta))


def constant_predictor_f1(prevalence: float) -> float:
    """The pF1 of calling every breast positive, 2 p / (1 + p): the score to beat, .0405 on RSNA (p = .02065).

    A constant prediction c has true mass c p N and predicted mass c N, hence precision p and recall c, and
    F1 = 2 p c / (p + c). That grows with c, so that all ones (c = 1) is the best of the constants.
    Raises ValueError for a prevalence outside [0, 1].
    """
    if not 0.0 <= prevalence <= 1.0:
        raise ValueError(f"prevalence must be between 0 and 1, not {prevalence}")
    return 2.0 * prevalence / (1.0 + prevalence)


@dataclass(frozen=True, eq=False)
class ThresholdCurve:
    """Precision, recall and F-beta of the calls `probability >= threshold`; four arrays of K values each.

    The thresholds are the K distinct scores, ascending. Recall is NaN, and F-beta 0, where no label is positive.
    """

    thresholds: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    f1: NDArray[np.float64]


def threshold_curve(labels: ArrayLike, probabilities: ArrayLike, beta: float = 1.0) -> ThresholdCurve:
    """Precision, recall and F-beta at every threshold that makes a difference. Raises as `probabilistic_f1`."""
    return _threshold_curve(*_validated(labels, probabilities), beta)


def best_threshold(labels: ArrayLike, probabilities: ArrayLike, beta: float = 1.0) -> tuple[float, float]:
    """The threshold whose calls `probability >= threshold` have the highest F-beta, and that F-beta.

    The threshold lies midway between the lowest score that is called and the highest that is not, so that it does
    not hang on either of the two breasts; where every breast is called it is the lowest score itself. Among
    thresholds of equal F-beta the highest wins: the same score with fewer women recalled.

    The threshold is NaN and the score 0.0 where no label is positive: every threshold is then as good as another.
    The score is optimistic on the breasts that chose the threshold. Raises as `probabilistic_f1`.
    """
    positive, scores = _validated(labels, probabilities)
    curve = _threshold_curve(positive, scores, beta)
    if not positive.any():
        return math.nan, 0.0
    best = len(curve.f1) - 1 - int(np.argmax(curve.f1[::-1]))
    lowest_called = float(curve.thresholds[best])
    highest_not_called = float(curve.thresholds[best - 1]) if best > 0 else lowest_called
    middle = highest_not_called + (lowest_called - highest_not_called) / 2
    # Nothing lies between a score and itself, two adjacent floating-point numbers, or minus infinity and a number.
    lies_between = highest_not_called < middle <= lowest_called
    return middle if lies_between else lowest_called, float(curve.f1[best])


def roc_auc(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Area under the ROC curve; any real scores will do, since only their order counts.

    It is the chance that a positive breast scores above a negative one, where a tie counts one half: what the
    Mann-Whitney statistic with mid-ranks says. NaN unless both classes are present. Raises as `probabilistic_f1`.
    """
    _, positives, negatives = _tally(*_validated(labels, probabilities))
    pairs = float(positives.sum()) * float(negatives.sum())
    if pairs == 0:
        return math.nan
    negatives_below = np.cumsum(negatives) - negatives
    return float(positives @ (negatives_below + negatives / 2) / pairs)


def average_precision(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Average precision: the sum over thresholds of (increase in recall) x (precision), without interpolation.

    The definition of scikit-learn's `average_precision_score`. NaN where no label is positive (scikit-learn warns
    and returns 0). Raises as `probabilistic_f1`.
    """
    _, positives, negatives = _tally(*_validated(labels, probabilities))
    if positives.sum() == 0:
        return math.nan
    true_positives, called = _at_or_above(positives), _at_or_above(positives + negatives)
    return float(positives @ (true_positives / called) / positives.sum())


@dataclass(frozen=True, slots=True)
class ConfusionCounts:
    """How many breasts were called rightly and wrongly, at one threshold."""

    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int


def confusion_counts(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> ConfusionCounts:
    """Counts of the calls `probability >= threshold`. Raises as `probabilistic_f1`, and for a NaN threshold."""
    positive, scores = _validated(labels, probabilities)
    if math.isnan(threshold):
        raise ValueError("threshold is NaN")
    called = scores >= threshold
    return ConfusionCounts(
        true_positives=int(np.sum(called & positive)),
        false_positives=int(np.sum(called & ~positive)),
        false_negatives=int(np.sum(~called & positive)),
        true_negatives=int(np.sum(~called & ~positive)),
    )


def sensitivity(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> float:
    """The share of the positive breasts with probability >= threshold (recall); NaN where no label is positive."""
    counts = confusion_counts(labels, probabilities, threshold)
    return _ratio(counts.true_positives, counts.true_positives + counts.false_negatives)


def specificity(labels: ArrayLike, probabilities: ArrayLike, threshold: float) -> float:
    """The share of the negative breasts with probability < threshold; NaN where every label is positive."""
    counts = confusion_counts(labels, probabilities, threshold)
    return _ratio(counts.true_negatives, counts.true_negatives + counts.false_positives)


def aggregate(
    groups: Iterable[Hashable], probabilities: ArrayLike, method: Literal["mean", "max"] = "mean"
) -> tuple[list[Hashable], NDArray[np.float64]]:
    """One value per group, such as one probability per breast from one per image.

    Returns the G distinct groups in order of first appearance and their G values. Labels aggregate by "max" too: a
    breast has cancer if any of its images says so. Raises ValueError for a NaN, unequal lengths or another method.
    """
    if method not in ("mean", "max"):
        raise ValueError(f"method must be 'mean' or 'max', not {method!r}")
    scores = _as_scores("probabilities", probabilities)
    names, codes = _group_codes(groups, len(scores))
    if method == "mean":
        return names, np.bincount(codes, weights=scores, minlength=len(names)) / np.bincount(codes)
    highest = np.full(len(names), -np.inf)
    np.maximum.at(highest, codes, scores)
    return names, highest


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
    not independent; None makes every breast its own group. Each of the `samples` draws as many groups as there are,
    and `metric(labels, probabilities)` is taken over all their breasts.

    Draws in which the metric is NaN (an AUC without a positive, say) are left out; (NaN, NaN) if that is all of them
    or the input is empty. pF1 is never NaN: a draw without positives counts as 0. The same seed gives the same
    interval. Raises as `probabilistic_f1`, and ValueError for samples < 1 or a confidence not between 0 and 1.

    Source: Efron and Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13.
    """
    if samples < 1 or not 0.0 < confidence < 1.0:
        raise ValueError(f"samples must be positive and confidence in (0, 1), not {samples} and {confidence}")
    positive, scores = _validated(labels, probabilities)
    names, codes = _group_codes(range(len(scores)) if groups is None else groups, len(scores))
    if not names:
        return math.nan, math.nan
    if metric is probabilistic_f1:
        score_of = _resampled_probabilistic_f1(positive, scores, codes)
    else:
        score_of = _resampled_metric(positive, scores, codes, metric)
    generator = np.random.default_rng(seed)
    values = np.array([score_of(generator.integers(len(names), size=len(names))) for _ in range(samples)])
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
    """Everything about one set of predictions, ready for JSON (what is not a finite number is None):

    count, positives                 number of breasts, and of those with label 1
    pf1                              probabilistic F-beta of the probabilities as they are
    pf1_best, threshold              the highest F-beta of any threshold, and that threshold, tuned on these breasts
    sensitivity, specificity         at `threshold`
    auc, average_precision           of the order alone
    pf1_all_ones                     of calling every breast positive: the best that a constant can do

    With a `threshold` that was tuned elsewhere, the honest counterparts of those that are tuned here:
    given_threshold, pf1_at_given_threshold, sensitivity_at_given_threshold, specificity_at_given_threshold.

    With `groups` (the patient of each breast), 95 % bootstrap intervals [low, high], each threshold held fixed:
    pf1_interval, pf1_best_interval and, where there is one, pf1_at_given_threshold_interval. A bootstrap at the tuned
    threshold does not know that it was tuned here: pf1_best_interval is as optimistic as pf1_best.

    Raises as `probabilistic_f1`.
    """
    positive, scores = _validated(labels, probabilities)
    tuned, pf1_best = best_threshold(positive, scores, beta)
    summary: dict[str, Any] = {
        "count": len(scores),
        "positives": int(positive.sum()),
        "pf1": probabilistic_f1(positive, scores, beta),
        "pf1_best": pf1_best,
        "threshold": tuned,
        "auc": roc_auc(positive, scores),
        "average_precision": average_precision(positive, scores),
        "sensitivity": math.nan if math.isnan(tuned) else sensitivity(positive, scores, tuned),
        "specificity": math.nan if math.isnan(tuned) else specificity(positive, scores, tuned),
        "pf1_all_ones": probabilistic_f1(positive, np.ones(len(scores)), beta),
    }
    predictions = {"pf1": scores, "pf1_best": scores >= tuned}
    if threshold is not None:
        predictions["pf1_at_given_threshold"] = scores >= threshold
        summary["given_threshold"] = float(threshold)
        summary["pf1_at_given_threshold"] = probabilistic_f1(positive, scores >= threshold, beta)
        summary["sensitivity_at_given_threshold"] = sensitivity(positive, scores, threshold)
        summary["specificity_at_given_threshold"] = specificity(positive, scores, threshold)
    if groups is not None:
        groups = groups.tolist() if hasattr(groups, "tolist") else list(groups)  # it is read more than once
        metric = probabilistic_f1 if beta == 1.0 else lambda y, p: probabilistic_f1(y, p, beta)
        for name, predicted in predictions.items():
            summary[f"{name}_interval"] = bootstrap_interval(positive, predicted, groups, metric)
    return {name: _for_json(value) for name, value in summary.items()}


def _as_scores(name: str, values: ArrayLike) -> NDArray[np.float64]:
    """A one-dimensional float64 array without NaN, from a sequence, an array or a tensor on any device."""
    if hasattr(values, "detach"):  # torch: may require gradients, be on a GPU, or bfloat16, which numpy has not
        values = values.detach().cpu().double().numpy()
    array = np.asarray(values)
    if array.ndim != 1:
        raise ValueError(f"{name} must be one-dimensional, one value per breast, not of shape {array.shape}")
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


def _validated(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Labels as booleans and probabilities as float64, both of shape (N,)."""
    values, scores = _as_scores("labels", labels), _as_scores("probabilities", probabilities)
    if len(values) != len(scores):
        raise ValueError(f"{len(values)} labels but {len(scores)} probabilities")
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        raise ValueError(f"labels[{np.argmax(wrong)}] is {values[wrong][0]:g}; a label is 0 or 1")
    return values == 1, scores


def _f_score(true_mass: Any, predicted_mass: Any, positives: Any, beta: float) -> NDArray[np.float64]:
    """F-beta from t, m and n (see the top of this file), elementwise.

    Put P = t / m and R = t / n into (1 + b^2) P R / (b^2 P + R), and multiply both sides of the fraction by m n / t:
    (1 + b^2) t / (b^2 n + m) is left. It is 0 wherever P or R is 0 or undefined, since t is then 0.
    """
    weight = beta * beta
    if not (beta > 0.0 and 0.0 < weight < math.inf):
        raise ValueError(f"beta must be positive (and its square finite), not {beta}")
    denominator = np.asarray(weight * positives + predicted_mass, dtype=np.float64)
    return np.divide((1.0 + weight) * true_mass, denominator, np.zeros_like(denominator), where=denominator > 0)


def _tally(
    positive: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """The K distinct scores, ascending, and how many positives and negatives have each of them."""
    distinct, codes = np.unique(scores, return_inverse=True)
    positives = np.bincount(codes[positive], minlength=len(distinct))
    return distinct, positives, np.bincount(codes, minlength=len(distinct)) - positives


def _at_or_above(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.cumsum(counts[::-1])[::-1]


def _threshold_curve(positive: NDArray[np.bool_], scores: NDArray[np.float64], beta: float) -> ThresholdCurve:
    thresholds, positives, negatives = _tally(positive, scores)
    true_positives, called = _at_or_above(positives), _at_or_above(positives + negatives)
    count = int(positive.sum())
    return ThresholdCurve(
        thresholds=thresholds,
        precision=true_positives / called,
        recall=true_positives / count if count else np.full(len(thresholds), np.nan),
        f1=_f_score(true_positives, called, count, beta),
    )


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


def _group_codes(groups: Iterable[Hashable], expected: int) -> tuple[list[Hashable], NDArray[np.intp]]:
    """The distinct groups in order of first appearance, and for each of the N members its place among them."""
    # Through tolist, because the elements of a tensor hash by identity: no two of them would share a group.
    members = groups.tolist() if hasattr(groups, "tolist") else list(groups)
    if len(members) != expected:
        raise ValueError(f"{len(members)} groups but {expected} probabilities")
    places: dict[Hashable, int] = {}
    codes = [places.setdefault(member, len(places)) for member in members]
    return list(places), np.array(codes, dtype=np.intp)


def _resampled_probabilistic_f1(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], codes: NDArray[np.intp]
) -> Callable[[NDArray[np.intp]], float]:
    """pF1 of a draw of groups. t, m and n are sums, so each group's share of them is all that a draw needs."""
    mass = np.clip(scores, 0.0, 1.0)
    shares = np.stack([np.bincount(codes, weights) for weights in (mass * positive, mass, positive)])  # (3, G)

    def score_of(drawn: NDArray[np.intp]) -> float:
        times_drawn = np.bincount(drawn, minlength=shares.shape[1])
        return float(_f_score(*(shares @ times_drawn), beta=1.0))

    return score_of


def _resampled_metric(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], codes: NDArray[np.intp], metric: Metric
) -> Callable[[NDArray[np.intp]], float]:
    """Any metric of a draw of groups, taken over the members of the drawn groups, as often as they are drawn."""
    by_group = np.argsort(codes, kind="stable")
    sizes = np.bincount(codes)
    starts = np.cumsum(sizes) - sizes

    def score_of(drawn: NDArray[np.intp]) -> float:
        lengths = sizes[drawn]
        # Place i of the draw is place i - (where its group begins in the draw) of its group.
        begins = np.cumsum(lengths) - lengths
        members = by_group[np.arange(lengths.sum()) + np.repeat(starts[drawn] - begins, lengths)]
        return float(metric(positive[members], scores[members]))

    return score_of


def _for_json(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_for_json(element) for element in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
