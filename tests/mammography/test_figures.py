"""The figures of scored breasts: subgroups, calibration, and the table that people read."""

import json
from pathlib import Path

import numpy as np
import pytest

from efficientnet.mammography.calibration import Calibration, cross_fitted
from efficientnet.mammography.figures import (
    AGES,
    as_markdown,
    as_text,
    breasts_by_attribute,
    decimals,
    figures,
    percent,
    score_line,
    scores_by_view,
    sections,
    share,
)
from efficientnet.mammography.scoring import score_breasts
from efficientnet.mammography.table import Row, Table
from efficientnet.mammography.targets import Target
from efficientnet.metrics import brier_score, probabilistic_f1, roc_auc, sensitivity_and_specificity
from efficientnet.metrics.bootstrap import summarise


def screening(patients: int, seed: int = 0, share_of_positives: float = 0.3):
    """A table of two views of each breast, and a probability per image."""
    generator = np.random.default_rng(seed)
    rows, logits = [], []
    for patient in range(patients):
        site, age = str(1 + patient % 2), (None, 44.0, 50.0, 69.0, 70.0)[patient % 5]
        density = "ABCD"[patient % 4] if site == "1" else None
        for side in "LR":
            label = float(generator.random() < share_of_positives)
            for view in ("CC", "MLO"):
                name = f"{patient}_{side}"
                machine = f"{site}{patient % 3}"
                implant = float(patient == 0)
                row = Row(
                    f"{patient}", f"{name}{view}", side, view, site, machine, age, (label,), name, implant, density
                )
                rows.append(row)
                logits.append(generator.normal(-3 + 2 * label, 1))
    table = Table(tuple(rows), (Target("cancer"),), Path("train.csv"))
    return table, 1 / (1 + np.exp(-np.array(logits)))[:, None]


@pytest.fixture(scope="module")
def scored():
    table, probabilities = screening(120)
    every = range(len(table.rows))
    return table, score_breasts(table, every, probabilities), scores_by_view(table, every, probabilities)


def test_they_are_the_summary_and_more(scored):
    table, scores, by_view = scored
    values = figures(scores, table, 0.2, None, by_view)
    summary = summarise(scores.labels[:, 0], scores.probabilities[:, 0], scores.patients, 0.2, draws=scores.draws)
    assert {name: values[name] for name in summary} == summary
    calibrated = cross_fitted(scores.labels[:, 0], scores.probabilities[:, 0], scores.patients)
    assert values["pf1_calibrated"] == pytest.approx(probabilistic_f1(scores.labels[:, 0], calibrated))
    assert values["pf1_calibrated"] > values["pf1"]
    assert values["brier_calibrated"] == pytest.approx(brier_score(scores.labels[:, 0], calibrated))
    assert sum(each["count"] for each in values["reliability"]) == 240
    json.dumps(values, allow_nan=False)


def test_they_do_not_depend_on_the_order_of_the_rows(scored):
    table, scores, _ = scored
    turned = Table(table.rows[::-1], table.targets, table.path)
    probabilities = {
        breast.prediction_id: value for breast, value in zip(scores.breasts, scores.probabilities, strict=True)
    }
    images = np.array([probabilities[row.prediction_id] for row in turned.rows])
    again = figures(score_breasts(turned, range(len(turned.rows)), images), turned)
    once = figures(scores, table)
    assert again["pf1_interval"] == pytest.approx(once["pf1_interval"])
    assert again["pf1_calibrated"] == pytest.approx(once["pf1_calibrated"])


def test_a_calibration_of_other_patients_is_applied_as_it_is(scored):
    table, scores, _ = scored
    given = Calibration(2.0, 1.0)
    values = figures(scores, table, calibration=given)
    expected = probabilistic_f1(scores.labels[:, 0], given(scores.probabilities[:, 0]))
    assert values["pf1_calibrated"] == pytest.approx(expected)


def test_every_breast_is_in_one_group_of_each_attribute(scored):
    table, scores, by_view = scored
    values = figures(scores, table, 0.2, None, by_view)
    assert list(values["subgroups"]) == ["site_id", "machine_id", "density", "age", "implant", "view"]
    for attribute, parts in values["subgroups"].items():
        if attribute == "view":
            assert [each["count"] for each in parts.values()] == [240, 240]
        else:
            assert sum(each["count"] for each in parts.values()) == 240
            assert sum(each["positives"] for each in parts.values()) == values["positives"]
    assert list(values["subgroups"]["age"]) == [*AGES, "unknown"]
    assert list(values["subgroups"]["density"]) == ["A", "C", "unknown"]


def test_the_figures_of_a_group_are_those_of_its_breasts(scored):
    table, scores, by_view = scored
    values = figures(scores, table, 0.2, None, by_view)
    for attribute, value in (("site_id", "2"), ("density", "A")):
        part, found = breasts_by_attribute(scores, table)[attribute][value], values["subgroups"][attribute][value]
        labels, probabilities = part.labels[:, 0], part.probabilities[:, 0]
        assert found["auc"] == roc_auc(labels, probabilities)
        both = sensitivity_and_specificity(labels, probabilities, 0.2)
        assert (found["sensitivity"], found["specificity"]) == both
        assert found["auc_interval"][0] <= found["auc"] <= found["auc_interval"][1]
        assert found["f1"] == probabilistic_f1(labels, probabilities >= 0.2)
    whole, mlo = values["subgroups"]["view"]["CC"], values["subgroups"]["view"]["MLO"]
    assert max(whole["auc"], mlo["auc"]) < values["auc"]  # two views tell more than one


def test_a_view_is_scored_from_its_images_alone(scored):
    table, probabilities = screening(4)
    by_view = scores_by_view(table, range(len(table.rows)), probabilities)
    mlo = [place for place, row in enumerate(table.rows) if row.view == "MLO"]
    assert by_view["MLO"].probabilities[:, 0] == pytest.approx(probabilities[mlo, 0])


def test_small_groups_have_counts_alone(scored):
    table, scores, _ = scored
    values = figures(scores, table)
    assert set(values["subgroups"]["implant"]["yes"]) == {"count", "positives"}
    assert "auc" in values["subgroups"]["implant"]["no"]
    line = next(line for line in as_text(values).splitlines() if line.startswith("  implant yes"))
    assert line.count("too few") == 3


def test_an_attribute_that_does_not_vary_and_a_missing_table_have_no_groups(scored):
    table, scores, _ = scored
    one = Table(table.rows[:4], table.targets, table.path)
    few = score_breasts(one, range(4), np.full((4, 1), 0.2))
    assert figures(few, one)["subgroups"] == {}  # one patient
    assert figures(scores)["subgroups"] == {}


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_breasts_of_one_class_have_no_undefined_figure(label):
    table, probabilities = screening(8, share_of_positives=label)
    scores = score_breasts(table, range(len(table.rows)), probabilities)
    values = figures(scores, table)
    json.dumps(values, allow_nan=False)
    assert values["temperature"] is None and "nan" not in as_text(values).lower()
    assert " - " in as_text(values) or "  -" in as_text(values)


def test_the_text_is_aligned_and_not_wider_than_100_columns(scored):
    table, scores, by_view = scored
    text = as_text(figures(scores, table, 0.2, None, by_view))
    assert max(map(len, text.splitlines())) <= 100
    *metrics, tenths, groups = (block.splitlines() for block in text.split("\n\n")[:-1])
    assert [block[0].split("  ")[0] for block in (metrics[0], metrics[1], *metrics[3:], tenths, groups)] == [
        "probabilities as they are",
        "calls from 0.2",
        "ranking",
        "calibration",
        "tenths by probability",
        "subgroups",
    ]
    # Cells end where their heading ends, in all sections of metrics at the same places.
    first, second = (metrics[0][0].index(heading) + len(heading) for heading in ("value", "95 % interval"))
    for line in (line for block in metrics for line in block):
        assert line[first - 1] != " " and line[first : first + 2] in ("", "  ")
        assert line[second - 2 : second].strip() or not line[first:second].strip()
        assert line[second : second + 2] in ("", "  ")
    for block, headings in (
        (tenths, ("breasts", "positives", "predicted", "observed")),
        (groups, ("AUC", "specificity")),
    ):
        for heading in headings:
            end = block[0].index(heading) + len(heading)
            assert all(line[end - 1] != " " and line[end : end + 2] in ("", "  ") for line in block)


def test_the_same_lines_are_in_markdown(scored):
    table, scores, by_view = scored
    values = figures(scores, table, 0.2, None, by_view)
    text = as_markdown(values)
    for part in sections(values):
        assert f"| {part.title} | " in text
        for line in part.lines:
            assert len(line.cells) == len(part.headings)
            assert f"| {line.name} | {' | '.join(line.cells)} |" in text


def test_metrics_without_subgroups_and_calibration_are_a_table_too(scored):
    text = as_text(scored[1].metrics(intervals=True))
    assert "AUC" in text and "subgroups" not in text and "temperature" not in text
    assert "95 % interval" in score_line(scored[1].metrics(intervals=True))


def test_numbers_are_written_as_people_write_them():
    assert [share(value) for value in (0.2134, 1.0, 0.0, None)] == [".213", "1.000", ".000", "-"]
    assert [percent(value) for value in (0.8312, 1.0, None)] == ["83.1 %", "100 %", "-"]
    assert decimals(0.01567) == "0.0157"
