"""Baselines in JSON files, and the commands that take them."""

import json
import shlex

import pytest
from commands import assert_one_line_error, run
from tiny_photographs import write_photographs
from tiny_runs import SMALL

from efficientnet import B0, BASELINES, create_model
from efficientnet.baselines.files import read_baseline, write_baseline


@pytest.fixture
def mine(tmp_path):
    """What scale.py prints for a small network, in a file."""
    printed = run("scale.py", *SMALL, "--json").stdout
    (tmp_path / "my net.json").write_text(printed)
    return tmp_path / "my net.json"


@pytest.mark.parametrize("baseline", BASELINES.values(), ids=BASELINES)
def test_a_written_baseline_reads_back(baseline, tmp_path):
    write_baseline(tmp_path / "copy.json", baseline)
    found = read_baseline(tmp_path / "copy.json")
    assert (found.stages, found.image_size, found.title) == (baseline.stages, baseline.image_size, baseline.title)
    assert (found.name, found.file) == ("copy", str(tmp_path / "copy.json"))


def test_scale_prints_and_reads_the_same_file(mine):
    again = json.loads(run("scale.py", "--baseline", mine, "--json").stdout)
    first = json.loads(mine.read_text())
    assert again["stages"] == first["stages"] and again["multiply_adds"] == first["multiply_adds"]
    scaled = run("scale.py", "--baseline", mine, "--phi", 2)
    assert scaled.returncode == 0 and scaled.stdout.startswith("my net at phi 2\n")
    flags = next(line for line in scaled.stdout.splitlines() if line.startswith("to train it")).partition("train.py ")[
        2
    ]
    assert shlex.split(flags) == ["--baseline", str(mine), "--phi", "2"]


def test_it_is_trained_scaled_resumed_and_loaded(mine, tmp_path):
    data, output = write_photographs(tmp_path / "photos"), tmp_path / "run"
    arguments = ("--baseline", mine, "--width", 1.5, "--data", data, "--image-size", 32, "--batch-size", 8)
    common = (*arguments, "--workers", 0, "--output", output, "--resume", "auto")
    for epochs in (1, 2):
        process = run("train.py", *common, "--epochs", epochs)
        assert process.returncode == 0, process.stderr
    expected = json.loads(run("scale.py", "--baseline", mine, "--width", 1.5, "--json").stdout)["stages"]
    model = create_model(output)
    assert [stage.out_channels for stage in model.stages] == [stage["out_channels"] for stage in expected]
    refused = run("train.py", "--baseline", mine, "--data", data, "--output", output, "--resume", "auto")
    assert_one_line_error(refused, 2, f"--baseline '{mine}'", "must keep its architecture")


def bad_files():
    good = {"image_size": 224, "stages": [vars(stage) for stage in B0.stages]}
    stages = good["stages"]
    yield "not JSON", "[1", "Expecting"
    yield "a list", [], "scale.py --json"
    yield "no size", {"stages": stages}, "'image_size'"
    yield "too small", {**good, "image_size": 16}, "at least 32"
    yield "no head", {**good, "stages": stages[:-1]}, "a head"
    yield (
        "channels that do not fit",
        {**good, "stages": [stages[0], stages[2], stages[-1]]},
        "stage 2 takes 16 channels",
    )
    yield (
        "a stem within",
        {**good, "stages": [stages[0], {**stages[0], "in_channels": 32}, stages[-1]]},
        "cannot be 'conv'",
    )
    yield "an operator that does not exist", {**good, "stages": [{**stages[0], "operator": "x"}]}, "'x'"
    yield "a skip that is no answer", {**good, "stages": [{**stages[0], "skip": 1}]}, "skip must be true or false"
    yield "a title of two lines", {**good, "title": "a\nb"}, "one line"


@pytest.mark.parametrize(("content", "word"), [case[1:] for case in bad_files()], ids=[case[0] for case in bad_files()])
def test_damaged_files_are_refused_in_one_line(content, word, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    assert_one_line_error(run("scale.py", "--baseline", path), 2, str(path), word)


def test_missing_files_and_known_names_are_refused(tmp_path):
    assert_one_line_error(run("scale.py", "--baseline", tmp_path / "no.json"), 2, "no.json", "No such file")
    write_baseline(tmp_path / "b3.json", B0)
    assert_one_line_error(run("train.py", "--baseline", tmp_path / "b3.json"), 2, "b3.json", "rename the file")
