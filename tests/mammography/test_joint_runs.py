"""`--views joint` and the other options of the screening recipe from train.py to evaluate.py."""

import csv
import json

import pytest
import torch
from commands import assert_one_line_error, ranks, run
from tiny_data import write_tiny_data
from tiny_runs import SMALL, assert_same_run, stopped_at

JOINT = (
    *("train.py", *SMALL, "--image-size", 32, "--batch-size", 2, "--epochs", 2, "--folds", 3, "--views", "joint"),
    *("--learning-rate", 1e-3, "--mixup", 0.4, "--workers", 0),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_data):
    folder = tmp_path_factory.mktemp("joint") / "run"
    keep = ("--checkpoint-every", 1, "--keep-checkpoints", 100)
    process = run(*JOINT, "--data", tiny_data, *keep, "--output", folder)
    assert process.returncode == 0, process.stderr
    return folder


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_evaluation_repeats_what_training_measured(finished, tmp_path):
    process = run("evaluate.py", "--checkpoint", finished, "--output", tmp_path, "--flip")
    assert process.returncode == 0, process.stderr
    assert not (tmp_path / "images.csv").exists()
    process = run("evaluate.py", "--checkpoint", finished, "--output", tmp_path)
    found = json.loads((tmp_path / "metrics.json").read_text())
    content = torch.load(finished / "best.pt", weights_only=True)
    for name in ("pf1", "auc", "pf1_best"):
        assert found[name] == pytest.approx(content["metrics"][name], abs=1e-5)
    expected = {row["prediction_id"]: float(row["cancer_probability"]) for row in rows(finished / "predictions.csv")}
    written = {row["prediction_id"]: float(row["cancer_probability"]) for row in rows(tmp_path / "predictions.csv")}
    assert len(expected) == 8 and written == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("number", [pytest.param(3, marks=pytest.mark.nightly), 11])
def test_it_resumes_to_the_bit(finished, tmp_path, number):
    folder = stopped_at(finished, number, tmp_path / "r")
    process = run("train.py", "--resume", folder, "--workers", 1)
    assert process.returncode == 0, process.stderr
    assert_same_run(finished, folder)


def test_two_ranks_train_breasts(tiny_data, tmp_path):
    process = ranks(2, *JOINT, "--data", tiny_data, "--output", tmp_path / "r")
    assert process.returncode == 0, process.stderr
    assert len(rows(tmp_path / "r" / "predictions.csv")) == 8


def test_what_scores_breasts_and_what_scores_images_are_no_ensemble(finished, tiny_data, tmp_path):
    flags = (*SMALL, "--image-size", 32, "--batch-size", 4, "--epochs", 1, "--folds", 3, "--data", tiny_data)
    assert run("train.py", *flags, "--output", tmp_path / "r").returncode == 0
    process = run("evaluate.py", "--checkpoint", finished, tmp_path / "r")
    assert_one_line_error(process, 1, "views")


def test_extra_data_are_trained_on_and_never_held_out(tiny_data, tmp_path):
    extra = write_tiny_data(tmp_path / "other", 4)
    clash = ("train.py", *SMALL, "--image-size", 32, "--data", tiny_data, "--extra-data", extra, "--dry-run")
    assert_one_line_error(run(*clash), 1, "--extra-data", "held-out")
    (extra / "train.csv").write_text((extra / "train.csv").read_text().replace("\n10", "\n90"))
    for folder in list((extra / "train_images").iterdir()):
        folder.rename(folder.with_name("90" + folder.name[2:]))
    flags = (*SMALL, "--image-size", 32, "--batch-size", 4, "--epochs", 1, "--data", tiny_data, "--extra-data", extra)
    losses = ("--loss", "focal", "--positive-weight", 2, "--positive-target", 0.9)
    for count in (0, 2):
        arguments = ("train.py", *flags, *losses, "--output", tmp_path / f"r{count}")
        process = ranks(count, *arguments) if count else run(*arguments)
        assert process.returncode == 0, process.stderr
        assert "4 patients, 8 breasts, 16 images" in process.stdout
        content = torch.load(tmp_path / f"r{count}" / "best.pt", weights_only=True)
        assert sum(patient.startswith("other:") for patient in content["training_patients"]) == 4
        assert content["prior"] == pytest.approx(6 / 36)  # of the main table: 3 of 9 patients, 2 images each
        assert not any(
            row["patient_id"].startswith("other:") for row in rows(tmp_path / f"r{count}" / "predictions.csv")
        )
        assert "further training" in (tmp_path / f"r{count}" / "MODEL_CARD.md").read_text()
    missing = run("train.py", *flags[:-1], tmp_path / "nowhere", "--output", tmp_path / "x")
    assert_one_line_error(missing, 1, "nowhere")


@pytest.mark.parametrize(
    ("loss", "pooling"), [("soft-f1", "max"), pytest.param("asymmetric", "gem", marks=pytest.mark.nightly)]
)
def test_every_loss_and_pooling_trains_and_evaluates(tiny_data, tmp_path, loss, pooling):
    flags = (*SMALL, "--image-size", 32, "--batch-size", 4, "--epochs", 1, "--data", tiny_data, "--cutmix", 1)
    process = run("train.py", *flags, "--loss", loss, "--pooling", pooling, "--output", tmp_path / "r")
    assert process.returncode == 0, process.stderr
    process = run("evaluate.py", "--checkpoint", tmp_path / "r", "--json", tmp_path / "m.json")
    assert process.returncode == 0, process.stderr
    content = torch.load(tmp_path / "r" / "best.pt", weights_only=True)
    assert content["architecture"]["pooling"] == pooling
    assert json.loads((tmp_path / "m.json").read_text())["auc"] == pytest.approx(content["metrics"]["auc"], abs=1e-5)
