"""Images to breasts, predictions and submissions."""

import io
import math

import numpy as np
import pytest

from efficientnet.mammography.scoring import score_breasts, write_images, write_predictions, write_submission
from efficientnet.mammography.table import read_table
from efficientnet.mammography.targets import Target


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
    write_predictions(file, scores, table.targets, {"7": 3, "5": 1})
    assert file.getvalue() == (
        "patient_id,laterality,prediction_id,fold,cancer,cancer_probability,biopsy,biopsy_probability\n"
        "7,L,7_L,3,1,0.25,1,0.5\n"
        "5,R,5_R,1,0,0.125,0,0\n"
    )
    file = io.StringIO()
    write_submission(file, table, scores, 0.02)
    assert file.getvalue() == "prediction_id,cancer\n7_L,0.25\n7_R,0.02\n5_R,0.125\n5_L,0.02\n"
    file = io.StringIO()
    write_submission(file, table, scores, 0.02, 0.25)  # a probability at the threshold is called
    assert file.getvalue() == "prediction_id,cancer\n7_L,1\n7_R,0\n5_R,0\n5_L,0\n"


def test_breasts_that_were_scored_as_a_whole(table):
    scores = score_breasts(table, [2, 0], np.array([[0.25, 0.5], [0.75, 0.125]]), "joint")
    assert [breast.prediction_id for breast in scores.breasts] == ["7_L", "5_R"]
    assert scores.probabilities.tolist() == [[0.75, 0.125], [0.25, 0.5]]
    assert scores.images.tolist() == [2, 1] and len(scores.unscored) == 2


@pytest.fixture
def mixed(tmp_path):
    """A table with targets of every kind: outputs cancer, view CC, view MLO, age, biopsy."""
    text = "patient_id,image_id,laterality,view,age,cancer,biopsy\n7,1,L,CC,50,1,0\n7,2,L,MLO,50,1,1\n5,3,R,CC,60,0,0\n"
    (tmp_path / "train.csv").write_text(text)
    targets = (
        Target("cancer"),
        Target("view", "category", ("CC", "MLO")),
        Target("age", "number", mean=55.0, std=5.0),
        Target("biopsy"),
    )
    return read_table(tmp_path / "train.csv", targets)


def test_only_binary_targets_are_scored_per_breast(mixed):
    outputs = np.array([[0.5, 0.9, 0.1, -1.0, 0.25], [0.25, 0.2, 0.8, 0.5, 0.75], [0.125, 0.6, 0.4, 2.0, 0.5]])
    scores = score_breasts(mixed, range(3), outputs)
    assert scores.probabilities.tolist() == [[0.375, 0.5], [0.125, 0.5]]
    assert scores.labels.tolist() == [[1, 1], [0, 0]]
    file = io.StringIO()
    write_predictions(file, scores, mixed.targets)
    assert file.getvalue().splitlines()[:2] == [
        "patient_id,laterality,prediction_id,fold,cancer,cancer_probability,biopsy,biopsy_probability",
        "7,L,7_L,,1,0.375,1,0.5",
    ]


def test_images_have_the_most_probable_category_and_the_number(mixed):
    outputs = np.array([[0.5, 0.75, 0.25, -1.0, 0.25], [np.nan] * 5, [0.125, 0.25, 0.75, 2.0, 0.5]])
    file = io.StringIO()
    write_images(file, mixed, outputs)
    assert file.getvalue() == (
        "patient_id,image_id,laterality,cancer_probability,view,view_probability,age,biopsy_probability\n"
        "7,1,L,0.5,CC,0.75,50,0.25\n"
        "5,3,R,0.125,MLO,0.75,65,0.5\n"
    )


def test_metrics_are_of_the_labelled_breasts(tmp_path):
    (tmp_path / "train.csv").write_text("patient_id,image_id,laterality,cancer\n7,1,L,1\n7,2,R,\n5,3,R,0\n")
    table = read_table(tmp_path / "train.csv", labels="optional")
    scores = score_breasts(table, range(3), np.array([[0.5], [0.25], [0.125]]))
    assert [breast.prediction_id for breast in scores.labelled.breasts] == ["7_L", "5_R"]
    assert scores.labelled.patients == ["7", "5"]
    metrics = scores.metrics(0.5, intervals=True)
    assert (metrics["count"], metrics["positives"], metrics["pf1_at_given_threshold"]) == (2, 1, 1.0)
    assert "pf1_interval" in metrics and "pf1_interval" not in scores.metrics()
