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
from efficientnet.inference.exported import exported
from efficientnet.mammography.calibration import Calibration, cross_fitted
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


def test_an_engine_scores_alike_and_keeps_its_file_beside_the_checkpoint(trained, tmp_path, monkeypatch):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    run_folder = shutil.copytree(trained[2][0].parent, tmp_path / "run")
    for name in ("torch", "onnxruntime", "onnxruntime"):
        process = evaluate(
            *("--checkpoint", run_folder, "--data", trained[1], "--engine", name, "--output", tmp_path / name)
        )
        assert f"fast path by {name}" in process.stdout
        monkeypatch.setattr("efficientnet.inference.engines.exported", exported if name == "torch" else None)
    (kept,) = run_folder.glob("best.*.onnx")
    assert f"to be kept as {kept}" not in process.stderr
    found, expected = (rows(tmp_path / name / "predictions.csv") for name in ("onnxruntime", "torch"))
    assert [row["prediction_id"] for row in found] == [row["prediction_id"] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert float(one["cancer_probability"]) == pytest.approx(float(other["cancer_probability"]), abs=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--engine", "onnxruntime", "--precision", "bf16"), "onnxruntime has no bf16: choose fp32"),
        (("--engine", "openvino", "--no-optimize"), "--no-optimize cannot be combined with --engine"),
        (("--engine", "tflite"), "invalid choice: 'tflite'"),
    ],
)
def test_an_engine_that_cannot_be_used(trained, arguments, message):
    assert_one_line_error(run("evaluate.py", "--checkpoint", trained[2][0], *arguments), 2, message)


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


def test_a_submission_is_calls_or_probabilities_and_says_which(trained, tmp_path):
    """By default calls from the out-of-fold threshold: the mean of those that the members have found."""
    _root, _data, checkpoints = trained
    path, folder = tmp_path / "submission.csv", tmp_path / "out"
    arguments = ("--checkpoint", *checkpoints, "--split", "test", "--submission", path)
    contents = [torch.load(checkpoint, weights_only=True) for checkpoint in checkpoints]
    threshold = np.mean([content["metrics"]["threshold"] for content in contents])

    def submitted(*more):
        process = evaluate(*arguments, *more)
        return process.stdout, [float(row["cancer"]) for row in rows(path)]

    said, probabilities = submitted("--threshold", "none", "--output", folder)
    assert ", probabilities (--threshold P writes" in said
    expected = [float(row["cancer_probability"]) for row in rows(folder / "predictions.csv")]
    assert probabilities == pytest.approx(expected, rel=1e-6)
    calls = [float(probability >= threshold) for probability in probabilities]
    for more in ((), ("--threshold", "oof")):
        said, found = submitted(*more)
        assert found == calls and f"1 from the out-of-fold threshold {threshold:.4g} and 0 below it" in said
        assert "--threshold none writes probabilities" in said and f"written: {path}" in said
    *_, below, highest = sorted(set(probabilities))
    said, found = submitted("--threshold", (below + highest) / 2)
    assert found == [float(probability == highest) for probability in probabilities]
    assert "1 from the threshold" in said


def test_without_a_known_threshold_a_submission_is_probabilities(trained, tmp_path):
    content = torch.load(trained[2][0], weights_only=True)
    content["metrics"]["threshold"] = None
    torch.save(content, tmp_path / "best.pt")
    path = tmp_path / "submission.csv"
    arguments = ("--checkpoint", tmp_path / "best.pt", "--split", "test", "--submission", path)
    assert "probabilities, since no out-of-fold threshold is known" in evaluate(*arguments).stdout
    assert any(0 < float(row["cancer"]) < 1 for row in rows(path))
    assert_one_line_error(
        run("evaluate.py", *arguments, "--threshold", "oof"), 1, "--threshold oof", "none is recorded"
    )
    maximum = ("--checkpoint", trained[2][0], "--split", "test", "--submission", path, "--aggregate", "max")
    assert "since no out-of-fold threshold is known" in evaluate(*maximum).stdout
    process = run("evaluate.py", *maximum, "--threshold", "oof")
    assert_one_line_error(process, 1, "--threshold oof", "not to the maximum")
    assert_one_line_error(run("evaluate.py", *arguments, "--threshold", "high"), 2, "--threshold", "high")


def test_a_threshold_that_is_given_is_reported(trained, tmp_path):
    arguments = ("--checkpoint", trained[2][0], "--threshold", 0.2, "--json", tmp_path / "m.json")
    assert "calls from 0.2 " in evaluate(*arguments).stdout
    assert json.loads((tmp_path / "m.json").read_text())["given_threshold"] == 0.2


@pytest.fixture(scope="module")
def all_folds(trained, tmp_path_factory):
    """The two folds as a folder of --fold all."""
    folder = tmp_path_factory.mktemp("all") / "run"
    folder.mkdir()
    for fold in (0, 1):
        shutil.copytree(trained[0] / f"fold{fold}", folder / f"fold{fold}")
    config = json.loads((folder / "fold0" / "config.json").read_text())
    config["settings"]["fold"] = "all"
    (folder / "config.json").write_text(json.dumps(config | {"arguments": []}))
    summary = {"threshold": 0.25, "calibration": {"slope": 2.0, "bias": -1.0}, "folds": 2}
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_a_run_folder_is_its_best_checkpoint_and_one_of_all_folds_all_of_them(trained, all_folds, tmp_path):
    """The fold folder's own threshold takes the place of the members'."""
    for given, meant in (([trained[0] / "fold0"], trained[2][:1]), ([all_folds], trained[2])):
        evaluate("--checkpoint", *given, "--output", tmp_path / "folder")
        evaluate("--checkpoint", *meant, "--output", tmp_path / "files")
        for name in ("predictions.csv", "images.csv"):
            assert (tmp_path / "folder" / name).read_bytes() == (tmp_path / "files" / name).read_bytes()
    path = tmp_path / "submission.csv"
    arguments = ("--checkpoint", all_folds, "--split", "test", "--submission", path)
    assert "1 from the out-of-fold threshold 0.25 and 0 below it" in evaluate(*arguments).stdout
    (copy := tmp_path / "run").mkdir()
    shutil.copytree(all_folds, copy, dirs_exist_ok=True)
    (copy / "fold1" / "best.pt").unlink()
    process = run("evaluate.py", "--checkpoint", copy)
    assert_one_line_error(process, 1, str(copy), "has no fold1/best.pt")
    (copy / "fold1" / "best.pt").write_bytes((all_folds / "fold1" / "best.pt").read_bytes())
    (copy / "summary.json").write_text("[")
    assert_one_line_error(run("evaluate.py", "--checkpoint", copy), 1, "summary.json")
    assert_one_line_error(run("evaluate.py", "--checkpoint", tmp_path), 1, str(tmp_path), "without best.pt")


def test_new_patients_are_calibrated_as_the_checkpoint_says_and_others_by_each_other(trained, all_folds, tmp_path):
    data = write_tiny_data(tmp_path / "other", 6)
    (data / "train.csv").write_text((data / "train.csv").read_text().replace("\n10", "\n90"))
    for folder in list((data / "train_images").iterdir()):
        folder.rename(folder.with_name("90" + folder.name[2:]))
    for where, calibrate in (
        (("--data", data), lambda labels, values, patients: Calibration(2.0, -1.0)(values)),
        ((), lambda labels, values, patients: cross_fitted(labels, values, patients)),
    ):
        evaluate("--checkpoint", all_folds, *where, "--output", tmp_path / "o")
        table = rows(tmp_path / "o" / "predictions.csv")
        labels, values = ([float(row[name]) for row in table] for name in ("cancer", "cancer_probability"))
        expected = probabilistic_f1(labels, calibrate(labels, values, [row["patient_id"] for row in table]))
        found = json.loads((tmp_path / "o" / "metrics.json").read_text())
        assert found["pf1_calibrated"] == pytest.approx(expected, abs=1e-5)
        assert found["pf1_calibrated_interval"][0] <= expected <= found["pf1_calibrated_interval"][1]


def test_a_soup_is_the_mean_of_the_weights_and_scores_whom_nobody_trained_on(trained, tmp_path):
    contents = [torch.load(path, weights_only=True) for path in trained[2]]
    mean = dict(contents[0])
    mean["weights"] = {
        name: (tensor + contents[1]["weights"][name]) / 2 if tensor.is_floating_point() else tensor
        for name, tensor in contents[0]["weights"].items()
    }
    mean["logit_shift"] = np.mean([content["logit_shift"] for content in contents]).item()
    torch.save(mean, tmp_path / "mean.pt")
    evaluate("--checkpoint", tmp_path / "mean.pt", "--split", "all", "--output", tmp_path / "mean")
    process = evaluate("--checkpoint", *trained[2], "--soup", "--split", "all", "--output", tmp_path / "soup")
    assert "2 checkpoints averaged into one" in process.stdout
    means, soups = (
        [float(row["cancer_probability"]) for row in rows(tmp_path / name / "predictions.csv")]
        for name in ("mean", "soup")
    )
    assert soups == pytest.approx(means, abs=1e-5)
    process = run("evaluate.py", "--checkpoint", *trained[2], "--soup")
    assert_one_line_error(process, 1, "every patient in it was trained on")
    one = evaluate("--checkpoint", *[trained[2][0]] * 2, "--soup", "--output", tmp_path / "one")
    assert "6 of 12 patients" in one.stdout
    for name in ("one", "alone"):
        evaluate("--checkpoint", trained[2][0], *["--soup"] * (name == "one"), "--output", tmp_path / name)
    assert rows(tmp_path / "one" / "predictions.csv") == rows(tmp_path / "alone" / "predictions.csv")


def test_a_runs_own_checkpoints_make_a_soup(trained, tmp_path):
    run_folder = trained[0] / "fold0"
    numbered = sorted((run_folder / "checkpoints").glob("update-*.pt"))
    process = evaluate("--checkpoint", *numbered, run_folder, "--soup", "--json", tmp_path / "m.json")
    assert "6 of 12 patients" in process.stdout
    assert json.loads((tmp_path / "m.json").read_text())["checkpoints"] == [
        *map(str, numbered),
        str(run_folder / "best.pt"),
    ]


def test_a_soup_needs_one_architecture_and_the_same_pixels(trained, tmp_path):
    content = torch.load(trained[2][0], weights_only=True)
    other = {**content, "architecture": {**content["architecture"], "batch_norm_eps": 0.5}}
    torch.save(other, tmp_path / "other.pt")
    pair = ("--checkpoint", trained[2][0], tmp_path / "other.pt", "--soup")
    assert_one_line_error(run("evaluate.py", *pair), 1, "other.pt", "another architecture")
    other = {**content, "preprocessing": {**content["preprocessing"], "mean": 0.1}}
    torch.save(other, tmp_path / "other.pt")
    assert_one_line_error(run("evaluate.py", *pair), 1, "other.pt", "same preprocessing")


def test_two_models_are_compared_on_whom_both_held_out(trained, tmp_path):
    first, second = trained[0] / "fold0", tmp_path / "second.pt"
    content = torch.load(trained[2][0], weights_only=True)
    content["weights"]["classifier.weight"].mul_(-1)
    torch.save(content, second)
    process = evaluate("--compare", first, second, "--json", tmp_path / "c.json")
    assert f"A  {first}" in process.stdout and "B is better in" in process.stdout
    found = json.loads((tmp_path / "c.json").read_text())
    assert (found["compared"], found["count"]) == ([str(first), str(second)], 12)
    for name, path in (("first", first), ("second", second)):
        evaluate("--checkpoint", path, "--json", tmp_path / "m.json")
        alone = json.loads((tmp_path / "m.json").read_text())
        for metric in ("pf1", "brier"):
            assert found["metrics"][metric][name] == pytest.approx(alone[metric], abs=1e-6)
    evaluate("--compare", first / "predictions.csv", second, "--json", tmp_path / "d.json")
    again = json.loads((tmp_path / "d.json").read_text())
    assert again["metrics"]["brier"]["difference"] == pytest.approx(found["metrics"]["brier"]["difference"], abs=1e-5)
    process = run("evaluate.py", "--compare", first, trained[0] / "fold1")
    assert_one_line_error(process, 1, "no labelled breast was held out by both")
    assert_one_line_error(run("evaluate.py", "--compare", first, "absent.csv"), 1, "absent.csv", "No such file")
    assert_one_line_error(run("evaluate.py", "--compare", first, second, "--soup"), 2, "--compare", "--soup")
    assert_one_line_error(run("evaluate.py", "--compare", first, second, "--checkpoint", first), 2, "--checkpoint")


def test_members_must_learn_the_same_targets(trained, tmp_path):
    content = torch.load(trained[2][1], weights_only=True)
    heads = [dict(head) for head in content["heads"]]
    heads[1] |= {"kind": "number", "mean": 3.0}
    pair = ("--checkpoint", trained[2][0], tmp_path / "other.pt")
    torch.save(content | {"heads": heads}, tmp_path / "other.pt")
    assert_one_line_error(run("evaluate.py", *pair), 1, "other.pt", "with other values")


def test_joint_views_are_scored_as_breasts(trained, tmp_path):
    _root, data, checkpoints = trained
    folder = tmp_path / "joint"
    process = run(
        *("train.py", *SMALL, "--image-size", 32, "--batch-size", 4, "--epochs", 1, "--data", data, "--views", "joint"),
        *("--output", folder, "--folds", 2, "--fold", 0, "--positive-share", 0.4),
    )
    assert process.returncode == 0, process.stderr
    evaluate("--checkpoint", folder, "--output", tmp_path / "o", "--batch-size", 5)
    assert {path.name for path in (tmp_path / "o").iterdir()} == {"predictions.csv", "metrics.json"}
    expected = {row["prediction_id"]: float(row["cancer_probability"]) for row in rows(folder / "predictions.csv")}
    found = {row["prediction_id"]: float(row["cancer_probability"]) for row in rows(tmp_path / "o" / "predictions.csv")}
    assert found == pytest.approx(expected, abs=1e-5) and len(found) == 12
    assert "view" not in json.loads((tmp_path / "o" / "metrics.json").read_text())["subgroups"]
    evaluate("--checkpoint", folder, "--split", "test", "--submission", tmp_path / "s.csv", "--flip")
    assert len(rows(tmp_path / "s.csv")) == 10
    process = run("evaluate.py", "--checkpoint", folder, checkpoints[0])
    assert_one_line_error(process, 1, "--views joint", "--views mean")
    assert_one_line_error(run("evaluate.py", "--checkpoint", folder, "--aggregate", "max"), 1, "omit --aggregate max")


def test_the_figures_have_intervals_and_groups(trained, tmp_path):
    process = evaluate("--checkpoint", *trained[2], "--json", tmp_path / "m.json")
    found = json.loads((tmp_path / "m.json").read_text())
    for name in ("pf1", "auc", "brier", "sensitivity", "precision", "recall_rate", "clshub_pf1", "pf1_calibrated"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high
    assert {view: each["count"] for view, each in found["subgroups"]["view"].items()} == {"CC": 24, "MLO": 24}
    table = process.stdout[process.stdout.index("probabilities as they are") :].splitlines()
    assert max(map(len, table[:-2])) <= 100 and f"written: {tmp_path / 'm.json'}" in process.stdout


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
    assert [row["cancer"] for row in table[:2]] == ["0", "0"]
    evaluate("--checkpoint", checkpoints[0], "--data", copy, "--submission", path, "--threshold", "none")
    prior = torch.load(checkpoints[0], weights_only=True)["prior"]
    assert [float(row["cancer"]) for row in rows(path)[:2]] == pytest.approx([prior, prior], rel=1e-5)


def test_a_submission_says_which_split_it_is_of_and_is_about_cancer_only(trained, tmp_path):
    path = tmp_path / "submission.csv"
    assert (
        "held-out patients only (for the competition: --split test)"
        in evaluate("--checkpoint", trained[2][0], "--submission", path).stdout
    )
    content = torch.load(trained[2][0], weights_only=True)
    content["heads"] = [content["heads"][1], content["heads"][0], *content["heads"][2:]]
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
    content["plan"]["settings"]["augmentation"] = 0.0
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
    assert written["given_threshold"] == pytest.approx(threshold)
    assert f"calls from {threshold:.4g}" in process.stdout and "given, or of other breasts" in process.stdout
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
        return np.zeros((1, outputs), np.float32)

    outputs = torch.load(trained[2][0], weights_only=True)["architecture"]["num_classes"]
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


def test_breasts_that_the_threshold_was_fitted_to_are_not_new(trained, tmp_path):
    """The held-out fold in a folder of its own: its threshold and calibration come from these very breasts."""
    content = torch.load(trained[2][0], weights_only=True)
    held_out = set(content["split"]["fold_of"]) - set(content["training_patients"])
    data = tmp_path / "fold"
    data.mkdir()
    header, *lines = (trained[1] / "train.csv").read_text().splitlines()
    (data / "train.csv").write_text("\n".join([header, *(line for line in lines if line.split(",")[0] in held_out)]))
    (data / "train_images").symlink_to(trained[1] / "train_images")
    arguments = ("--checkpoint", trained[2][0], "--data", data)
    process = evaluate(*arguments, "--json", tmp_path / "m.json")
    assert "given_threshold" not in json.loads((tmp_path / "m.json").read_text())
    assert "given, or of other breasts" not in process.stdout
    refused = run("evaluate.py", *arguments, "--submission", tmp_path / "s.csv", "--threshold", "calibrated")
    assert_one_line_error(refused, 1, "--threshold calibrated", "fitted to some of these patients")


def test_flags_that_would_do_nothing_and_outputs_that_are_inputs_are_refused(trained, tmp_path):
    image = next((trained[1] / "train_images").rglob("*.png"))
    before = image.read_bytes()
    checkpoint = ("evaluate.py", "--checkpoint", trained[2][0])
    for arguments, words in (
        ((*checkpoint, "--image", image, "--soup", "--flip"), "--image cannot be combined with --soup, --flip"),
        ((*checkpoint, "--image", image, "--heatmap", image), "an output has the name of an input"),
        (
            ("evaluate.py", "--compare", *trained[2], "--report", tmp_path / "r"),
            "--compare cannot be combined with --rep",
        ),
    ):
        assert_one_line_error(run(*arguments), 2, words)
    assert image.read_bytes() == before and not (tmp_path / "r").exists()


def test_a_soup_has_no_threshold_of_its_own(trained, tmp_path):
    arguments = ("--checkpoint", *trained[2], "--soup", "--split", "test", "--submission", tmp_path / "s.csv")
    assert "since no out-of-fold threshold is known" in evaluate(*arguments).stdout


def test_a_page_that_cannot_be_drawn_loses_no_predictions(trained, tmp_path):
    data = shutil.copytree(trained[1], tmp_path / "data")
    for path in (data / "train_images").rglob("*.png"):
        path.write_bytes(b"broken")
    arguments = ("--checkpoint", trained[2][0], "--data", data, "--split", "all", "--report", tmp_path / "page")
    process = run("evaluate.py", *arguments, "--submission", tmp_path / "s.csv")
    assert_one_line_error(process, 1, "no image could be scored")
    assert len(rows(tmp_path / "s.csv")) == 24 and not (tmp_path / "page").exists()
