"""--bits, --invert-bright and --accept-raw: how the files of a folder are read is decided once, said and kept."""

import csv
import json
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import assert_one_line_error, run
from dicom_files import make
from PIL import Image
from tiny_data import write_tiny_data
from tiny_runs import SMALL, train

from efficientnet.mammography.picture import read_picture
from efficientnet.mammography.prepare.folder import DESCRIPTION, check_prepared, prepared_settings
from efficientnet.mammography.preprocessing import SOURCE_SETTINGS, Preprocessing
from efficientnet.training.checkpoint import serialise, write_checkpoint

PREPARE = "efficientnet.mammography.prepare"
RECIPE = (*SMALL, "--image-size", 32, "--batch-size", 4, "--epochs", 1, "--folds", 2)
SETTINGS = Preprocessing((32, 32))
BRIGHT = "bright background inverted"


def twelve_bits(root: Path, bright: int = 0) -> Path:
    """16 values for one of `write_tiny_data`, in 16-bit PNG; the first few are inverted."""
    for number, path in enumerate(sorted(write_tiny_data(root, 12).rglob("*.png"))):
        values = np.asarray(Image.open(path), np.uint16) * 16
        Image.fromarray(4095 - values if number < bright else values).save(path)
    return root


def prepare(data: Path, output: Path, *arguments: object, code: int = 0) -> str:
    process = run(PREPARE, "--data", data, "--output", output, "--image-size", 32, "--workers", 1, *arguments)
    assert process.returncode == code, process.stderr + process.stdout
    return process.stdout


def pictures(folder: Path) -> dict[str, np.ndarray]:
    return {str(path.relative_to(folder)): np.asarray(Image.open(path)) for path in sorted(folder.rglob("*.png"))}


@pytest.fixture(scope="module")
def deep(tmp_path_factory) -> Path:
    return twelve_bits(tmp_path_factory.mktemp("deep") / "set", bright=3)


def lines_of(text: str) -> list[str]:
    return [" ".join(line.split()) for line in text.splitlines()]


HOLDING = "pictures 16-bit PNG holding 12 bits (override with --bits)"


def test_pictures_of_12_bits_are_prepared_as_bright_as_those_of_8(tmp_path, deep):
    said = prepare(deep, tmp_path / "deep")
    assert HOLDING in lines_of(said)
    prepare(write_tiny_data(tmp_path / "data", 12), tmp_path / "shallow")
    shallow = pictures(tmp_path / "shallow")
    for number, (name, picture) in enumerate(pictures(tmp_path / "deep").items()):
        if number >= 3:  # a value of 255 is one of 4080
            assert np.abs(picture.astype(int) - shallow[name]).max() <= 2, name
    description = json.loads((tmp_path / "deep" / DESCRIPTION).read_text())
    assert description["source"] == {"bits": 12, "invert_bright": False, "accept_raw": False}


def test_check_and_the_dry_run_say_depth_and_bright_backgrounds(deep):
    process = run(PREPARE, "--data", deep, "--check")
    assert process.returncode == 0, process.stderr
    assert HOLDING in lines_of(process.stdout)
    warning = "of 32 sampled pictures have a bright background"
    assert f"2 {warning}: use --invert-bright to invert them" in process.stdout
    process = run("train.py", *RECIPE, "--data", deep, "--dry-run", "--invert-bright")
    assert HOLDING in lines_of(process.stdout) and f"2 {warning} and are inverted" in process.stdout, process.stderr


def test_other_settings_of_the_source_prepare_it_again_and_no_other_model(tmp_path, deep):
    output = tmp_path / "cache"
    prepare(deep, output)
    before = pictures(output)
    said = prepare(deep, output, "--invert-bright")
    assert any(line == f"note 3 {BRIGHT}" for line in lines_of(said))
    after = pictures(output)
    assert [name for name in before if (before[name] != after[name]).any()] == list(before)[:3]
    assert json.loads((output / DESCRIPTION).read_text())["notes"] == {BRIGHT: 3}
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert any(line == f"note 3 {BRIGHT}" for line in lines_of(prepare(deep, output, "--invert-bright")))
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == times
    for settings in (SETTINGS, Preprocessing((32, 32), bits=16, accept_raw=True)):
        check_prepared(output, settings)
        assert read_picture(next(output.rglob("*.png")), settings).shape == (32, 32)
    assert prepared_settings(output)["bits"] == 12
    process = run("train.py", *RECIPE, "--data", output, "--bits", 14, "--dry-run")
    assert_one_line_error(process, 1, str(output), "bits 12 instead of 14")


def test_values_beyond_the_depth_are_refused_with_the_flag(tmp_path, deep):
    said = prepare(deep, tmp_path / "cache", "--bits", 10, code=1)
    assert "read as 10 bits, but the sampled files hold 12" in said
    with open(tmp_path / "cache" / "failures.csv", newline="") as file:
        assert all("the maximum for 10 bits is 1023; use --bits 12" in row["reason"] for row in csv.DictReader(file))


def test_prepared_folders_from_before_these_settings_are_gone_on_with(tmp_path):
    data, output = write_tiny_data(tmp_path / "data", 3), tmp_path / "cache"
    prepare(data, output)
    description = json.loads((output / DESCRIPTION).read_text())
    del description["source"], description["notes"]
    (output / DESCRIPTION).write_text(json.dumps(description))
    times = {path: path.stat().st_mtime_ns for path in output.rglob("*")}
    assert "12 of 12" in prepare(data, output)
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*")} == times
    assert not set(SOURCE_SETTINGS) & set(prepared_settings(output))
    assert run("train.py", *RECIPE, "--data", output, "--dry-run").returncode == 0


def test_a_run_keeps_the_depth_and_evaluation_decides_that_of_another_folder(tmp_path, deep):
    folder = tmp_path / "run"
    train(0, *RECIPE, "--data", deep, "--output", folder, "--strict")
    assert json.loads((folder / "config.json").read_text())["settings"]["bits"] == 12
    assert torch.load(folder / "best.pt", weights_only=True)["preprocessing"]["bits"] == 12
    process = run("train.py", "--resume", folder, "--bits", 16)
    assert_one_line_error(process, 2, "--bits 16", "12")

    shallow = write_tiny_data(tmp_path / "shallow", 12)  # the same pictures but for the inverted ones
    other = tmp_path / "other"
    for path in sorted(shallow.rglob("*.png")):
        copy = other / path.relative_to(shallow)
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(Image.open(path), np.uint16) * 257).save(copy)
    (other / "train.csv").write_bytes((shallow / "train.csv").read_bytes())
    scores = {}
    for data in (shallow, other):
        output = tmp_path / f"scores-{data.name}"
        command = ("evaluate.py", "--checkpoint", folder / "best.pt", "--data", data, "--output", output)
        process = run(*command, "--strict")
        assert process.returncode == 0, process.stderr
        scores[data] = np.genfromtxt(output / "images.csv", delimiter=",", skip_header=1)[:, -1]
    assert "16-bit PNG holding 16 bits" in process.stdout
    np.testing.assert_allclose(scores[other], scores[shallow], atol=1e-5)
    process = run(*command, "--bits", 12)
    assert "no image could be scored" in process.stderr and "--bits 16" in process.stderr
    process = run("evaluate.py", "--checkpoint", folder / "best.pt", "--invert-bright")
    assert HOLDING.removeprefix("pictures ") in process.stdout and "are inverted" in process.stdout


def test_a_run_from_before_the_depth_was_decided_is_resumed_as_it_was(tmp_path, deep):
    folder = tmp_path / "run"
    train(0, *RECIPE, "--data", deep, "--output", folder, "--bits", 16)
    content = torch.load(folder / "last.pt", weights_only=True)
    for name in SOURCE_SETTINGS:
        del content["plan"]["settings"][name], content["preprocessing"][name]
    shutil.rmtree(folder / "checkpoints")
    write_checkpoint(folder / "last.pt", serialise(content))
    process = run("train.py", "--resume", folder, "--dry-run")
    assert "16-bit PNG read as 16 bits, but the sampled files hold 12" in process.stdout, process.stderr


def test_a_picture_that_shows_nothing_is_listed_and_not_trained_on(tmp_path):
    data = write_tiny_data(tmp_path / "data", 6)
    blank = sorted(data.rglob("*.png"))[0]
    Image.new("L", (48, 48), 200).save(blank)
    said = prepare(data, tmp_path / "cache", code=1)
    assert "23 of 24" in said and f"{blank}: is blank" in said
    train(0, *RECIPE, "--data", data, "--output", tmp_path / "run")
    assert f"{blank}: is blank" in (tmp_path / "run" / "unreadable.txt").read_text()
    process = run("train.py", *RECIPE, "--data", data, "--output", tmp_path / "strict", "--strict")
    assert process.returncode == 1 and "is blank" in process.stderr


def test_raw_images_and_notes_on_headers(tmp_path):
    data, output = write_tiny_data(tmp_path / "data", 3), tmp_path / "cache"
    paths = sorted(data.rglob("*.png"))
    for number, path in enumerate(paths):
        values = np.asarray(Image.open(path), np.uint16) * 16
        elements = {"RescaleSlope": 0, "RescaleIntercept": 0} if number < 2 else {}
        if number == 2:
            elements["PresentationIntentType"] = "FOR PROCESSING"
        image = make(values, BitsStored=12, WindowCenter=2048, WindowWidth=4096, **elements)
        image.save_as(path.with_suffix(".dcm"), enforce_file_format=True)
        path.unlink()
    check = run(PREPARE, "--data", data, "--check")
    assert check.returncode == 1 and "refused 1 first:" in " ".join(check.stdout.split())
    assert "note 2 RescaleSlope 0 ignored" in lines_of(prepare(data, output, code=1))
    assert run(PREPARE, "--data", data, "--check", "--accept-raw").returncode == 0
    prepare(data, output, "--accept-raw")
    assert sum(json.loads((output / DESCRIPTION).read_text())["notes"].values()) == 3
    prepare(data, output, code=1)  # without it they are no longer there
    assert len(pictures(output)) == len(paths) - 1


def test_the_next_command_can_be_pasted(tmp_path):
    data, output = write_tiny_data(tmp_path / "my data", 3), tmp_path / "it's a cache; $HOME"
    line = prepare(data, output).splitlines()[-1]
    assert line.startswith("next: ") and shlex.split(line)[-2:] == ["--data", str(output)]


def test_raw_images_are_said_before_the_training(tmp_path):
    data = write_tiny_data(tmp_path / "data", 6)
    for number, path in enumerate(sorted(data.rglob("*.png"))):
        values = np.asarray(Image.open(path), np.uint16) * 16
        intent = "FOR PROCESSING" if number % 2 else "FOR PRESENTATION"
        dataset = make(values, BitsStored=12, PresentationIntentType=intent)
        dataset.save_as(path.with_suffix(".dcm"), enforce_file_format=True)
        path.unlink()
    arguments = (*RECIPE, "--data", data, "--dry-run")
    said = train(0, *arguments).stdout
    assert "12 of 24 sampled DICOM files cannot be used; first: " in said and "--accept-raw" in said
    assert "cannot be used" not in train(0, *arguments, "--accept-raw").stdout


def test_a_folder_that_was_prepared_again_in_another_way_is_said(tmp_path, deep):
    prepare(deep, tmp_path / "cache", "--invert-bright")
    train(0, *RECIPE, "--data", tmp_path / "cache", "--output", tmp_path / "run", "--workers", 0)
    prepare(deep, tmp_path / "cache")
    said = "was prepared again since training, with invert_bright False instead of True"
    assert said in run("evaluate.py", "--checkpoint", tmp_path / "run" / "best.pt").stdout
    assert said in train(0, "--resume", tmp_path / "run", "--epochs", 2, "--workers", 0).stdout
