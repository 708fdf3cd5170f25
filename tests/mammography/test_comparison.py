"""Two models on the same breasts: the paired bootstrap of their differences."""

import json

import numpy as np
import pytest

from efficientnet.common.errors import UserError
from efficientnet.mammography.comparison import HEADLINE, compare_predictions, differences, read_predictions
from efficientnet.metrics import brier_score, roc_auc
from efficientnet.metrics.bootstrap import bootstrap_interval

HEADER = "patient_id,laterality,prediction_id,fold,cancer,cancer_probability"


def screening(patients: int, seed: int = 0):
    """Labels, two models' probabilities, of which the second is better, and patients."""
    generator = np.random.default_rng(seed)
    labels = (generator.random(2 * patients) < 0.2).astype(float)
    shared = generator.normal(0, 1, 2 * patients)
    first = 1 / (1 + np.exp(-(shared + 0.8 * labels - 2 + generator.normal(0, 0.5, 2 * patients))))
    second = 1 / (1 + np.exp(-(shared + 2.0 * labels - 2 + generator.normal(0, 0.5, 2 * patients))))
    return labels, first, second, [f"{breast // 2:03}" for breast in range(2 * patients)]


def file_of(labels, probabilities, patients) -> bytes:
    lines = [
        f"{patient},{'LR'[place % 2]},{patient}_{'LR'[place % 2]},0,{'' if np.isnan(label) else int(label)},{value}"
        for place, (label, value, patient) in enumerate(zip(labels, probabilities, patients, strict=True))
    ]
    return "\n".join([HEADER, *lines, ""]).encode()


def test_a_difference_is_that_of_the_metrics_and_its_interval_that_of_the_paired_bootstrap():
    labels, first, second, patients = screening(100)
    found = differences(labels, first, second, patients)
    assert set(found) == set(HEADLINE)
    for name, metric in (("auc", roc_auc), ("brier", brier_score)):
        assert found[name]["difference"] == pytest.approx(metric(labels, second) - metric(labels, first))
        # The general bootstrap draws breasts: a metric of places that looks up both models is the paired difference.
        expected = bootstrap_interval(
            labels,
            np.arange(200),
            patients,
            lambda _, places, metric=metric: (
                metric(labels[places.astype(int)], second[places.astype(int)])
                - metric(labels[places.astype(int)], first[places.astype(int)])
            ),
        )
        assert found[name]["difference_interval"] == pytest.approx(expected)
    assert found["auc"]["second_is_better"] > 0.95


def test_exchanged_models_have_the_opposite_differences():
    labels, first, second, patients = screening(60)
    one, other = differences(labels, first, second, patients), differences(labels, second, first, patients)
    for name in HEADLINE:
        assert one[name]["difference"] == pytest.approx(-other[name]["difference"])
        assert one[name]["second_is_better"] == pytest.approx(1 - other[name]["second_is_better"])
        low, high = one[name]["difference_interval"]
        assert other[name]["difference_interval"] == pytest.approx([-high, -low])


def test_a_model_does_not_differ_from_itself():
    labels, first, _, patients = screening(60)
    for each in differences(labels, first, first, patients).values():
        assert (each["difference"], each["difference_interval"], each["second_is_better"]) == (0, [0, 0], 0.5)


def test_a_lower_brier_score_is_better():
    labels, _, _, patients = screening(60)
    better, worse = 0.1 + 0.6 * labels, np.full(120, 0.5)
    assert differences(labels, worse, better, patients)["brier"]["second_is_better"] == 1.0


def test_files_are_compared_on_the_labelled_breasts_that_both_have():
    labels, first, second, patients = screening(60)
    unknown = labels.copy()
    unknown[5] = np.nan
    a, b = file_of(unknown, first, patients), file_of(unknown[:100], second[:100], patients[:100])
    report = compare_predictions(("a.csv", "b.csv"), (a, b))
    assert (report.values["count"], report.values["patients"]) == (99, 50)
    assert json.loads(json.dumps(report.values, allow_nan=False)) == report.values
    known = [place for place in range(100) if place != 5]
    expected = roc_auc(labels[known], second[known]) - roc_auc(labels[known], first[known])
    assert report.values["metrics"]["auc"]["difference"] == pytest.approx(expected)
    lines = report.text.splitlines()
    assert max(map(len, lines)) <= 100 and lines[0] == "A  a.csv" and "99 breasts of 50 patients" in report.text
    table = lines[5:-2]
    assert len(table) == 1 + len(HEADLINE) and len({len(line) for line in table}) == 1
    assert all(" to " in line and line.endswith(" %") for line in table[1:])


def test_without_positives_a_comparison_has_dashes():
    report = compare_predictions(("a", "b"), [file_of([0, 0], [0.1, 0.2], "77"), file_of([0, 0], [0.2, 0.2], "77")])
    assert report.values["metrics"]["auc"]["difference"] is None and "-" in report.text


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        (b"a,b\n1,2\n", b"", "a.csv: not a predictions.csv"),
        (b"\xff\xfe\x00", b"", "a.csv: not a predictions.csv"),
        (f"{HEADER}\n1,L,1_L,0,1,high\n".encode(), b"", "a.csv: not a predictions.csv"),
        (file_of([1], [0.5], "7"), file_of([0], [0.5], "7"), "breast 7_L differs"),
        (file_of([1], [0.5], "7"), file_of([1], [0.5], "8"), "no labelled breast was held out by both"),
    ],
)
def test_files_that_cannot_be_compared_are_named(first, second, said):
    with pytest.raises(UserError, match=said):
        compare_predictions(("a.csv", "b.csv"), (first, second))


def test_the_first_target_of_a_file_is_compared():
    header = "patient_id,laterality,prediction_id,fold,biopsy,biopsy_probability,cancer,cancer_probability"
    text = f"{header}\n7,L,7_L,,1,.5,0,.1\n"
    assert read_predictions("a", text.encode())["7_L"] == ("7", 1.0, 0.5)
