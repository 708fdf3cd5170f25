"""Images to breasts, predictions and submissions."""

import io
import math

import numpy as np
import pytest

from efficientnet.mammography.scoring import score_breasts, sigmoid, write_predictions, write_submission
from efficientnet.mammography.table import read_table


@pytest.fixture
def table(tmp_path):
    text = "patient_id,image_id,laterality,cancer,biopsy\n"
    text += "7,1,L,1,\n7,2,L,1,1\n7,3,R,0,\n7,4,R,0,\n5,5,R,0,0\n5,6,L,0,0\n"
    (tmp_path / "train.csv").write_text(text)
    return read_table(tmp_path / "train.csv", ("cancer", "biopsy"))


def test_a_breast_is_the_mean_of_the_images_that_were_scored(table):
    probabilities = np.array([[0.2, 0.0], [0.6, 0.2], [0.5, 0.5], [0.1, 0.1]])
    scores = score_breasts(table, [0, 1, 3, 4], probabilities)
    assert [breast.prediction_id for breast in scores.breasts] == ["7_L", "7_R", "5_R"]
    assert scores.probabilities[:, 0] == pytest.approx([0.4, 0.5, 0.1])
    assert scores.images.tolist() == [2, 1, 1]
    assert [breast.prediction_id for breast in scores.unscored] == ["5_L"]
    assert score_breasts(table, [0, 1], probabilities[:2], "max").probabilities[0, 0] == 0.6


def test_labels_of_a_breast_are_those_that_any_image_has(table):
    scores = score_breasts(table, range(6), np.zeros((6, 2)))
    assert scores.labels[0].tolist() == [1, 1]
    assert scores.labels[1][0] == 0 and math.isnan(scores.labels[1][1])


def test_the_order_of_scoring_does_not_matter(table):
    probabilities = np.random.default_rng(0).random((6, 2))
    order = [3, 5, 0, 2, 4, 1]
    a, b = score_breasts(table, range(6), probabilities), score_breasts(table, order, probabilities[order])
    assert np.array_equal(a.probabilities, b.probabilities)


def test_unknown_methods_are_refused(table):
    with pytest.raises(ValueError, match="mean"):
        score_breasts(table, [], np.zeros((0, 2)), "median")


def test_predictions_and_submission(table):
    scores = score_breasts(table, [0, 4], np.array([[0.25, 0.5], [0.125, 0.0]]))
    file = io.StringIO()
    write_predictions(file, scores, table.target_names, {"7": 3, "5": 1})
    assert file.getvalue() == (
        "patient_id,laterality,prediction_id,fold,cancer,cancer_probability,biopsy,biopsy_probability\n"
        "7,L,7_L,3,1,0.25,1,0.5\n"
        "5,R,5_R,1,0,0.125,0,0\n"
    )
    file = io.StringIO()
    write_submission(file, table, scores, 0.02)
    assert file.getvalue() == "prediction_id,cancer\n7_L,0.25\n7_R,0.02\n5_R,0.125\n5_L,0.02\n"


def test_sigmoid_is_finite_for_any_logit():
    values = sigmoid(np.array([-1e4, -2.0, 0.0, 2.0, 1e4], np.float32))
    assert values == pytest.approx([0, 1 / (1 + math.e**2), 0.5, 1 / (1 + math.e**-2), 1])
