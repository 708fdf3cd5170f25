"""Student's paired t test, against its definition and scipy."""

import math

import numpy as np
import pytest

from efficientnet.metrics.paired import holm, paired_difference


@pytest.mark.parametrize("count", [2, 3, 5, 12, 40])
def test_it_is_scipys(count):
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(count)
    for _ in range(5):
        values, others = generator.normal([[0.5], [0]], size=(2, count))
        found, expected = paired_difference(values, others), stats.ttest_rel(values, others)
        low, high = expected.confidence_interval(0.95)
        assert found.p == pytest.approx(expected.pvalue, abs=1e-5)
        assert (found.mean, found.half_width) == pytest.approx(((low + high) / 2, (high - low) / 2), rel=1e-3)
        assert (abs(found.mean) > found.half_width) == (expected.pvalue < 0.05) == (found.p < 0.05)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(size=(4000, 3))
    found = [paired_difference(values, [0, 0, 0]) for values in draws]
    inside = [abs(each.mean) <= each.half_width for each in found]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_the_ends():
    single = paired_difference([0.3], [0.1])
    assert single.half_width == math.inf and math.isnan(single.p)
    same, shifted = paired_difference([1, 2], [1, 2]), paired_difference([1, 2], [0, 1])
    assert (same.mean, same.p) == (0, 1) and (shifted.mean, shifted.p) == (1, 0)
    for values, others in (([], []), ([1], [1, 2])):
        with pytest.raises(ValueError):
            paired_difference(values, others)


def test_holm_is_the_textbooks_and_keeps_the_error_of_a_family():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, math.nan, 0.6])[::2] == [1.0, 1.0] and math.isnan(holm([0.5, math.nan])[1])
    families = np.random.default_rng(0).uniform(size=(4000, 7))
    assert np.mean([min(holm(family)) < 0.05 for family in families]) == pytest.approx(0.05, abs=0.012)
