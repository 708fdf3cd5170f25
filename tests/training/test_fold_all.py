"""`--fold all`: one folder, resumed like one run, and an out-of-fold result."""

import csv
import json
import os
import shutil
import signal

import numpy as np
import pytest
import torch
from commands import assert_one_line_error, ranks, run, running
from tiny_runs import SMALL, assert_same_run

from efficientnet.metrics import best_threshold, probabilistic_f1

FOLDS = (
    *("train.py", *SMALL, "--image-size", 32, "--batch-size", 4, "--epochs", 2, "--folds", 3, "--fold", "all"),
    *("--workers", 0, "--learning-rate", 1e-3, "--targets", "cancer,biopsy"),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_data):
    folder = tmp_path_factory.mktemp("folds") / "all"
    process = run(*FOLDS, "--data", tiny_data, "--output", folder)
    assert process.returncode == 0, process.stderr
    return folder, process


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_each_patient_is_scored_once_by_the_run_that_held_her_out(finished):
    folder, _ = finished
    found = rows(folder / "predictions.csv")
    assert len(found) == 24 and len({row["prediction_id"] for row in found}) == 24
    for row in found:
        checkpoint = torch.load(folder / f"fold{row['fold']}" / "best.pt", weights_only=True)
        assert row["patient_id"] not in checkpoint["training_patients"]


def test_the_threshold_is_that_of_all_out_of_fold_predictions(finished):
    folder, process = finished
    summary = json.loads((folder / "summary.json").read_text())
    found = rows(folder / "predictions.csv")
    labels = np.array([float(row["cancer"]) for row in found])
    probabilities = np.array([float(row["cancer_probability"]) for row in found])
    threshold, f1 = best_threshold(labels, probabilities)
    assert summary["threshold"] == pytest.approx(threshold) and summary["pf1_best"] == pytest.approx(f1)
    assert summary["pf1"] == pytest.approx(probabilistic_f1(labels, probabilities))
    assert summary["pf1_interval"][0] <= summary["pf1"] <= summary["pf1_interval"][1]
    folds = np.array([int(row["fold"]) for row in found])
    calls = np.zeros(len(found))
    for fold in range(3):
        calls[folds == fold] = (
            probabilities[folds == fold] >= best_threshold(labels[folds != fold], probabilities[folds != fold])[0]
        )
    assert summary["f1_of_other_folds"] == pytest.approx(probabilistic_f1(labels, calls))
    assert summary["f1_of_other_folds"] <= summary["pf1_best"]
    assert "24 breasts, each out of fold" in process.stdout and f"--checkpoint {folder}" in process.stdout


def test_stopped_in_the_second_fold_it_resumes_to_the_same_end(finished, tiny_data, tmp_path):
    folder = tmp_path / "all"
    with running(*FOLDS, "--data", tiny_data, "--output", folder, "--checkpoint-every", 1) as process:
        process.wait_for("fold 1 of 3")
        process.wait_for("output ")
        os.kill(process.processes[0].pid, signal.SIGTERM)
        stopped = process.wait(timeout=60)
    assert_one_line_error(stopped, 75, f"--resume {folder}")
    assert not (folder / "summary.json").exists()
    process = run("train.py", "--resume", folder)
    assert process.returncode == 0, process.stderr
    for fold in range(3):
        assert_same_run(finished[0] / f"fold{fold}", folder / f"fold{fold}")
    assert (folder / "summary.json").read_bytes() == (finished[0] / "summary.json").read_bytes()


def test_what_is_finished_is_not_trained_again_and_settings_are_kept(finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "all")
    (folder / "summary.json").unlink()
    shutil.rmtree(folder / "fold2")
    before = (folder / "fold0" / "last.pt").stat().st_mtime_ns
    process = run("train.py", "--resume", "auto", "--output", folder)
    assert process.returncode == 0, process.stderr
    assert "fold 2 of 3" in process.stdout and "fold 0 of 3" not in process.stdout
    assert (folder / "fold0" / "last.pt").stat().st_mtime_ns == before
    assert (folder / "summary.json").read_bytes() == (finished[0] / "summary.json").read_bytes()
    changed = run("train.py", "--resume", folder, "--clip", 1)
    assert_one_line_error(changed, 1, "--clip", "must keep its settings")
    for flag in ("--fold", "--folds"):
        assert_one_line_error(
            run("train.py", "--resume", folder, flag, 2), 2, f"{flag}: {folder} holds the runs of all"
        )
    assert run("train.py", "--resume", folder).returncode == 0  # what was refused is not recorded
    again = run(*FOLDS, "--output", folder)
    assert_one_line_error(again, 2, "already contains a run", "--resume auto")


def test_two_ranks_train_all_folds(tiny_data, tmp_path):
    process = ranks(2, *FOLDS, "--data", tiny_data, "--output", tmp_path / "all", "--batch-size", 2)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("fold 2 of 3") == 1
    assert len(rows(tmp_path / "all" / "predictions.csv")) == 24


def test_a_dry_run_writes_nothing(tiny_data, tmp_path):
    process = run(*FOLDS, "--data", tiny_data, "--output", tmp_path / "all", "--dry-run")
    assert process.returncode == 0 and "--fold 0" in process.stdout
    assert not (tmp_path / "all").exists()
