"""Top-1, top-5, intervals, confusions and predictions.csv, against their definitions."""

import json

import numpy as np
import pytest

from efficientnet.common.errors import UserError
from efficientnet.imagefolder.report import compare_predictions, drawn_differences, summarise_folds
from efficientnet.imagefolder.scoring import (
    Scores,
    predictions_csv,
    predictions_of,
    read_predictions,
    share_interval,
)

CLASSES = [f"class {number}" for number in range(8)]


@pytest.fixture
def scored():
    """Labels and probabilities of 300 images, with ties."""
    generator = np.random.default_rng(0)
    labels = generator.integers(8, size=300)
    scores = generator.integers(0, 6, (300, 8)) + 3 * np.eye(8)[labels]
    return labels, scores / scores.sum(1, keepdims=True)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_an_image_counts_if_its_class_is_among_the_first_of_a_stable_order(scored, count):
    labels, probabilities = scored
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :count]
    wanted = float((order == labels[:, None]).any(axis=1).mean())
    assert Scores.of(CLASSES, labels, probabilities).top(count) == wanted


def test_equal_scores_for_all_classes_are_no_hits():
    assert Scores.of(CLASSES, np.arange(8), np.ones((8, 8))).top(1) == 1 / 8
    assert Scores.of(CLASSES, np.arange(0), np.ones((0, 8))).top(1) is None


def test_confusions_and_classes_are_counted(scored):
    labels, probabilities = scored
    figures = Scores.of(CLASSES, labels, probabilities).figures()
    predicted = probabilities.argmax(1)
    counts = {}
    for true, other in zip(labels, predicted, strict=True):
        if true != other:
            counts[CLASSES[true], CLASSES[other]] = counts.get((CLASSES[true], CLASSES[other]), 0) + 1
    worst = figures["confusions"][0]
    assert worst["images"] == max(counts.values()) == counts[worst["class"], worst["predicted"]]
    assert worst["of"] == (labels == CLASSES.index(worst["class"])).sum()
    assert [each["images"] for each in figures["confusions"]] == sorted(counts.values(), reverse=True)[:20]
    shares = [(predicted[labels == label] == label).mean() for label in range(8)]
    assert figures["mean_class_top1"] == pytest.approx(np.mean(shares))
    assert sum(each["images"] for each in figures["classes"].values()) == 300
    json.dumps(figures)


def test_the_interval_of_a_share_is_that_of_drawing_images():
    """Against draws of images with replacement."""
    right = np.arange(400) < 300
    drawn = right[np.random.default_rng(1).integers(400, size=(4000, 400))].mean(axis=1)
    assert share_interval(0.75, 400) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.004)
    assert share_interval(1.0, 5) == [1, 1] and share_interval(None, 0) is None


def test_the_interval_of_a_difference_is_that_of_drawing_pairs():
    a, b = np.arange(500) < 300, np.arange(500) % 7 != 0
    chosen = np.random.default_rng(1).integers(500, size=(4000, 500))
    drawn = b[chosen].mean(axis=1) - a[chosen].mean(axis=1)
    ours = drawn_differences(int((b & ~a).sum()), int((a & ~b).sum()), 500)
    assert np.quantile(ours, [0.025, 0.975]) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.006)
    assert ours.mean() == pytest.approx(b.mean() - a.mean(), abs=0.003)


def predictions(labels, probabilities, start=0):
    files = [f"folder/{number}, \u00e9.jpg" for number in range(start, start + len(labels))]
    return predictions_of(files, [CLASSES[label] for label in labels], CLASSES, probabilities)


def test_predictions_are_read_as_they_were_written(scored):
    labels, probabilities = scored
    probabilities = probabilities.copy()
    probabilities[3] = np.nan  # could not be read
    written = predictions(labels, probabilities)
    read = read_predictions("predictions.csv", predictions_csv(written))
    assert len(read) == 299 and "folder/3, \u00e9.jpg" not in read
    for each in written:
        again = read[each.file]
        assert (again.label, list(again.classes)) == (each.label, list(each.classes))
        assert list(again.probabilities) == pytest.approx(each.probabilities, rel=1e-5)


@pytest.mark.parametrize(
    "content",
    [b"", b"file,label\na,b\n", b"file,label,class,probability\na,b,c,2\n", b"patient_id,cancer\n1,0\n", b"\xff\xfe"],
    ids=str,
)
def test_another_table_is_refused_in_a_line(content):
    with pytest.raises(UserError, match=r"x\.csv: not a predictions\.csv"):
        read_predictions("x.csv", content)


def test_two_models_are_compared_on_what_both_scored(scored):
    labels, probabilities = scored
    better = probabilities + 0.5 * np.eye(8)[labels] * (np.arange(300) % 2)[:, None]
    better /= better.sum(1, keepdims=True)
    a = predictions_csv(predictions(labels, probabilities))
    b = predictions_csv(predictions(labels[50:], better[50:], start=50))
    report = compare_predictions(["A.csv", "B.csv"], [a, b])
    top1 = report.values["metrics"]["top1"]
    wanted = [Scores.of(CLASSES, labels[50:], each[50:]).top(1) for each in (probabilities, better)]
    assert report.values["count"] == 250 and [top1["first"], top1["second"]] == pytest.approx(wanted)
    assert top1["second_is_better"] > 0.99 and top1["difference_interval"][0] > 0
    same = compare_predictions(["A.csv", "A.csv"], [a, a]).values["metrics"]["top1"]
    assert (same["difference"], same["second_is_better"]) == (0, 0.5)


def test_models_of_other_labels_or_images_are_not_compared(scored):
    labels, probabilities = scored
    a = predictions_csv(predictions(labels, probabilities))
    for other, words in (
        (predictions((labels + 1) % 8, probabilities), "the class of"),
        (predictions(labels, probabilities, start=1000), "no labelled image"),
    ):
        with pytest.raises(UserError, match=words):
            compare_predictions(["A.csv", "B.csv"], [a, predictions_csv(other)])


def test_the_summary_of_folds_is_that_of_all_their_images(scored, tmp_path):
    labels, probabilities = scored
    runs = [tmp_path / "fold0", tmp_path / "fold1"]
    for run, part in zip(runs, (slice(0, 120), slice(120, 300)), strict=True):
        run.mkdir()
        (run / "predictions.csv").write_bytes(
            predictions_csv(predictions(labels[part], probabilities[part], part.start))
        )
    text, files = summarise_folds(runs)
    summary = json.loads(files["summary.json"])
    whole = Scores.of(CLASSES, labels, probabilities)
    assert (summary["images"], summary["folds"]) == (300, 2) and "300 images, each out of fold" in text
    assert (summary["top1"], summary["top5"]) == (whole.top(1), whole.top(5))
    assert len(read_predictions("all", files["predictions.csv"])) == 300
    (runs[1] / "predictions.csv").write_bytes((runs[0] / "predictions.csv").read_bytes())
    with pytest.raises(UserError, match="was held out by another fold too"):
        summarise_folds(runs)
