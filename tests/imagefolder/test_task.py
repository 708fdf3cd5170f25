"""Image folders through train.py and evaluate.py: a tiny run, exact resume, two ranks, and what is said of odd data."""

import csv
import gzip
import json
import shutil

import numpy as np
import pytest
import torch
from commands import assert_one_line_error, ranks, run
from conftest import made_once
from PIL import Image
from tiny_photographs import COLOURS, write_classes, write_photographs
from tiny_runs import SMALL, assert_same_run, metrics, stopped_at, train

from efficientnet import create_model
from efficientnet.export import FEATURES, LOGITS, metadata
from efficientnet.imagefolder.task import ImageFolder

# Everything that draws random numbers is on.
FAST = (*SMALL, "--image-size", 32, "--batch-size", 6, "--warmup-epochs", 0.5, "--workers", 0, "--epochs", 3)
KEEP = ("--checkpoint-every", 1, "--keep-checkpoints", 100)
# Nothing that keeps so short a run from learning.
PLAIN = (
    *(*SMALL, "--image-size", 48, "--batch-size", 8, "--learning-rate", 0.01, "--warmup-epochs", 0.5, "--workers", 0),
    *("--epochs", 8, "--ema-decay", 0.5, "--auto-augment", "none", "--mixup", 0, "--cutmix", 0, "--dropout", 0),
    *("--stochastic-depth", 0, "--label-smoothing", 0, "--crop-scale", 0.8, 1, "--weight-decay", 0),
)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory):
    return made_once(tmp_path_factory, "photographs", write_photographs)


@pytest.fixture(scope="session")
def finished(photographs, tmp_path_factory):
    """The folder of an undisturbed run on so many ranks, 0 for plain python, with all of its checkpoints."""

    def folder(count):
        arguments = (*FAST, *KEEP, "--data", photographs)
        name = f"photographs-{count}"
        return made_once(tmp_path_factory, name, lambda output: train(count, *arguments, "--output", output))

    return folder


@pytest.fixture(scope="session")
def learned(photographs, tmp_path_factory):
    """The folder of a run that has learned the colours."""
    arguments = (*PLAIN, "--data", photographs)
    return made_once(tmp_path_factory, "learned", lambda output: train(0, *arguments, "--output", output))


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_folder_decides_the_task_and_the_run_says_so(photographs, tiny_data):
    process = run("train.py", "--data", photographs, "--dry-run", "--variant", "b0", "--image-size", 32)
    assert process.returncode == 0, process.stderr
    assert "recognised as an image folder of 3 classes: blue, green, red" in process.stdout
    assert f"48 images of {photographs / 'train'}" in process.stdout
    assert f"12 images of {photographs / 'val'}" in process.stdout
    assert "recipe      modern" in process.stdout and "--optimizer adamw" in process.stdout
    process = run("train.py", "--data", tiny_data, "--dry-run", "--variant", "b0", "--image-size", 32)
    assert "patients" in process.stdout and "recipe      screening" in process.stdout


def test_a_run_learns_the_colours_and_leaves_a_run_folder(learned):
    folder, lines = learned, metrics(learned)
    assert [line["epoch"] for line in lines] == [*range(1, 9)]
    assert lines[-1]["top1"] > 0.9 and lines[-1]["top5"] == 1 and lines[-1]["val_loss"] < lines[0]["val_loss"]
    checkpoint = torch.load(folder / "best.pt", weights_only=True)
    assert (checkpoint["task"], checkpoint["classes"]) == ("imagefolder", list(COLOURS))
    assert json.loads((folder / "config.json").read_text())["task"] == "imagefolder"
    listed = gzip.decompress((folder / "train.txt.gz").read_bytes()).decode().splitlines()
    assert len(listed) == 1 + 48 and "blue/0.png" in listed
    predictions = rows(folder / "predictions.csv")
    assert [row["file"] for row in predictions][:3] == ["val/blue/0.png", "val/blue/1.jpg", "val/blue/2.jpg"] and len(
        predictions
    ) == 12
    assert all(row["file"].startswith(f"val/{row['label']}/") for row in predictions)
    card = (folder / "MODEL_CARD.md").read_text()
    assert "for 3 classes" in card and "blue, green, red" in card and "top-1" in card and "## Recipe" in card


@pytest.mark.parametrize(
    ("count", "number"),
    [(0, 4), (2, 7), *(pytest.param(0, n, marks=pytest.mark.nightly) for n in (1, 6, 12, 17))],
)
def test_it_resumes_to_the_bit(finished, tmp_path, count, number):
    folder = stopped_at(finished(count), number, tmp_path / "run")
    process = train(count, "--resume", folder, "--workers", 1)
    assert "resumed after epoch" in process.stdout
    assert_same_run(finished(count), folder)


def test_two_ranks_score_exactly_the_validation_images(finished, photographs):
    for count in (0, 2):
        found = [row["file"] for row in rows(finished(count) / "predictions.csv")]
        assert len(found) == len(set(found)) == 12
    scored = run("evaluate.py", "--checkpoint", finished(2), "--data", photographs, "--json", "-")
    assert json.loads(scored.stdout)["top1"] == max(line["top1"] for line in metrics(finished(2)))


def test_evaluation_of_its_own_validation_images_repeats_the_best_epoch(learned, tmp_path):
    folder = learned
    process = run("evaluate.py", "--checkpoint", folder, "--output", tmp_path)
    assert process.returncode == 0, process.stderr
    result = json.loads((tmp_path / "metrics.json").read_text())
    best = max(metrics(folder), key=lambda line: line["top1"])
    assert (result["images"], result["top1"], result["top5"]) == (12, best["top1"], best["top5"])
    low, high = result["top1_interval"]
    assert 0 <= low <= result["top1"] <= high <= 1
    assert f"top-1 {100 * best['top1']:.2f} %" in process.stdout and "validation of" in process.stdout
    again, before = rows(tmp_path / "predictions.csv"), rows(folder / "predictions.csv")
    assert [row["class"] for row in again] == [row["class"] for row in before]
    assert [float(row["probability"]) for row in again] == pytest.approx(
        [float(row["probability"]) for row in before], abs=1e-4
    )


def test_images_without_classes_are_predicted(learned, photographs, tmp_path):
    (tmp_path / "photos" / "holiday").mkdir(parents=True)
    shutil.copy(photographs / "val" / "red" / "1.jpg", tmp_path / "photos" / "holiday" / "a.jpg")
    shutil.copy(photographs / "val" / "blue" / "1.jpg", tmp_path / "photos" / "b.JPG")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no picture")
    output = tmp_path / "scored"
    process = run("evaluate.py", "--checkpoint", learned, "--data", tmp_path / "photos", "--output", output)
    assert process.returncode == 0, process.stderr
    assert "no scores" in process.stdout and "1 image could not be read" in process.stdout
    assert "images of" in process.stdout and "  b.JPG: blue" in process.stdout
    found = {row["file"]: row for row in rows(output / "predictions.csv")}
    assert {name: row["class"] for name, row in found.items()} == {"b.JPG": "blue", "holiday/a.jpg": "red"}
    assert "label" not in found["b.JPG"] and found["b.JPG"]["class_2"] in COLOURS
    assert "top1" not in json.loads((output / "metrics.json").read_text())


def test_one_image_gets_its_most_probable_classes(learned, photographs):
    path = photographs / "val" / "green" / "2.jpg"
    process = run("evaluate.py", "--checkpoint", learned, "--image", path)
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[0] == str(path) and process.stdout.splitlines()[1].split()[0] == "green"
    missing = run("evaluate.py", "--checkpoint", learned, "--image", path.with_name("none.jpg"))
    assert_one_line_error(missing, 1, "none.jpg")


def test_a_folder_without_validation_is_split_by_class_and_scored_out_of_fold(tmp_path):
    data = write_classes(tmp_path / "data", 6)
    output = tmp_path / "runs"
    few = (*FAST, "--epochs", 1, "--folds", 2, "--fold", "all")
    process = run("train.py", *few, "--data", data, "--output", output)
    assert process.returncode == 0, process.stderr
    assert "fold 0 of 2, split by class" in process.stdout and "each out of fold" in process.stdout
    parts = [{row["file"] for row in rows(output / f"fold{fold}" / "predictions.csv")} for fold in (0, 1)]
    assert not parts[0] & parts[1] and len(parts[0] | parts[1]) == 18
    assert all(sum(name.startswith(colour) for name in parts[0]) == 3 for colour in COLOURS)
    summary = json.loads((output / "summary.json").read_text())
    assert summary["images"] == 18 and 0 <= summary["top1_interval"][0] <= summary["top1"]
    # The ensemble of both folds scores each image with the run that held it out.
    process = run("evaluate.py", "--checkpoint", output, "--json", "-", "--no-optimize")
    scored = json.loads(process.stdout)
    assert (scored["images"], scored["top1"]) == (18, summary["top1"])
    one = run("evaluate.py", "--checkpoint", output / "fold0", "--json", "-")
    assert json.loads(one.stdout)["images"] == 9 and "the others were trained on" in one.stderr
    every = run("evaluate.py", "--checkpoint", output / "fold0", "--split", "all", "--json", "-")
    assert json.loads(every.stdout)["images"] == 18 and "9 images were trained on" in every.stderr


def test_a_resumed_run_keeps_its_images_and_says_what_changed(photographs, finished, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photographs, data)
    folder = stopped_at(finished(0), 3, tmp_path / "run")
    (data / "train" / "red" / "1.jpg").unlink()
    Image.new("RGB", (40, 40)).save(data / "train" / "red" / "new.png")
    process = run("train.py", "--resume", folder, "--data", data, "--workers", 0)
    assert process.returncode == 0, process.stderr
    assert "1 image has gone and 1 is new; new ones are left out" in process.stdout
    assert "red/1.jpg" in (folder / "unreadable.txt").read_text()
    strict = stopped_at(finished(0), 3, tmp_path / "strict")
    assert_one_line_error(run("train.py", "--resume", strict, "--data", data, "--strict"), 1, "1 image has gone")
    lost = stopped_at(finished(0), 3, tmp_path / "lost")
    (lost / "train.txt.gz").unlink()
    assert_one_line_error(run("train.py", "--resume", lost, "--data", data), 1, "train.txt.gz", "cannot be read")
    (lost / "train.txt.gz").write_bytes((folder / "validation.txt.gz").read_bytes())
    assert_one_line_error(run("train.py", "--resume", lost, "--data", data), 1, "is not the list that the run began")


def test_broken_images_cost_a_line_each_and_not_the_run(photographs, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photographs, data)
    whole = (data / "train" / "blue" / "1.jpg").read_bytes()
    (data / "train" / "blue" / "1.jpg").write_bytes(whole[: len(whole) // 2])
    (data / "val" / "red" / "1.jpg").write_bytes(b"")
    (data / "train" / "notes.txt").write_text("not an image")
    output = tmp_path / "run"
    process = run("train.py", *FAST, "--epochs", 1, "--data", data, "--output", output)
    assert process.returncode == 0, process.stderr
    assert "left out 1 file of other kinds: 1 .txt" in process.stdout
    unreadable = (output / "unreadable.txt").read_text()
    assert "blue/1.jpg" in unreadable and "red/1.jpg" in unreadable and len(unreadable.splitlines()) == 2
    assert len(rows(output / "predictions.csv")) == 11


@pytest.mark.parametrize(
    ("spoiled", "arguments", "code", "words"),
    [
        ("val", (), 1, ("pink", "has no folder in")),
        ("train", (), 1, ("red", "has no folder in")),
        (None, ("--fold", 1), 1, ("--fold and --folds", "val")),
        (None, ("--fold", "all"), 2, ("--fold and --folds", "val")),
        (None, ("--select", "top5"), 1, ("--select top5", "3 classes")),
        (None, ("--recipe", "paper", "--magnitude", 9), 2, ("--magnitude applies to --auto-augment randaugment",)),
        (None, ("--decay-rate", 0.9), 2, ("--decay-rate applies to --schedule exponential",)),
        (None, ("--recipe", "transfer"), 2, ("--weights",)),
        (None, ("--crop-scale", 0.9, 0.5), 2, ("--crop-scale",)),
        (None, ("--mean", 0.1, 0.2), 2, ("--mean", "2 values for 3 channels")),
        (None, ("--positive-share", 0.5), 1, ("--positive-share",)),
        (None, ("--window", 1), 2, ("--window",)),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused_in_a_line(photographs, tmp_path, spoiled, arguments, code, words):
    """spoiled: the folder in which the class red is called pink."""
    data = tmp_path / "data"
    shutil.copytree(photographs, data)
    if spoiled:
        (data / spoiled / "red").rename(data / spoiled / "pink")
    process = run("train.py", *FAST, "--data", data, "--output", tmp_path / "run", *arguments)
    assert_one_line_error(process, code, *words)
    assert not (tmp_path / "run").exists()


def test_a_training_folder_without_images_is_refused_in_a_line(photographs, tmp_path):
    shutil.copytree(photographs / "val", tmp_path / "data" / "val")
    (tmp_path / "data" / "train" / "red").mkdir(parents=True)
    (tmp_path / "data" / "train" / "blue").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "data" / "train" / "blue" / "1.png")
    process = run("train.py", *FAST, "--data", tmp_path / "data", "--output", tmp_path / "run")
    assert_one_line_error(process, 1, "has images of 1 class;")
    (tmp_path / "data" / "train" / "blue" / "1.png").unlink()
    process = run("train.py", *FAST, "--data", tmp_path / "data", "--output", tmp_path / "run")
    assert process.returncode == 1 and "Traceback" not in process.stderr


def test_flat_validation_images_are_refused_with_what_to_do(photographs, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(photographs / "train", data / "train")
    (data / "val").mkdir()
    for number, path in enumerate((photographs / "val").rglob("*.jpg")):
        shutil.copy(path, data / "val" / f"ILSVRC2012_val_{number:08}.JPEG")
    process = run("train.py", *FAST, "--data", data, "--output", tmp_path / "run")
    assert_one_line_error(process, 1, "has no class folders", "a folder for each class")


def test_two_models_are_compared_on_the_same_images(finished, photographs, tmp_path):
    process = run("evaluate.py", "--compare", finished(0), finished(2), "--json", "-")
    assert process.returncode == 0, process.stderr
    values = json.loads(process.stdout)
    assert values["count"] == 12 and set(values["metrics"]) == {"top1"}  # top-5 of three is no score
    a, b = (finished(count) / "predictions.csv" for count in (0, 2))
    again = run("evaluate.py", "--compare", a, b, "--json", "-")
    assert json.loads(again.stdout)["metrics"] == values["metrics"]


def test_the_model_of_a_checkpoint_and_exported_files_carry_its_classes(learned, tmp_path, monkeypatch):
    model = create_model(learned / "best.pt")
    assert model.classes == tuple(COLOURS) and create_model("b0", num_classes=2).classes is None
    assert create_model(learned / "best.pt", num_classes=5).classes is None
    for folder in (learned, str(learned)):
        assert create_model(folder).classes == tuple(COLOURS)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b0").symlink_to(learned)
    assert create_model("b0").classes is None  # a variant, also where a folder has its name
    content = torch.load(learned / "best.pt", weights_only=True)
    properties = metadata("b0", ImageFolder.exported(learned / "best.pt", content, model), LOGITS)
    assert json.loads(properties["classes"]) == list(COLOURS) and properties["probability"] == "softmax(logits)"
    assert json.loads(properties["preprocessing"])["image_size"] == [48, 48]
    features = metadata("b0", ImageFolder.exported(learned / "best.pt", content, model), FEATURES)
    assert set(features) == {"architecture", "preprocessing"}


@pytest.mark.nightly
def test_an_onnx_file_gives_the_logits_of_the_checkpoint(learned, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    process = run("efficientnet.export", "--checkpoint", learned / "best.pt", "--onnx", tmp_path / "a.onnx")
    assert process.returncode == 0 and "3 classes" in process.stdout, process.stderr
    session = runtime.InferenceSession(tmp_path / "a.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == list(COLOURS)
    images = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = create_model(learned / "best.pt").eval()(images).numpy()
    (logits,) = session.run(None, {"images": images.numpy()})
    np.testing.assert_allclose(logits, wanted, atol=1e-4 * np.abs(wanted).max())


def test_the_benchmark_takes_its_checkpoint(finished):
    process = run("efficientnet.benchmark", "--checkpoint", finished(0) / "best.pt")
    assert process.returncode == 0 and "top1" in process.stdout and "fast path" in process.stdout, process.stderr


def test_grey_images_train_too(photographs, tmp_path):
    output = tmp_path / "run"
    arguments = (*FAST, "--epochs", 1, "--in-channels", 1, "--auto-augment", "autoaugment")
    process = run("train.py", *arguments, "--data", photographs, "--output", output)
    assert process.returncode == 0, process.stderr
    assert torch.load(output / "best.pt", weights_only=True)["architecture"]["in_channels"] == 1


def test_a_checkpoint_of_the_other_task_is_recognised(finished, tiny_data, tmp_path):
    """evaluate.py takes the task of the checkpoint, so a screening folder has no classes for it."""
    process = run("evaluate.py", "--checkpoint", finished(0), "--data", tiny_data)
    assert process.returncode == 0 and "no scores" in process.stdout, process.stderr
    ranks_process = ranks(2, "train.py", "--resume", finished(0), "--data", tmp_path)
    assert ranks_process.returncode != 0 and "Traceback" not in ranks_process.stderr


def test_a_class_may_be_called_train_but_validation_must_not_be_training(photographs, tmp_path):
    shutil.copytree(photographs / "val", tmp_path / "vehicles")
    (tmp_path / "vehicles" / "red").rename(tmp_path / "vehicles" / "train")
    process = run("train.py", "--data", tmp_path / "vehicles", "--dry-run", "--variant", "b0", "--image-size", 32)
    assert "3 classes: blue, green, train" in process.stdout, process.stderr
    shutil.copytree(photographs / "train", tmp_path / "same" / "train")
    (tmp_path / "same" / "val").symlink_to(tmp_path / "same" / "train")
    process = run("train.py", *FAST, "--data", tmp_path / "same", "--output", tmp_path / "run")
    assert_one_line_error(process, 1, "is the training folder")


def test_a_test_folder_that_validates_is_said_to_have_chosen_the_epoch(photographs, tmp_path):
    data, output = tmp_path / "data", tmp_path / "run"
    shutil.copytree(photographs / "train", data / "train")
    shutil.copytree(photographs / "val", data / "test")
    process = run("train.py", *FAST, "--epochs", 1, "--data", data, "--output", output)
    assert process.returncode == 0 and f"{data / 'test'} is used to choose best.pt" in process.stdout, process.stderr
    process = run("evaluate.py", "--checkpoint", output)
    assert "test of" in process.stdout and "the best epoch was chosen by its score on these images" in process.stdout
    process = run("evaluate.py", "--checkpoint", output, "--data", data / "train")
    assert "these images were trained on" in process.stdout
    assert_one_line_error(
        run("evaluate.py", "--checkpoint", output, "--split", "all"), 1, "choose --split train or test"
    )


@pytest.fixture(scope="module")
def folds(tmp_path_factory):
    """A folder of class folders, and runs of its folds 0 and, from the weights of that, 1."""
    root = tmp_path_factory.mktemp("folds")
    data, few = write_classes(root / "data", 6), (*FAST, "--epochs", 1, "--folds", 2)
    for fold, more in ((0, ()), (1, ("--weights", root / "0" / "best.pt"))):
        process = run("train.py", *few, "--fold", fold, "--data", data, "--output", root / str(fold), *more)
        assert process.returncode == 0, process.stderr
    return root, process.stdout


def test_images_of_the_same_names_elsewhere_are_other_images_but_copies_are_not(folds, tmp_path):
    root, _ = folds
    other = write_classes(tmp_path / "other", 6, seed=5)
    for path in other.rglob("*.*"):  # of the same sizes too
        path.write_bytes(path.read_bytes().ljust(10**4, b"0"))
        original = root / "data" / path.relative_to(other)
        path.write_bytes(path.read_bytes()[: original.stat().st_size].ljust(original.stat().st_size, b"0"))
    process = run("evaluate.py", "--checkpoint", root / "0", "--data", other)
    assert "18 images of 3 classes, " in process.stdout, process.stderr
    shutil.copytree(root / "data", tmp_path / "moved")
    process = run("evaluate.py", "--checkpoint", root / "0", "--data", tmp_path / "moved")
    assert "9 of 18 images of 3 classes (the others were trained on)" in process.stdout, process.stderr


def test_images_of_other_splits_are_not_compared(folds, learned):
    root, _ = folds
    process = run("evaluate.py", "--compare", root / "0" / "predictions.csv", learned / "predictions.csv")
    assert_one_line_error(process, 1, "no labelled image was scored by both")


def test_class_folders_are_known_in_any_case(learned, photographs, tmp_path):
    shutil.copytree(photographs / "val" / "red", tmp_path / "data" / "RED")
    shutil.copytree(photographs / "val" / "blue", tmp_path / "data" / "pink")
    process = run("evaluate.py", "--checkpoint", learned, "--data", tmp_path / "data", "--json", "-")
    assert json.loads(process.stdout)["images"] == 4, process.stderr
    assert "4 images are in no folder that is named after a class (such as the folder 'pink')" in process.stderr


def test_held_out_images_that_the_weights_were_trained_on_are_named_for_good(folds):
    root, said = folds
    assert "9 held-out images were used to train --weights" in said
    process = run("evaluate.py", "--checkpoint", root / "1")
    assert "9 images were used to train the --weights that the run started from" in process.stdout, process.stderr


def test_a_classifier_of_other_classes_learns_anew(learned, tmp_path):
    data = write_photographs(tmp_path / "data", 4, 2)
    flags = ("--data", data, "--weights", learned / "best.pt", "--image-size", 32, "--dry-run")
    process = run("train.py", *flags)
    assert "left fresh" not in process.stdout and "no pretrained layers at first" in process.stdout, process.stderr
    for part in ("train", "val"):
        (data / part / "red").rename(data / part / "kiwi")
    process = run("train.py", *flags)
    assert "classifier.weight, classifier.bias left fresh" in process.stdout, process.stderr
    assert "frozen      batch-norm statistics in every layer; pretrained layers for the first epoch" in process.stdout


def test_a_class_with_one_image_is_refused_whatever_the_fold(tmp_path):
    data = write_classes(tmp_path / "data", 3)
    (data / "one").mkdir()
    Image.new("RGB", (40, 40)).save(data / "one" / "1.png")
    for fold in (0, 1, "all"):
        process = run("train.py", *FAST, "--folds", 2, "--fold", fold, "--data", data, "--output", tmp_path / str(fold))
        assert_one_line_error(process, 1, "the class one has only one image")


def test_the_folds_of_one_run_have_the_images_of_the_first(tmp_path):
    data, output = write_classes(tmp_path / "data", 4), tmp_path / "runs"
    few = (*FAST, "--epochs", 1, "--folds", 2, "--fold", "all", "--data", data, "--output", output)
    assert run("train.py", *few).returncode == 0
    shutil.rmtree(output / "fold1")
    (output / "summary.json").unlink()
    Image.new("RGB", (40, 40)).save(data / "red" / "new.png")
    process = run("train.py", "--resume", output)
    assert process.returncode == 0 and "0 images have gone and 1 is new" in process.stdout, process.stderr
    assert json.loads((output / "summary.json").read_text())["images"] == 12


def test_a_strict_run_fails_for_changes_only(photographs, tmp_path):
    data, output = tmp_path / "data", tmp_path / "run"
    shutil.copytree(photographs, data)
    shutil.copy(data / "train" / "red" / "1.jpg", data / "train" / "loose.jpg")
    arguments = (*FAST, "--strict", "--data", data)
    assert run("train.py", *arguments, "--epochs", 1, "--output", output).returncode == 0
    process = run("train.py", "--resume", output, "--strict", "--epochs", 2)
    assert process.returncode == 0 and "left out 1 image outside the class folders" in process.stdout, process.stderr
