"""`evaluate.py`: scores, metrics, ensembles and submissions from checkpoints alone."""

import csv
import errno
import json
import multiprocessing
import os
import shutil

import numpy as np
import pytest
import torch
from commands import assert_one_line_error, run
from tiny_data import write_tiny_data
from tiny_runs import SMALL

from efficientnet.common.files import write_bytes
from efficientnet.metrics import probabilistic_f1


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Data with a test part, and two folds trained on it."""
    root = tmp_path_factory.mktemp("evaluate")
    data = write_tiny_data(root / "data")
    write_tiny_data(data, 5, folder="test", labels=False)
    for fold in (0, 1):
        process = run(
            *("train.py", *SMALL, "--image-size", 32, "--batch-size", 4, "--epochs", 1, "--data", data),
            *("--output", root / f"fold{fold}", "--folds", 2, "--fold", fold, "--positive-share", 0.4),
        )
        assert process.returncode == 0, process.stderr
    return root, data, [root / "fold0" / "best.pt", root / "fold1" / "best.pt"]


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def evaluate(*arguments):
    process = run("evaluate.py", *arguments)
    assert process.returncode == 0, process.stderr
    return process


def test_it_repeats_what_training_measured(trained, tmp_path):
    root, _data, checkpoints = trained
    evaluate("--checkpoint", checkpoints[0], "--output", tmp_path, "--json", tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written == json.loads((tmp_path / "metrics.json").read_text())
    logged = json.loads((root / "fold0" / "metrics.jsonl").read_text().splitlines()[0])
    for name in ("pf1", "pf1_best", "threshold", "auc", "average_precision"):
        assert written[name] == pytest.approx(logged[name], abs=1e-5)
    assert (written["split"], written["count"], written["positives"]) == ("validation", 12, 2)
    assert "given_threshold" not in written  # the checkpoint's threshold was tuned on these very breasts
    trained_scores = {row["prediction_id"]: row for row in rows(root / "fold0" / "predictions.csv")}
    for row in rows(tmp_path / "predictions.csv"):
        expected = float(trained_scores[row["prediction_id"]]["cancer_probability"])
        assert float(row["cancer_probability"]) == pytest.approx(expected, abs=1e-5)


def test_a_breast_is_the_mean_or_the_maximum_of_its_images(trained, tmp_path):
    for method, combine in (("mean", lambda a, b: (a + b) / 2), ("max", max)):
        evaluate("--checkpoint", trained[2][0], "--output", tmp_path / method, "--aggregate", method)
        images = {}
        for row in rows(tmp_path / method / "images.csv"):
            key = f"{row['patient_id']}_{row['laterality']}"
            images.setdefault(key, []).append(float(row["cancer_probability"]))
        for row in rows(tmp_path / method / "predictions.csv"):
            expected = combine(*images[row["prediction_id"]])
            assert float(row["cancer_probability"]) == pytest.approx(expected, rel=1e-5)


def test_folds_together_score_every_patient_by_the_one_that_held_her_out(trained, tmp_path):
    root, _data, checkpoints = trained
    evaluate("--checkpoint", *checkpoints, "--output", tmp_path)
    expected = {}
    for fold in (0, 1):
        for row in rows(root / f"fold{fold}" / "predictions.csv"):
            expected[row["prediction_id"]] = float(row["cancer_probability"])
    found = {row["prediction_id"]: float(row["cancer_probability"]) for row in rows(tmp_path / "predictions.csv")}
    assert found == pytest.approx(expected, abs=1e-5)
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    labels = [int(row["cancer"]) for row in rows(tmp_path / "predictions.csv")]
    assert metrics["pf1"] == pytest.approx(probabilistic_f1(labels, list(found.values())), abs=1e-5)
    assert (metrics["patients"], metrics["count"]) == (12, 24)


def test_all_patients_are_scored_on_request_and_the_warning_is_aloud(trained):
    process = evaluate("--checkpoint", trained[2][0], "--split", "all")
    assert "6 of these patients (by identifier) were trained on" in process.stdout


def test_submission_has_kaggles_format_and_order(trained, tmp_path):
    _root, data, checkpoints = trained
    path = tmp_path / "submission.csv"
    evaluate("--checkpoint", *checkpoints, "--split", "test", "--submission", path, "--flip")
    assert path.read_text().splitlines()[0] == "prediction_id,cancer"
    expected = list(dict.fromkeys(row["prediction_id"] for row in rows(data / "test.csv")))
    assert [row["prediction_id"] for row in rows(path)] == expected
    assert all(0 <= float(row["cancer"]) <= 1 for row in rows(path))


def test_a_test_table_need_not_have_the_labels_that_the_checkpoint_names(trained, tmp_path):
    content = torch.load(trained[2][0], weights_only=True)
    content["plan"]["settings"]["columns"] = {"cancer": "malignant", "BIRADS": "birads"}
    torch.save(content, tmp_path / "named.pt")
    process = evaluate("--checkpoint", tmp_path / "named.pt", "--data", trained[1], "--split", "test")
    assert "no labels" in process.stdout
    process = run("evaluate.py", "--checkpoint", tmp_path / "named.pt", "--data", trained[1])
    assert_one_line_error(process, 1, "no column 'malignant' (--columns cancer=malignant)", "cancer, biopsy")


def test_a_breast_whose_images_all_fail_still_has_its_row(trained, tmp_path):
    _root, data, checkpoints = trained
    copy = shutil.copytree(data, tmp_path / "data")
    patient = rows(copy / "test.csv")[0]["patient_id"]
    shutil.rmtree(copy / "test_images" / patient)
    (copy / "train.csv").unlink()
    path = tmp_path / "submission.csv"
    process = evaluate("--checkpoint", checkpoints[0], "--data", copy, "--submission", path)
    assert "4 images could not be read" in process.stdout and "2 of them without a readable image" in process.stdout
    table = rows(path)
    assert len(table) == 10
    prior = torch.load(checkpoints[0], weights_only=True)["prior"]
    assert [float(row["cancer"]) for row in table[:2]] == pytest.approx([prior, prior], rel=1e-5)


def test_a_submission_says_which_split_it_is_of_and_is_about_cancer_only(trained, tmp_path):
    path = tmp_path / "submission.csv"
    assert (
        "held-out patients only (for the competition: --split test)"
        in evaluate("--checkpoint", trained[2][0], "--submission", path).stdout
    )
    content = torch.load(trained[2][0], weights_only=True)
    content["targets"] = ["biopsy", "cancer"]
    torch.save(content, tmp_path / "biopsy.pt")
    path.unlink()
    process = run("evaluate.py", "--checkpoint", tmp_path / "biopsy.pt", "--data", trained[1], "--submission", path)
    assert_one_line_error(process, 1, "--submission", "cancer", "trained for biopsy")
    assert not path.exists()


def test_outputs_that_cannot_be_written_are_found_before_the_images_are_scored(trained, tmp_path, monkeypatch):
    file, folder = tmp_path / "file", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    monkeypatch.setattr("evaluate.predict_mean", lambda *_, **__: pytest.fail("scored first"))
    for flag, path, words in (
        ("--submission", folder, "is a folder"),
        ("--json", folder, "is a folder"),
        ("--output", file, "is a file"),
        ("--submission", file / "s.csv", "is not a folder"),
        ("--output", file / "deep" / "er", "is not a folder"),
    ):
        process = run("evaluate.py", "--checkpoint", trained[2][0], "--split", "all", flag, path)
        assert_one_line_error(process, 2, flag, str(path), words)
    assert file.read_text() == "mine" and not list(folder.iterdir())


def test_scores_are_there_though_one_of_the_outputs_fails(trained, tmp_path, monkeypatch):
    def full_disk(path, data, write=write_bytes):
        if path.name == "images.csv":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, data)

    monkeypatch.setattr("evaluate.write_bytes", full_disk)
    process = run("evaluate.py", "--checkpoint", trained[2][0], "--output", tmp_path, "--json", tmp_path / "m.json")
    assert_one_line_error(process, 1, "images.csv (No space left on device)", "the other files were written")
    assert "Probabilistic F1" in process.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"predictions.csv", "metrics.json", "m.json"}


def test_patients_with_the_identifiers_of_others_are_counted_and_scored_on_request(trained, tmp_path):
    elsewhere = write_tiny_data(tmp_path / "elsewhere", 15)
    process = evaluate("--checkpoint", trained[2][0], "--data", elsewhere)
    assert "9 of 15 patients (the others were trained on)" in process.stdout
    assert f"6 of these patients have the same identifiers as training patients in {trained[1]}" in process.stdout
    assert "3 of these patients are not in the original training table" in process.stdout
    assert ": 15 patients," in evaluate("--checkpoint", trained[2][0], "--data", elsewhere, "--split", "all").stdout
    own = evaluate("--checkpoint", *trained[2]).stdout
    assert "12 patients, " in own and "warning" not in own


def test_test_patients_that_were_trained_on_are_counted_and_nothing_is_called_unbiased(trained, tmp_path):
    data = write_tiny_data(tmp_path / "data", 6)
    (data / "train.csv").rename(data / "test.csv")
    (data / "train_images").rename(data / "test_images")
    process = evaluate("--checkpoint", *trained[2], "--data", data / "test.csv", "--json", tmp_path / "m.json")
    assert "warning: 6 of these patients (by identifier) were" in process.stdout and "held-out" not in process.stdout
    assert "given_threshold" not in json.loads((tmp_path / "m.json").read_text())


def test_a_patient_who_was_renamed_is_not_held_out(trained, tmp_path):
    content = torch.load(trained[2][0], weights_only=True)
    data = shutil.copytree(trained[1], tmp_path / "data")
    patient = content["training_patients"][0]
    table = (data / "train.csv").read_text()
    (data / "train.csv").write_text(table.replace(f"\n{patient},", "\nrenamed,"))
    (data / "train_images" / patient).rename(data / "train_images" / "renamed")
    content["plan"]["data"] = str(data)
    torch.save(content, tmp_path / "best.pt")
    process = evaluate("--checkpoint", tmp_path / "best.pt")
    assert "6 of 12 patients (the others were trained on)" in process.stdout
    assert "1 of these patients have images that were trained on under other patient_ids" in process.stdout


def test_two_outputs_of_one_name_are_told(trained, tmp_path):
    path, folder = tmp_path / "x", tmp_path / "o"
    arguments = ("--checkpoint", trained[2][0])
    assert_one_line_error(run("evaluate.py", *arguments, "--json", path, "--submission", path), 2, "the same file")
    process = run("evaluate.py", *arguments, "--output", folder, "--submission", folder / "predictions.csv")
    assert_one_line_error(process, 1, "predictions.csv (another output has this name)")
    assert {each.name for each in folder.iterdir()} == {"predictions.csv", "images.csv", "metrics.json"}


def test_flipping_for_a_model_that_saw_no_mirror_images_is_said(trained, tmp_path):
    content = torch.load(trained[2][0], weights_only=True)
    content["plan"]["recipe"]["augmentation"] = 0.0
    torch.save(content, tmp_path / "plain.pt")
    assert "mirror images" in evaluate("--checkpoint", tmp_path / "plain.pt", "--flip").stdout
    assert "mirror images" not in evaluate("--checkpoint", trained[2][0], "--flip").stdout


def test_a_submission_of_nothing_but_the_prior_is_written_and_fails(trained, tmp_path):
    data = write_tiny_data(tmp_path / "data", 3, folder="test", labels=False)
    shutil.rmtree(data / "test_images")
    path = tmp_path / "submission.csv"
    process = run("evaluate.py", "--checkpoint", trained[2][0], "--data", data, "--submission", path)
    assert_one_line_error(process, 1, str(data / "test_images"), "no image could be scored")
    assert len(rows(path)) == 6


def test_folds_of_different_tables_are_said_and_nobody_is_scored_by_who_trained_on_her(trained, tmp_path):
    content = torch.load(trained[2][1], weights_only=True)
    held_out = sorted(set(content["split"]["fold_of"]) - set(content["training_patients"]))
    trained_on = content["training_patients"]
    swapped = {held_out[0]: trained_on[0], trained_on[0]: held_out[0]}
    fold_of = content["split"]["fold_of"]
    content["split"]["fold_of"] = {p: fold_of[swapped.get(p, p)] for p in fold_of}
    content["training_patients"] = [swapped.get(patient, patient) for patient in trained_on]
    torch.save(content, tmp_path / "other.pt")
    process = evaluate("--checkpoint", trained[2][0], tmp_path / "other.pt", "--output", tmp_path)
    assert "put 2 of 12 patients in different folds" in process.stdout
    # One is now trained on by both, and scored by none.
    assert len({row["patient_id"] for row in rows(tmp_path / "predictions.csv")}) == 11


def test_json_to_the_terminal_is_nothing_but_json(trained):
    process = evaluate("--checkpoint", trained[2][0], "--json", "-")
    assert json.loads(process.stdout)["split"] == "validation"


def test_mirrored_images_do_not_change_a_flipped_score(trained, tmp_path):
    """With the chest wall left where it is, TTA by flipping is blind to the mirror image."""
    evaluate("--checkpoint", trained[2][0], "--flip", "--output", tmp_path / "flip")
    evaluate("--checkpoint", trained[2][0], "--output", tmp_path / "plain")
    assert rows(tmp_path / "flip" / "images.csv") != rows(tmp_path / "plain" / "images.csv")


def test_a_checkpoint_of_other_data_is_not_taken_for_a_fold(trained, tmp_path):
    """It has trained on none of these patients, and would score those whom the other has trained on."""
    content = torch.load(trained[2][0], weights_only=True)
    content["training_patients"] = ["somebody"]
    torch.save(content, tmp_path / "foreign.pt")
    pair = ["--checkpoint", trained[2][1], tmp_path / "foreign.pt", "--data", trained[1]]
    assert_one_line_error(run("evaluate.py", *pair), 1, "foreign.pt", "leave it out")
    content["plan"]["data"] = None
    torch.save(content, tmp_path / "foreign.pt")
    assert_one_line_error(run("evaluate.py", *pair), 1, "phantoms")


def test_the_threshold_of_the_checkpoint_is_tried_on_patients_it_has_not_seen(trained, tmp_path):
    data = write_tiny_data(tmp_path / "other", 6)
    table = (data / "train.csv").read_text().replace("\n10", "\n90")
    (data / "train.csv").write_text(table)
    for folder in list((data / "train_images").iterdir()):
        folder.rename(folder.with_name("90" + folder.name[2:]))
    process = evaluate("--checkpoint", trained[2][0], "--data", data, "--json", tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    threshold = torch.load(trained[2][0], weights_only=True)["metrics"]["threshold"]
    assert written["given_threshold"] == pytest.approx(threshold) and "pf1_at_given_threshold" in process.stdout
    assert (written["patients"], written["count"]) == (6, 12)
    maxima = ("--aggregate", "max", "--json", tmp_path / "max.json")
    evaluate("--checkpoint", trained[2][0], "--data", data, *maxima)
    assert "given_threshold" not in json.loads((tmp_path / "max.json").read_text())  # it was tuned on means


def test_outputs_that_are_not_finite_are_said(trained, tmp_path):
    content = torch.load(trained[2][0], weights_only=True)
    content["weights"]["classifier.bias"].fill_(float("nan"))
    torch.save(content, tmp_path / "nan.pt")
    assert_one_line_error(run("evaluate.py", "--checkpoint", tmp_path / "nan.pt"), 1, "nan.pt", "non-finite")


def test_a_killed_loader_process_is_said_in_a_line(trained, monkeypatch):
    def kill_the_loaders(*_, **__):
        for process in multiprocessing.active_children():
            process.kill()
            process.join()
        return np.zeros((1, 2), np.float32)

    monkeypatch.setattr("efficientnet.training.ensemble.predict", kill_the_loaders)
    process = run("evaluate.py", "--checkpoint", trained[2][0], "--batch-size", 1, "--workers", 1)
    assert_one_line_error(process, 1, "a loader process was killed", "lower --workers")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--checkpoint", "absent.pt"], 1, ["absent.pt"]),
        (["--checkpoint", "README.md"], 1, ["README.md"]),
        ([], 2, ["--checkpoint"]),
        (["--checkpoint", "CHECKPOINT", "--data", "absent"], 1, ["absent", "no such folder"]),
        (["--checkpoint", "CHECKPOINT", "--split", "test", "--data", "EMPTY"], 1, ["test.csv"]),
        (["--checkpoint", "CHECKPOINT", "--batch-size", "0"], 2, ["--batch-size"]),
    ],
)
def test_bad_input_is_a_line_or_two(trained, tmp_path, arguments, code, words):
    named = {"CHECKPOINT": trained[2][0], "EMPTY": tmp_path}
    assert_one_line_error(run("evaluate.py", *(named.get(a, a) for a in arguments)), code, *words)
