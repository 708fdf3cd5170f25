"""Targets: what their labels mean, which outputs are theirs, and that a checkpoint keeps them."""

import json
import math

import numpy as np
import pytest

from efficientnet.mammography.targets import Target, output_probabilities, output_slices

TARGETS = (
    Target("cancer"),
    Target("BIRADS", "category", ("0", "1", "2")),
    Target("biopsy"),
    Target("age", "number", mean=60.0, std=10.0),
    Target("view", "category", ("CC", "MLO")),
)


def test_the_outputs_are_side_by_side_in_order():
    assert output_slices(TARGETS) == [slice(0, 1), slice(1, 4), slice(4, 5), slice(5, 6), slice(6, 8)]
    assert output_slices(TARGETS[:1]) == [slice(0, 1)]
    assert sum(target.outputs for target in TARGETS) == 8


def test_probabilities_are_those_of_sigmoid_and_softmax_and_numbers_stay():
    logits = np.random.default_rng(0).normal(0, 3, (20, 8)).astype(np.float32)
    logits[0] = 1000, -1000, 0, 1000, -1000, 7, 500, 500
    before = logits.copy()
    values = output_probabilities(logits, TARGETS)
    assert values.shape == (20, 8) and values.dtype == np.float64 and np.isfinite(values).all()
    assert np.array_equal(logits, before)
    np.testing.assert_allclose(values[0], [1, 0, 0, 1, 0, 7, 0.5, 0.5], atol=1e-12)
    ordinary = logits[1:].astype(np.float64)
    np.testing.assert_allclose(values[1:, [0, 4]], 1 / (1 + np.exp(-ordinary[:, [0, 4]])))
    np.testing.assert_array_equal(values[1:, 5], ordinary[:, 5])
    for place in (slice(1, 4), slice(6, 8)):
        np.testing.assert_allclose(values[:, place].sum(1), 1)
        np.testing.assert_allclose(np.diff(np.log(values[1:, place])), np.diff(ordinary[:, place]))


def test_labels_are_zero_or_one_places_of_categories_and_standard_scores():
    assert TARGETS[0].labels([0.0, 1.0]) == [0, 1]
    assert math.isnan(TARGETS[0].labels([math.nan])[0])
    np.testing.assert_array_equal(TARGETS[1].labels(["2", "0", None, "3"]), [2, 0, math.nan, math.nan])
    np.testing.assert_array_equal(TARGETS[3].labels([60, 75.0, None]), [0, 1.5, math.nan])


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["2", "10", "0", "2"], ("0", "2", "10")),
        (["MLO", None, "CC"], ("CC", "MLO")),
        (["10", "9", "A"], ("10", "9", "A")),
        (["1", "01", "2"], ("01", "1", "2")),
    ],
)
def test_categories_are_in_order_of_their_numbers_or_of_their_texts(texts, values):
    for order in (texts, texts[::-1]):
        assert Target.of_column("density", "category", order).values == values


def test_a_number_has_the_mean_and_deviation_of_its_column():
    target = Target.of_column("age", "number", [40.0, None, 60.0])
    assert (target.mean, target.std) == (50, 10)
    assert Target.of_column("age", "number", [40.0, 40.0]).std == 1
    assert Target.of_column("age", "number", [None]) == Target("age", "number")


def test_a_target_survives_json():
    for target in TARGETS:
        assert Target.from_dict(json.loads(json.dumps(target.to_dict()))) == target
    with pytest.raises((TypeError, KeyError)):
        Target.from_dict({"name": "cancer"})
