"""Bootstrap intervals: how far a metric would vary if other patients of the same kind had been screened.

Patients are drawn with replacement, not breasts, since the two breasts of a woman are not independent. A draw is kept
as the number of times that it has each patient. These numbers are the weights of her breasts, and a metric of the drawn
breasts is the weighted metric of all breasts, computed for many draws at once: `weighted_metrics`. All metrics share
one set of draws.

Source: Efron and Tibshirani (1993), "An Introduction to the Bootstrap", chapter 13.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efficientnet.metrics import (
    average_precision,
    best_threshold,
    brier_score,
    clshub_pf1,
    equal_count_bins,
    expected_calibration_error,
    f_score,
    precision_and_recall_rate,
    probabilistic_f1,
    roc_auc,
    sensitivity_and_specificity,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
    validated,
)

Metric = Callable[[NDArray[np.bool_], NDArray[np.float64]], float]
SAMPLES, CONFIDENCE, BINS, CLINICAL = 1000, 0.95, 10, 0.9
GIVEN = "_at_given_threshold"
RANKING = ("auc", "average_precision", "sensitivity_at_90_specificity", "specificity_at_90_sensitivity")


@dataclass(frozen=True)
class Draws:
    """D draws of G groups with replacement. counts (D, G): how often each draw has each group.

    places: the column of each group, by name.
    """

    places: Mapping[Hashable, int]
    counts: NDArray[np.uint16]

    @classmethod
    def of(cls, groups: Iterable[Hashable], samples: int = SAMPLES, seed: int = 0) -> Draws:
        """Draws of the distinct groups. The same groups and seed give the same draws."""
        places = {group: place for place, group in enumerate(dict.fromkeys(groups))}
        generator, size = np.random.default_rng(seed), len(places)
        draws = [generator.integers(size, size=size) for _ in range(samples)] if size else [[]] * samples
        counts = [np.bincount(np.asarray(draw, dtype=int), minlength=size).astype(np.uint16) for draw in draws]
        return cls(places, np.stack(counts))

    def columns(self, groups: Iterable[Hashable]) -> NDArray[np.intp]:
        """For each of N members, the column of its group."""
        return np.array([self.places[group] for group in groups], dtype=np.intp)

    def weights(self, groups: Sequence[Hashable]) -> Iterator[NDArray[np.float64]]:
        """Yield blocks (d, N) of the weights of N members, of some MiB each."""
        columns = self.columns(groups)
        step = max(1, 2**20 // max(1, len(columns)))
        for start in range(0, len(self.counts), step):
            yield self.counts[start : start + step, columns].astype(np.float64)


def bootstrap_interval(
    labels: ArrayLike,
    probabilities: ArrayLike,
    groups: Iterable[Hashable] | None,
    metric: Metric = probabilistic_f1,
    samples: int = SAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval (low, high) of any metric, resampling groups with replacement.

    `groups` names the patient of each breast; None makes every breast its own group. Each of the `samples` draws takes
    as many groups as the data have, and computes `metric(labels, probabilities)` over all their breasts.

    Draws for which the metric is NaN (such as an AUC without a positive) are left out. Returns (NaN, NaN) if no draw
    remains or the input is empty. pF1 is never NaN: a draw without positives counts as 0. The same seed gives the
    same interval. Raises ValueError as `probabilistic_f1` does, for a group that is missing (NaN, None or masked) or
    not hashable, for samples < 1, and for a confidence not between 0 and 1.
    """
    if samples < 1 or not 0.0 < confidence < 1.0:
        raise ValueError(f"samples must be positive and confidence in (0, 1), not {samples} and {confidence}")
    positive, scores = validated(labels, probabilities)
    members = group_names(range(len(scores)) if groups is None else groups, len(scores))
    if len(scores) == 0:
        return math.nan, math.nan
    draws, every = Draws.of(members, samples, seed), np.arange(len(scores))
    columns = draws.columns(members)
    drawn = (np.repeat(every, counts[columns]) for counts in draws.counts)
    return interval(np.array([float(metric(positive[each], scores[each])) for each in drawn]), confidence)


def interval(values: NDArray[np.float64], confidence: float = CONFIDENCE) -> tuple[float, float]:
    """The percentile interval of a metric's values in all draws, without those that are NaN."""
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
    draws: Draws | None = None,
) -> dict[str, Any]:
    """All metrics of one set of predictions, ready for JSON (non-finite values become None):

    count, positives                 number of breasts, and of those with label 1
    pf1                              probabilistic F-beta of the probabilities, without a threshold
    pf1_best, threshold              the highest F-beta of any threshold, and that threshold, tuned on these breasts
    sensitivity, specificity, precision, recall_rate                    at that threshold
    auc, average_precision, sensitivity_at_90_specificity, specificity_at_90_sensitivity
                                     from the order of the probabilities alone
    brier, expected_calibration_error
                                     from the probabilities as they are
    clshub_pf1                       in percent, see `metrics.clshub_pf1`
    pf1_all_ones                     the score of calling every breast positive, the best constant prediction;
                                     2 q / (1 + q) at prevalence q for beta = 1: .0405 on RSNA (q = .02065)

    With a `threshold` that was tuned on other breasts, also the unbiased counterparts of the tuned values:
    given_threshold, and pf1, sensitivity, specificity, precision and recall_rate followed by _at_given_threshold.

    With `groups` (the patient of each breast), also the 95 % bootstrap interval [low, high] of each metric, by its name
    followed by _interval; except of the calibration error, which resampling increases. Thresholds and bins are held
    fixed: the bootstrap does not account for tuning on the same breasts, so pf1_best_interval is as optimistic as
    pf1_best. draws: of these groups and perhaps others; None draws from these.

    Raises ValueError as `probabilistic_f1` does, for a NaN threshold, and for a missing group.
    """
    positive, scores = validated(labels, probabilities)
    tuned, pf1_best = best_threshold(positive, scores, beta)
    summary: dict[str, Any] = {
        "count": len(scores),
        "positives": int(positive.sum()),
        "pf1": probabilistic_f1(positive, scores, beta),
        "pf1_best": pf1_best,
        "threshold": tuned,
        "auc": roc_auc(positive, scores),
        "average_precision": average_precision(positive, scores),
        "sensitivity_at_90_specificity": sensitivity_at_specificity(positive, scores, CLINICAL),
        "specificity_at_90_sensitivity": specificity_at_sensitivity(positive, scores, CLINICAL),
        "brier": brier_score(positive, scores),
        "expected_calibration_error": expected_calibration_error(positive, scores, BINS),
        "clshub_pf1": clshub_pf1(positive, scores),
        **called_metrics(positive, scores, tuned, ""),
        "pf1_all_ones": probabilistic_f1(positive, np.ones(len(scores)), beta),
    }
    thresholds = {"": tuned}
    if threshold is not None:
        summary["given_threshold"] = float(threshold)
        summary[f"pf1{GIVEN}"] = probabilistic_f1(positive, scores >= threshold, beta)
        if math.isnan(threshold):
            raise ValueError("threshold is NaN")
        summary |= called_metrics(positive, scores, threshold, GIVEN)
        thresholds[GIVEN] = threshold
    if groups is not None:
        members = group_names(groups, len(scores))
        metrics = partial(weighted_metrics, positive, scores, thresholds=thresholds, beta=beta)
        drawn = values_in_draws(metrics, draws or Draws.of(members), members)
        summary |= {
            f"{name}_interval": list(interval(values))
            for name, values in drawn.items()
            if name != "expected_calibration_error"
        }
    return {name: for_json(value) for name, value in summary.items()}


def called_metrics(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], threshold: float, suffix: str
) -> dict[str, float]:
    if math.isnan(threshold):  # no positive label, so no threshold
        return dict.fromkeys(("sensitivity", "specificity", "precision", "recall_rate"), math.nan)
    sensitivity, specificity = sensitivity_and_specificity(positive, scores, threshold)
    precision, recall_rate = precision_and_recall_rate(positive, scores, threshold)
    values = {
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": precision,
        "recall_rate": recall_rate,
    }
    return {f"{name}{suffix}": value for name, value in values.items()}


def values_in_draws(
    metrics: Callable[[NDArray[np.float64]], Mapping[str, NDArray[np.float64]]],
    draws: Draws,
    groups: Sequence[Hashable],
) -> dict[str, NDArray[np.float64]]:
    """Each metric's values (D,) in D draws.  metrics: takes weights (d, N) and gives values (d,) by name."""
    blocks = [metrics(weights) for weights in draws.weights(groups)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def weighted_metrics(
    positive: NDArray[np.bool_],
    scores: NDArray[np.float64],
    weights: NDArray[np.float64],
    thresholds: Mapping[str, float] = MappingProxyType({}),
    beta: float = 1.0,
) -> dict[str, NDArray[np.float64]]:
    """The metrics of `summarise` by name, (D,) each, for D weightings (D, N) of the N breasts; NaN where undefined.

    A breast of weight 2 counts as two equal breasts. thresholds: by the suffix of their metrics' names; "" is the one
    of pf1_best. Bins of the calibration error are those of the unweighted breasts.
    """
    mass, label = np.clip(scores, 0.0, 1.0), positive.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        true_mass, all_mass, positives, count, squares, true_score, all_score = (
            weights
            @ np.stack(
                (
                    mass * label,
                    mass,
                    label,
                    np.ones(len(mass)),
                    (mass - label) ** 2,
                    np.where(positive, scores, 0),
                    scores,
                ),
                axis=1,
            )
        ).T
        values = {
            "pf1": f_score(true_mass, all_mass, positives, beta),
            "brier": squares / count,
            "clshub_pf1": clshub_f_score(true_score, all_score, positives),
            "expected_calibration_error": calibration_errors(mass, label, weights).sum(1) / count,
            **ranking_metrics(positive, scores, weights),
        }
        for suffix, threshold in thresholds.items():
            called = (scores >= threshold).astype(np.float64)
            true, calls = (weights @ np.stack((called * label, called), axis=1)).T
            values |= {
                f"pf1{suffix}" if suffix else "pf1_best": f_score(true, calls, positives, beta),
                f"sensitivity{suffix}": true / positives,
                f"specificity{suffix}": (count - positives - calls + true) / (count - positives),
                f"precision{suffix}": true / calls,
                f"recall_rate{suffix}": calls / count,
            }
    return values


def clshub_f_score(true_score: Any, all_score: Any, positives: Any) -> NDArray[np.float64]:
    precision, recall = true_score / np.maximum(all_score, 1.0), true_score / np.maximum(positives, 1.0)
    return np.where((precision > 0) & (recall > 0), 200 * precision * recall / (precision + recall), 0.0)


def calibration_errors(
    mass: NDArray[np.float64], label: NDArray[np.float64], weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The difference of predicted mass and positives (D, bins), without sign, in each bin of `metrics.reliability`."""
    codes = equal_count_bins(mass, BINS)
    return np.abs(weights @ ((mass - label)[:, None] * (codes[:, None] == np.arange(BINS))))


def ranking_metrics(
    positive: NDArray[np.bool_], scores: NDArray[np.float64], weights: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """AUC, average precision, and sensitivity and specificity at 90 % of the other, (D,) each.

    All of them need the counts of calls only at the G distinct scores of positives, of which there are few.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, descending, ranks = weights[:, order], -scores[order], np.flatnonzero(positive[order])
    before = np.zeros((len(weights), len(scores) + 1))  # the weight of the breasts before each rank
    np.cumsum(ranked, axis=1, out=before[:, 1:])
    distinct, first = np.unique(descending[ranks], return_index=True)
    starts, ends = (np.searchsorted(descending, distinct, side) for side in ("left", "right"))  # ranks of equal scores
    if not len(ranks):
        return dict.fromkeys(RANKING, np.full(len(weights), np.nan))
    new_true = np.add.reduceat(ranked[:, ranks], first, axis=1)  # (D, G)
    true, called = np.cumsum(new_true, axis=1), before[:, ends]
    false, new_false = called - true, called - before[:, starts] - new_true
    positives, negatives = true[:, -1:], before[:, -1:] - true[:, -1:]
    precision = np.divide(true, called, out=np.zeros_like(true), where=called > 0)
    sensitivity, specificity = true / positives, (negatives - false) / negatives
    both, rows = (positives > 0) & (negatives > 0), np.arange(len(weights))
    # The last threshold that is specific enough, perhaps above all positives, and the first that is sensitive enough.
    last = (specificity >= CLINICAL).sum(1)
    at_last = np.pad(sensitivity, ((0, 0), (1, 0)))[rows, last]
    at_first = specificity[rows, np.minimum((sensitivity < CLINICAL).sum(1), len(distinct) - 1)]
    values = (
        (new_true * (negatives - false + new_false / 2)).sum(1) / (positives * negatives)[:, 0],
        (new_true * precision).sum(1) / positives[:, 0],
        np.where(both[:, 0], at_last, np.nan),
        np.where(both[:, 0], at_first, np.nan),
    )
    return dict(zip(RANKING, values, strict=True))


def group_names(groups: Iterable[Hashable], expected: int) -> list[Hashable]:
    """The group of each of the N members, checked."""
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
    return members


def for_json(value: Any) -> Any:
    """The value with None for each number that is not finite, also inside lists and dicts."""
    if isinstance(value, dict):
        return {name: for_json(element) for name, element in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(element) for element in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
