"""Student's paired t test, against its definition and scipy."""

import math

import numpy as np
import pytest

from efficientnet.metrics.paired import paired_difference


@pytest.mark.parametrize("count", [2, 3, 5, 12, 40])
def test_it_is_scipys(count):
    stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(count)
    for _ in range(5):
        values, others = generator.normal([[0.5], [0]], size=(2, count))
        found, expected = paired_difference(values, others), stats.ttest_rel(values, others)
        low, high = expected.confidence_interval(0.95)
        assert found.p == pytest.approx(expected.pvalue, abs=1e-5)
        assert (found.mean, found.half) == pytest.approx(((low + high) / 2, (high - low) / 2), rel=1e-3)
        assert found.is_significant == (expected.pvalue < 0.05)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draws = np.random.default_rng(0).normal(size=(4000, 3))
    inside = [not paired_difference(values, [0, 0, 0]).is_significant for values in draws]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.015)


def test_the_ends():
    assert paired_difference([0.3], [0.1]).half == math.inf and not paired_difference([0.3], [0.1]).is_significant
    same, shifted = paired_difference([1, 2], [1, 2]), paired_difference([1, 2], [0, 1])
    assert (same.mean, same.p, same.is_significant) == (0, 1, False)
    assert (shifted.mean, shifted.p, shifted.is_significant) == (1, 0, True)
    for values, others in (([], []), ([1], [1, 2])):
        with pytest.raises(ValueError):
            paired_difference(values, others)
