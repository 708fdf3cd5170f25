"""Calibration: what it recovers, and that a breast's label never touches its own probability."""

import math

import numpy as np
import pytest

from efficientnet.mammography.calibration import Calibration, cross_fitted, fit_calibration, logit
from efficientnet.mammography.targets import sigmoid
from efficientnet.metrics import brier_score, expected_calibration_error, roc_auc


def distorted(size: int, slope: float, bias: float, seed: int = 0):
    """Labels, and probabilities that are calibrated by this slope and bias, with patients of two breasts each."""
    generator = np.random.default_rng(seed)
    logits = generator.normal(-2.5, 1.5, size)
    labels = (generator.random(size) < sigmoid(logits)).astype(int)
    return labels, sigmoid((logits - bias) / slope), [f"patient {breast // 2}" for breast in range(size)]


@pytest.mark.parametrize(("slope", "bias"), [(1.0, 0.0), (0.5, -0.6), (2.0, 1.5), (1.0, -3.0)])
def test_a_fit_recovers_the_distortion_of_many_breasts(slope, bias):
    labels, probabilities, _ = distorted(20_000, slope, bias)
    found = fit_calibration(labels, probabilities)
    assert (found.slope, found.bias) == pytest.approx((slope, bias), abs=0.12)
    assert found.temperature == pytest.approx(1 / found.slope)
    assert expected_calibration_error(labels, found(probabilities)) < 0.01


def test_a_fit_is_the_logistic_regression_of_scikit_learn():
    linear = pytest.importorskip("sklearn.linear_model")
    labels, probabilities, _ = distorted(5000, 0.5, -1.0)
    model = linear.LogisticRegression(C=np.inf, tol=1e-8).fit(logit(probabilities)[:, None], labels)
    found = fit_calibration(labels, probabilities)
    assert (found.slope, found.bias) == pytest.approx((model.coef_[0, 0], model.intercept_[0]), abs=2e-3)


def test_calibration_keeps_the_order_and_stays_between_0_and_1():
    labels, probabilities, _ = distorted(400, 0.6, 0.5)
    found = fit_calibration(labels, probabilities)
    assert roc_auc(labels, found(probabilities)) == pytest.approx(roc_auc(labels, probabilities))
    ends = found([0.0, 1e-30, 0.5, 1.0])
    assert (np.diff(ends) >= 0).all() and ends[0] > 0 and ends[-1] < 1
    assert Calibration()([0.25, 0.5]) == pytest.approx([0.25, 0.5])


@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [([], []), ([0, 0], [0.1, 0.2]), ([1], [0.5]), ([0, 1], [0.0, 1.0]), ([0, 1] * 50, [1e-30, 1 - 1e-16] * 50)],
)
def test_a_fit_is_finite_whatever_the_labels(labels, probabilities):
    found = fit_calibration(labels, probabilities)
    assert math.isfinite(found.slope) and math.isfinite(found.bias) and found.slope >= 0
    patients = [str(breast) for breast in range(len(labels))]
    calibrated = cross_fitted(labels, probabilities, patients)
    assert calibrated.shape == (len(labels),) and np.isfinite(calibrated).all()


def test_a_model_that_is_worse_than_chance_gets_one_probability_for_all():
    labels, probabilities, _ = distorted(2000, 1.0, 0.0)
    found = fit_calibration(labels, 1 - probabilities)
    assert found.slope == 0 and found.temperature == math.inf
    assert found(probabilities) == pytest.approx(np.full(2000, labels.mean()), abs=1e-3)


def test_no_patients_probability_depends_on_her_own_labels():
    labels, probabilities, patients = distorted(200, 0.5, -1.0)
    before = cross_fitted(labels, probabilities, patients)
    for patient in (0, 17, 60):
        own = slice(2 * patient, 2 * patient + 2)
        positive = labels[own].max()  # her fold depends on whether she has a positive breast, so keep that
        changed = labels.copy()
        changed[own] = labels[own][::-1] if positive else labels[own]
        assert np.array_equal(cross_fitted(changed, probabilities, patients)[own], before[own])


def test_cross_fitting_does_not_depend_on_the_order_of_the_breasts():
    labels, probabilities, patients = distorted(300, 0.5, -1.0)
    order = np.random.default_rng(1).permutation(300)
    shuffled = cross_fitted(labels[order], probabilities[order], [patients[place] for place in order])
    assert shuffled == pytest.approx(cross_fitted(labels, probabilities, patients)[order], abs=1e-9)


def test_cross_fitting_improves_distorted_probabilities_of_other_patients():
    labels, probabilities, patients = distorted(2000, 0.4, -2.0)
    calibrated = cross_fitted(labels, probabilities, patients)
    assert brier_score(labels, calibrated) < brier_score(labels, probabilities)
    assert expected_calibration_error(labels, calibrated) < 0.03


def test_labels_are_checked():
    with pytest.raises(ValueError, match=r"labels\[1\] is 2"):
        fit_calibration([0, 2], [0.1, 0.2])
