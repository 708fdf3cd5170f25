"""Probabilistic F1 against Kaggle's own code, the rest against scikit-learn or its definition; bootstrap intervals."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from efficientnet.metrics import (
    average_precision,
    best_threshold,
    brier_score,
    clshub_pf1,
    expected_calibration_error,
    precision_and_recall_rate,
    probabilistic_f1,
    reliability,
    roc_auc,
    sensitivity_and_specificity,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
)
from efficientnet.metrics.bootstrap import (
    RANKING,
    Draws,
    bootstrap_interval,
    interval,
    summarise,
    values_in_draws,
    weighted_metrics,
)


def kaggle_pfbeta(labels, predictions, beta):
    """The competition's definition, step by step; divides by zero where it does."""
    y_true_count, ctp, cfp = 0, 0.0, 0.0
    for label, prediction in zip(labels, predictions, strict=True):
        prediction = min(max(prediction, 0), 1)
        if label:
            y_true_count += 1
            ctp += prediction
        else:
            cfp += prediction
    c_precision = ctp / (ctp + cfp)
    c_recall = ctp / y_true_count
    if c_precision > 0 and c_recall > 0:
        return (1 + beta**2) * (c_precision * c_recall) / (beta**2 * c_precision + c_recall)
    return 0


def random_cases(count: int, seed: int = 0):
    """Labels and scores of many kinds: of few and many breasts, rare and common cancers, with and without ties."""
    generator = np.random.default_rng(seed)
    for case in range(count):
        size = int(generator.integers(1, 60))
        labels = (generator.random(size) < generator.choice([0.02, 0.2, 0.5, 0.9])).astype(int)
        scores = generator.random(size)
        if case % 3 == 1:
            scores = np.round(scores, 1)
        if case % 3 == 2:
            scores = generator.normal(0.5, 1.0, size)  # also outside [0, 1]
        yield labels, scores, generator


def both_classes(cases):
    return ((labels, scores) for labels, scores, _ in cases if 0 < labels.sum() < len(labels))


def test_probabilistic_f1_is_the_one_of_kaggle():
    compared = 0
    for labels, scores, generator in random_cases(600):
        beta = float(generator.choice([0.25, 0.5, 1.0, 2.0, 7.0]))
        try:
            expected = kaggle_pfbeta(labels.tolist(), scores.tolist(), beta)
        except ZeroDivisionError:
            expected = 0.0
        else:
            compared += 1
        assert probabilistic_f1(labels, scores, beta) == pytest.approx(expected, rel=1e-12, abs=1e-300)
    assert compared > 400


def test_probabilistic_f1_by_hand():
    # t = 0.9, m = 0.9 + 0.6, n = 1: precision 0.6, recall 0.9
    assert probabilistic_f1([1, 0, 0], [0.9, 0.6, 0.0]) == pytest.approx(2 * 0.6 * 0.9 / 1.5)


def test_probabilistic_f1_of_calls_is_the_ordinary_f_score():
    sklearn = pytest.importorskip("sklearn.metrics")
    for labels, scores, generator in random_cases(200):
        calls = (scores >= 0.5).astype(int)
        expected = sklearn.f1_score(labels, calls, zero_division=0.0)
        assert probabilistic_f1(labels, calls) == pytest.approx(expected)
        beta = float(generator.choice([0.5, 2.0]))
        expected = sklearn.fbeta_score(labels, calls, beta=beta, zero_division=0.0)
        assert probabilistic_f1(labels, calls, beta) == pytest.approx(expected)


def test_perfect_predictions_score_one():
    assert probabilistic_f1([0, 1, 1, 0], [0, 1, 1, 0]) == 1.0
    assert probabilistic_f1([0, 1, 1, 0], [-3, 2, math.inf, -math.inf]) == 1.0


@pytest.mark.parametrize(
    ("labels", "probabilities"), [([], []), ([0, 0], [0.5, 1]), ([1, 0], [0, 0]), ([0, 0], [0, 0]), ([1], [-1])]
)
def test_probabilistic_f1_is_zero_where_kaggle_divides_by_zero(labels, probabilities):
    assert probabilistic_f1(labels, probabilities) == 0.0


def test_order_does_not_matter():
    for labels, scores, generator in random_cases(50):
        order = generator.permutation(len(labels))
        assert probabilistic_f1(labels[order], scores[order]) == pytest.approx(probabilistic_f1(labels, scores))


@pytest.mark.parametrize(
    "convert",
    [
        list,
        tuple,
        np.array,
        torch.tensor,
        pytest.param(lambda values: torch.tensor(values, dtype=torch.bfloat16), id="bfloat16"),
        pytest.param(lambda values: torch.tensor(values, dtype=torch.float32, requires_grad=True), id="with gradient"),
        pytest.param(lambda values: np.array(values, dtype=np.float16), id="float16"),
        pytest.param(lambda values: np.array(values, dtype=object), id="objects"),
    ],
)
def test_sequences_arrays_and_tensors_are_alike(convert):
    labels, probabilities = [1.0, 0.0, 1.0], [0.5, 0.25, 0.75]
    assert probabilistic_f1(convert(labels), convert(probabilities)) == pytest.approx(2 * 1.25 / (2 + 1.5))


@pytest.mark.parametrize("labels", [[True, False], np.array([True, False]), torch.tensor([True, False]), [1, 0]])
def test_labels_may_be_booleans(labels):
    assert probabilistic_f1(labels, [1, 0]) == 1.0


def test_float32_predictions_are_summed_in_float64():
    size = 200_000
    labels, ones = np.ones(size), np.full(size, 0.1, dtype=np.float32)
    recall = float(np.float32(0.1))
    assert probabilistic_f1(labels, ones) == pytest.approx(2 * recall / (1 + recall), rel=1e-12)


METRICS = [
    probabilistic_f1,
    best_threshold,
    roc_auc,
    average_precision,
    brier_score,
    clshub_pf1,
    expected_calibration_error,
    reliability,
    sensitivity_at_specificity,
    specificity_at_sensitivity,
    lambda labels, probabilities: sensitivity_and_specificity(labels, probabilities, 0.5),
    lambda labels, probabilities: precision_and_recall_rate(labels, probabilities, 0.5),
    lambda labels, probabilities: bootstrap_interval(labels, probabilities, None),
]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("labels", "probabilities", "said"),
    [
        ([0, 1, 0], [0.1, 0.2], "3 labels but 2 probabilities"),
        ([0, 1], [0.1, math.nan], r"probabilities\[1\] is NaN"),
        ([0, math.nan], [0.1, 0.2], r"labels\[1\] is NaN"),
        ([0, None], [0.1, 0.2], r"labels\[1\] is NaN"),
        ([0, 1, 2], [0.1, 0.2, 0.3], r"labels\[2\] is 2"),
        ([0, 0.5], [0.1, 0.2], r"labels\[1\] is 0.5"),
        ([-1, 1], [0.1, 0.2], r"labels\[0\] is -1"),
        ([[0, 1]], [[0.1, 0.2]], "one-dimensional"),
        (1, 0.5, "one-dimensional"),
        (["0", "1"], [0.1, 0.2], "labels must be numbers"),
        ([0, 1], [0.1, "high"], "probabilities must be numbers"),
        ([0, 1], np.array([0.1, object()]), "probabilities must be numbers"),
        (np.ma.array([0, 1], mask=[0, 1]), [0.1, 0.2], r"labels\[1\] is masked"),
        ([0, 1], np.ma.array([0.1, 0.2], mask=[1, 0]), r"probabilities\[0\] is masked"),
    ],
)
def test_bad_input_is_named_by_place(metric, labels, probabilities, said):
    with pytest.raises(ValueError, match=said):
        metric(labels, probabilities)


@pytest.mark.parametrize("beta", [0, -1, math.nan, math.inf, 1e200])
@pytest.mark.parametrize("metric", [probabilistic_f1, best_threshold])
def test_beta_must_be_positive(metric, beta):
    with pytest.raises(ValueError, match="beta"):
        metric([0, 1], [0, 1], beta)
    with pytest.raises(ValueError, match="beta"):
        metric([], [], beta)


def test_metrics_import_no_torch():
    code = "import sys, efficientnet.metrics.bootstrap; sys.exit('torch' in sys.modules)"
    root = Path(__file__).resolve().parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_calling_every_breast_is_the_best_constant_prediction():
    for labels, _, _ in random_cases(50):
        by_constant = [probabilistic_f1(labels, np.full(len(labels), c)) for c in np.linspace(0, 1, 21)]
        assert by_constant == sorted(by_constant)
        assert summarise(labels, labels)["pf1_all_ones"] == by_constant[-1]


def test_the_best_constant_prediction_on_rsna():
    labels = np.arange(23_826) < 492
    assert probabilistic_f1(labels, np.ones(23_826)) == pytest.approx(0.0405, abs=5e-5)
    assert probabilistic_f1(labels, np.full(23_826, 492 / 23_826)) == pytest.approx(0.0206, abs=5e-5)
    assert probabilistic_f1(labels, np.full(23_826, 0.5)) == pytest.approx(0.0397, abs=5e-5)


def test_best_threshold_has_the_best_score_of_all():
    for labels, scores, generator in random_cases(200):
        beta = float(generator.choice([0.5, 1.0, 2.0]))
        threshold, best = best_threshold(labels, scores, beta)
        reachable = [probabilistic_f1(labels, scores >= other, beta) for other in scores]
        assert best == pytest.approx(max(reachable))
        if labels.any():
            assert probabilistic_f1(labels, scores >= threshold, beta) == pytest.approx(best)


def test_best_threshold_lies_midway_between_neighbours():
    assert best_threshold([0, 0, 1, 1], [0.1, 0.2, 0.6, 0.9]) == (pytest.approx(0.4), 1.0)


def test_best_threshold_is_the_lowest_score_where_all_are_called():
    assert best_threshold([1, 1], [0.3, 0.6]) == (0.3, 1.0)
    assert best_threshold([1], [0.3]) == (0.3, 1.0)


def test_best_threshold_of_equals_is_the_highest():
    # Calling the first breast alone: 2 x 1 / (2 + 1). Calling all four: 2 x 2 / (2 + 4). Both are 2/3.
    assert best_threshold([1, 0, 0, 1], [0.8, 0.6, 0.4, 0.2]) == (pytest.approx(0.7), pytest.approx(2 / 3))


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (0.5, math.nextafter(0.5, 1)),
        (-math.inf, 0.5),
        (0.5, math.inf),
        (-math.inf, math.inf),
        (-1.7e308, 1.7e308),
        (0.0, 5e-324),
    ],
)
def test_best_threshold_separates_whatever_can_be_separated(low, high):
    threshold, best = best_threshold([0, 1], [low, high])
    assert best == 1.0
    assert low < threshold <= high


@pytest.mark.parametrize(("labels", "probabilities"), [([], []), ([0, 0], [0.1, 0.2])])
def test_best_threshold_is_undefined_without_positives(labels, probabilities):
    threshold, best = best_threshold(labels, probabilities)
    assert math.isnan(threshold)
    assert best == 0.0


def test_sensitivity_and_specificity_are_those_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    for labels, scores in both_classes(random_cases(60)):
        (tn, fp), (fn, tp) = sklearn.confusion_matrix(labels, scores >= 0.5, labels=[0, 1])
        expected = (tp / (tp + fn), tn / (tn + fp))
        assert sensitivity_and_specificity(labels, scores, 0.5) == pytest.approx(expected)


def test_a_score_at_the_threshold_is_called():
    assert sensitivity_and_specificity([1, 0], [0.5, 0.4], 0.5) == (1.0, 1.0)
    assert sensitivity_and_specificity([1, 0], [0.5, 0.4], 0.4) == (1.0, 0.0)


def test_shares_of_an_absent_class_are_nan():
    assert math.isnan(sensitivity_and_specificity([0, 0], [0.1, 0.9], 0.5)[0])
    assert math.isnan(sensitivity_and_specificity([1, 1], [0.1, 0.9], 0.5)[1])


def test_nan_is_no_threshold():
    with pytest.raises(ValueError, match="threshold"):
        sensitivity_and_specificity([0, 1], [0.1, 0.9], math.nan)


def test_roc_auc_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    for labels, scores in both_classes(random_cases(300)):
        assert roc_auc(labels, scores) == pytest.approx(sklearn.roc_auc_score(labels, scores))


def test_average_precision_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    for labels, scores in both_classes(random_cases(300)):
        assert average_precision(labels, scores) == pytest.approx(sklearn.average_precision_score(labels, scores))


def test_ties_count_one_half():
    assert roc_auc([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5]) == 0.5
    assert roc_auc([0, 1, 1], [0.5, 0.5, 0.7]) == 0.75


def test_ranking_is_undefined_where_a_class_is_absent():
    for labels in ([], [0, 0]):
        assert math.isnan(roc_auc(labels, [0.5] * len(labels)))
        assert math.isnan(average_precision(labels, [0.5] * len(labels)))
    assert math.isnan(roc_auc([1, 1], [0.1, 0.2]))
    assert average_precision([1, 1], [0.1, 0.2]) == 1.0


def test_clshub_pf1_is_its_definition_and_ours_in_percent_from_a_mass_of_one():
    for labels, scores, _ in random_cases(200):
        true_mass, mass, positives = scores[labels == 1].sum(), scores.sum(), labels.sum()
        precision, recall = true_mass / max(mass, 1), true_mass / max(positives, 1)
        expected = 200 * precision * recall / (precision + recall) if precision > 0 and recall > 0 else 0
        assert clshub_pf1(labels, scores) == pytest.approx(expected)
        if mass >= 1 and (scores >= 0).all() and (scores <= 1).all():
            assert clshub_pf1(labels, scores) == pytest.approx(100 * probabilistic_f1(labels, scores))
    assert clshub_pf1([1, 0], [0.3, 0.2]) == pytest.approx(30.0)  # the mass of 0.5 counts as 1
    assert clshub_pf1([0, 0], [0.3, 0.2]) == clshub_pf1([], []) == 0.0


def test_brier_score_is_that_of_scikit_learn():
    sklearn = pytest.importorskip("sklearn.metrics")
    for labels, scores in both_classes(random_cases(60)):
        mass = np.clip(scores, 0, 1)
        assert brier_score(labels, scores) == pytest.approx(sklearn.brier_score_loss(labels, mass))
    assert math.isnan(brier_score([], []))


def test_precision_is_that_of_scikit_learn_and_the_recall_rate_the_share_called():
    sklearn = pytest.importorskip("sklearn.metrics")
    for labels, scores, _ in random_cases(60):
        calls = scores >= 0.5
        precision, recall_rate = precision_and_recall_rate(labels, scores, 0.5)
        assert recall_rate == calls.mean()
        if calls.any():
            assert precision == pytest.approx(sklearn.precision_score(labels, calls))
        else:
            assert math.isnan(precision)
    with pytest.raises(ValueError, match="threshold"):
        precision_and_recall_rate([0, 1], [0.1, 0.9], math.nan)


def test_sensitivity_and_specificity_at_each_other_are_the_best_points_of_the_roc_curve():
    sklearn = pytest.importorskip("sklearn.metrics")
    for labels, scores in both_classes(random_cases(200)):
        false_rate, sensitivity, _ = sklearn.roc_curve(labels, scores, drop_intermediate=False)
        for least in (0.5, 0.9):
            within = 1 - false_rate >= least - 1e-12
            assert sensitivity_at_specificity(labels, scores, least) == pytest.approx(sensitivity[within].max())
            within = sensitivity >= least - 1e-12
            assert specificity_at_sensitivity(labels, scores, least) == pytest.approx((1 - false_rate[within]).max())
    assert math.isnan(sensitivity_at_specificity([1, 1], [0.1, 0.9]))
    assert math.isnan(specificity_at_sensitivity([0, 0], [0.1, 0.9]))


def test_a_reliability_table_has_every_breast_once_in_bins_of_about_equal_counts():
    generator = np.random.default_rng(0)
    probabilities = generator.random(1000) ** 3
    labels = generator.random(1000) < probabilities
    table = reliability(labels, probabilities)
    assert [each.count for each in table] == [100] * 10
    order = np.argsort(probabilities)
    for number, each in enumerate(table):
        own = order[100 * number : 100 * (number + 1)]
        assert each.predicted == pytest.approx(probabilities[own].mean())
        assert (each.positives, each.observed) == (labels[own].sum(), pytest.approx(labels[own].mean()))
    expected = np.mean([abs(each.predicted - each.observed) for each in table])
    assert expected_calibration_error(labels, probabilities) == pytest.approx(expected)
    assert expected_calibration_error(labels, np.clip(probabilities + 0.3, 0, 1)) > expected + 0.2


def test_equal_probabilities_share_a_bin():
    assert reliability([0, 1, 1, 1], [0.5] * 4) == [(4, 3, 0.5, 0.75)]
    assert expected_calibration_error([0, 1, 1, 1], [0.5] * 4) == 0.25
    assert reliability([], []) == [] and math.isnan(expected_calibration_error([], []))


def screening(patients: int, seed: int = 0):
    """Labels, probabilities and patients of two breasts each, about one in ten with cancer."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(2 * patients) < 0.1).astype(int)
    probabilities = np.clip(generator.normal(0.2 + 0.3 * labels, 0.15), 0, 1)
    return labels, probabilities, [f"patient {breast // 2}" for breast in range(2 * patients)]


@pytest.mark.parametrize(
    "convert", [list, np.array, torch.tensor, iter, lambda groups: [(group, "L") for group in groups]]
)
def test_groups_may_be_anything_hashable(convert):
    labels, probabilities, _ = screening(20)
    groups = [breast // 2 for breast in range(40)]
    assert bootstrap_interval(labels, probabilities, convert(groups)) == bootstrap_interval(
        labels, probabilities, groups
    )


def test_the_breasts_of_a_patient_are_drawn_together():
    """Two patients of opposite labels, in any order of the rows: every draw has 0, 2 or 4 positives, never 1 or 3."""
    positives = set()

    def count(labels, _):
        positives.add(int(labels.sum()))
        return 0.0

    bootstrap_interval([1, 0, 1, 0], [0.5] * 4, ["a", "b", "a", "b"], metric=count, samples=50)
    assert positives == {0, 2, 4}


def test_the_same_seed_gives_the_same_interval():
    labels, probabilities, patients = screening(40)
    first = bootstrap_interval(labels, probabilities, patients, seed=3)
    assert first == bootstrap_interval(labels, probabilities, patients, seed=3)
    assert first != bootstrap_interval(labels, probabilities, patients, seed=4)


def test_the_interval_holds_the_score_and_shrinks_with_more_patients():
    widths = []
    for patients in (50, 800):
        labels, probabilities, groups = screening(patients)
        low, high = bootstrap_interval(labels, probabilities, groups)
        assert low < probabilistic_f1(labels, probabilities) < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2  # the square root of 16 is 4


def test_more_confidence_is_a_wider_interval():
    labels, probabilities, groups = screening(100)
    narrow = bootstrap_interval(labels, probabilities, groups, confidence=0.5)
    wide = bootstrap_interval(labels, probabilities, groups, confidence=0.99)
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_the_interval_covers_the_true_score_about_as_often_as_it_says():
    """Mean of the labels, whose true value is known: 95 % of the intervals hold it, fewer if groups were ignored."""
    generator = np.random.default_rng(0)
    covered_by_patient, covered_by_breast = 0, 0
    for trial in range(200):
        labels = np.repeat(generator.random(60) < 0.3, 4)  # all four rows of a patient agree
        groups = np.repeat(np.arange(60), 4)
        for by_patient in (True, False):
            low, high = bootstrap_interval(
                labels, labels, groups if by_patient else None, lambda y, p: float(p.mean()), samples=100, seed=trial
            )
            covered_by_patient += by_patient and low <= 0.3 <= high
            covered_by_breast += (not by_patient) and low <= 0.3 <= high
    assert covered_by_patient / 200 > 0.88
    assert covered_by_breast / 200 < 0.8


def definitions(labels, scores, threshold):
    """What `weighted_metrics` computes, by the functions of `metrics`."""
    sensitivity, specificity = sensitivity_and_specificity(labels, scores, threshold)
    precision, recall_rate = precision_and_recall_rate(labels, scores, threshold)
    return {
        "pf1": probabilistic_f1(labels, scores),
        "brier": brier_score(labels, scores),
        "clshub_pf1": clshub_pf1(labels, scores),
        "auc": roc_auc(labels, scores),
        "average_precision": average_precision(labels, scores),
        "sensitivity_at_90_specificity": sensitivity_at_specificity(labels, scores),
        "specificity_at_90_sensitivity": specificity_at_sensitivity(labels, scores),
        "pf1_best": probabilistic_f1(labels, scores >= threshold),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": precision,
        "recall_rate": recall_rate,
    }


def test_a_breast_of_weight_two_counts_as_two_breasts():
    for labels, scores, generator in random_cases(300):
        weights = generator.integers(0, 4, (3, len(labels)))
        found = weighted_metrics(labels == 1, scores, weights.astype(float), {"": 0.4})
        for row, weight in enumerate(weights):
            drawn = np.repeat(np.arange(len(labels)), weight)
            expected = definitions(labels[drawn], scores[drawn], 0.4)
            assert {name: found[name][row] for name in expected} == pytest.approx(expected, nan_ok=True, abs=1e-12)


def test_with_a_weight_of_one_the_calibration_error_is_the_unweighted_one():
    for labels, scores, _ in random_cases(50):
        found = weighted_metrics(labels == 1, scores, np.ones((1, len(labels))))["expected_calibration_error"]
        assert found[0] == pytest.approx(expected_calibration_error(labels, scores))


def test_blocks_of_draws_and_single_draws_give_the_intervals_of_the_general_bootstrap():
    labels, probabilities, patients = screening(60)
    summary = summarise(labels, probabilities, groups=patients)
    for name, metric in (("auc", roc_auc), ("brier", brier_score), ("average_precision", average_precision)):
        expected = bootstrap_interval(labels, probabilities, patients, metric)
        assert summary[f"{name}_interval"] == pytest.approx(expected)
    whole = Draws.of(patients)
    parts = Draws(whole.places, whole.counts[:7])
    every = values_in_draws(lambda weights: {"sum": weights @ probabilities}, whole, patients)["sum"]
    some = values_in_draws(lambda weights: {"sum": weights @ probabilities}, parts, patients)["sum"]
    assert every.shape == (1000,) and every[:7] == pytest.approx(some)


def test_a_subgroup_is_drawn_with_the_patients_of_all():
    labels, probabilities, patients = screening(60)
    draws = Draws.of(patients)
    assert (draws.counts.sum(1) == 60).all()
    own = np.arange(120) < 50
    metrics = {}
    for row, weights in enumerate(draws.counts[:5, draws.columns(patients)]):
        drawn = np.repeat(np.arange(120), weights * own)
        metrics[row] = roc_auc(labels[drawn], probabilities[drawn])
    part = [patient for patient, use in zip(patients, own, strict=True) if use]
    found = values_in_draws(lambda w: weighted_metrics(labels[own] == 1, probabilities[own], w), draws, part)["auc"]
    assert found[:5] == pytest.approx(list(metrics.values()), nan_ok=True)


def test_ranking_metrics_depend_on_the_order_alone():
    for labels, scores, generator in random_cases(50):
        weights = generator.integers(0, 3, (4, len(labels))).astype(float)
        first = weighted_metrics(labels == 1, scores, weights)
        second = weighted_metrics(labels == 1, np.exp(scores) - 7, weights)
        for name in RANKING:
            assert first[name] == pytest.approx(second[name], nan_ok=True)


def coverage(trials: int, patients: int) -> dict[str, float]:
    """How often the 95 % interval of each metric holds the metric's value for very many patients.

    A patient's two breasts share a tendency, and each is positive with the probability that its score says.
    """

    def sample(generator, count):
        shared = np.repeat(generator.normal(0, 0.7, count), 2)
        logits = -2.0 + shared + generator.normal(0, 1, 2 * count)
        probabilities = 1 / (1 + np.exp(-logits))
        return generator.random(2 * count) < 1 / (1 + np.exp(-(1.3 * logits + 0.5))), probabilities

    labels, probabilities = sample(np.random.default_rng(99), 400_000)
    truth = {name: value[0] for name, value in values_at(labels, probabilities, np.ones((1, len(labels)))).items()}
    hits = dict.fromkeys(truth, 0)
    groups = np.repeat(np.arange(patients), 2).tolist()
    for trial in range(trials):
        labels, probabilities = sample(np.random.default_rng(trial), patients)
        drawn = values_in_draws(
            lambda weights, y=labels, p=probabilities: values_at(y, p, weights),
            Draws.of(groups, samples=400, seed=trial),
            groups,
        )
        for name, values in drawn.items():
            low, high = interval(values)
            hits[name] += low <= truth[name] <= high
    return {name: count / trials for name, count in hits.items()}


def values_at(labels, probabilities, weights):
    values = weighted_metrics(labels, probabilities, weights, {"": 0.3})
    # It is never negative, so that chance alone raises it, and the true one is not in the interval.
    return {name: value for name, value in values.items() if name != "expected_calibration_error"}


def test_intervals_of_all_metrics_cover_the_truth_about_as_often_as_they_say():
    """A sample of the nightly test: of 60 trials, 52 or fewer would be by chance less than once in 100."""
    for name, share in coverage(60, 200).items():
        assert share >= 0.85, (name, share)


@pytest.mark.nightly
def test_intervals_of_all_metrics_cover_the_truth_in_95_percent():
    for name, share in coverage(1000, 400).items():
        assert 0.925 <= share <= 0.975, (name, share)


def test_draws_without_a_value_are_left_out():
    labels, probabilities = [1, 0, 0, 0], [0.9, 0.1, 0.2, 0.3]
    assert bootstrap_interval(labels, probabilities, None, metric=roc_auc) == (1.0, 1.0)
    assert all(map(math.isnan, bootstrap_interval([0, 0], [0.1, 0.2], None, metric=roc_auc, samples=10)))
    assert all(map(math.isnan, bootstrap_interval([], [], [])))


def test_an_interval_of_the_size_of_rsna_needs_no_row_for_each_draw():
    labels = np.arange(24_000) % 48 == 0
    probabilities = np.where(labels, 0.3, 0.05)
    low, high = bootstrap_interval(labels, probabilities, np.arange(24_000) // 2)
    assert low < probabilistic_f1(labels, probabilities) < high


@pytest.mark.parametrize("arguments", [{"samples": 0}, {"confidence": 0}, {"confidence": 1}, {"confidence": math.nan}])
def test_impossible_intervals_are_refused(arguments):
    with pytest.raises(ValueError, match="confidence"):
        bootstrap_interval([0, 1], [0.1, 0.9], None, **arguments)


def test_groups_of_another_length_are_refused():
    with pytest.raises(ValueError, match="1 groups but 2"):
        bootstrap_interval([0, 1], [0.1, 0.9], ["a"])


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (np.array([7, math.nan]), r"groups\[1\] is missing \(nan\)"),
        ([math.nan, "a"], r"groups\[0\] is missing \(nan\)"),
        (np.array(["a", None]), r"groups\[1\] is missing \(None\)"),
        (np.ma.array([7, 8], mask=[0, 1]), r"groups\[1\] is missing"),
        (np.array([[7], [8]]), r"groups must be one-dimensional.* not of shape \(2, 1\)"),
        (torch.tensor([[7], [8]]), r"groups must be one-dimensional.* not of shape \(2, 1\)"),
        ([[7], [8]], r"groups\[0\] is \[7\]; a group must be hashable, such as a number or a string"),
    ],
    ids=repr,
)
def test_groups_without_a_name_are_refused_by_place(groups, said):
    for function in (bootstrap_interval, summarise):
        with pytest.raises(ValueError, match=said):
            function([0, 1], [0.1, 0.9], groups)


def test_a_masked_array_without_a_masked_value_is_scored():
    labels, probabilities = np.ma.array([0, 1, 1]), np.ma.array([0.1, 0.9, 0.5], mask=False)
    assert probabilistic_f1(labels, probabilities) == probabilistic_f1([0, 1, 1], [0.1, 0.9, 0.5])


def test_the_summary_says_what_the_functions_say():
    labels, probabilities, patients = screening(60)
    summary = summarise(labels, probabilities, groups=patients, threshold=0.35)
    threshold, best = best_threshold(labels, probabilities)
    called, given = probabilities >= threshold, probabilities >= 0.35
    sensitivity, specificity = sensitivity_and_specificity(labels, probabilities, threshold)
    given_sensitivity, given_specificity = sensitivity_and_specificity(labels, probabilities, 0.35)
    intervals = {name: summary.pop(f"{name}_interval") for name in [*summary] if f"{name}_interval" in summary}
    without = ("count", "positives", "threshold", "given_threshold", "pf1_all_ones", "expected_calibration_error")
    assert set(summary) - set(intervals) == set(without)
    assert summary == {
        "count": 120,
        "positives": int(labels.sum()),
        "pf1": probabilistic_f1(labels, probabilities),
        "pf1_best": best,
        "threshold": threshold,
        "auc": roc_auc(labels, probabilities),
        "average_precision": average_precision(labels, probabilities),
        "sensitivity_at_90_specificity": sensitivity_at_specificity(labels, probabilities, 0.9),
        "specificity_at_90_sensitivity": specificity_at_sensitivity(labels, probabilities, 0.9),
        "brier": brier_score(labels, probabilities),
        "expected_calibration_error": expected_calibration_error(labels, probabilities),
        "clshub_pf1": clshub_pf1(labels, probabilities),
        "sensitivity": sensitivity,
        "specificity": specificity,
        "precision": precision_and_recall_rate(labels, probabilities, threshold)[0],
        "recall_rate": precision_and_recall_rate(labels, probabilities, threshold)[1],
        "pf1_all_ones": pytest.approx(2 * labels.mean() / (1 + labels.mean())),
        "given_threshold": 0.35,
        "pf1_at_given_threshold": probabilistic_f1(labels, given),
        "sensitivity_at_given_threshold": given_sensitivity,
        "specificity_at_given_threshold": given_specificity,
        "precision_at_given_threshold": precision_and_recall_rate(labels, probabilities, 0.35)[0],
        "recall_rate_at_given_threshold": precision_and_recall_rate(labels, probabilities, 0.35)[1],
    }
    assert intervals["pf1"] == pytest.approx(bootstrap_interval(labels, probabilities, patients))
    assert intervals["pf1_best"] == pytest.approx(bootstrap_interval(labels, called, patients))
    assert intervals["pf1_at_given_threshold"] == pytest.approx(bootstrap_interval(labels, given, patients))
    for name, (low, high) in intervals.items():
        assert low <= summary[name] <= high or name == "expected_calibration_error"


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [([], []), ([0, 0], [0.1, 0.2]), ([1, 1], [0.1, 0.2]), ([0, 1], [-math.inf, math.inf])],
)
def test_the_summary_is_strict_json_whatever_is_undefined(labels, probabilities):
    summary = summarise(labels, probabilities, groups=range(len(labels)), threshold=0.15)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    assert {"pf1", "pf1_best", "threshold", "auc", "average_precision", "count", "positives"} <= set(summary)


def test_what_is_undefined_is_none():
    summary = summarise([0, 0], [0.1, 0.2])
    assert [summary[name] for name in ("threshold", "auc", "average_precision", "sensitivity")] == [None] * 4
    assert (summary["pf1"], summary["pf1_best"], summary["pf1_all_ones"]) == (0.0, 0.0, 0.0)


def test_the_summary_takes_beta():
    labels, probabilities, patients = screening(60)
    summary = summarise(labels, probabilities, iter(patients), beta=2.0)
    assert summary["pf1"] == probabilistic_f1(labels, probabilities, 2.0)
    assert (summary["threshold"], summary["pf1_best"]) == best_threshold(labels, probabilities, 2.0)
    assert summary["pf1_all_ones"] == probabilistic_f1(labels, np.ones(120), 2.0)
    assert summary["pf1_interval"][0] < summary["pf1"] < summary["pf1_interval"][1]
