"""The seam is real: another kind of data trains, resumes to the bit and evaluates through the same commands."""

import json
import shutil

import pytest
import torch
from coloured_squares import COLOURS, ColouredSquares
from commands import assert_one_line_error, run, with_task
from tiny_runs import SMALL, assert_same_run, stopped_at

import evaluate
import train

ARGUMENTS = (*SMALL, "--accumulate", 2, "--positive-share", 0.5, "--label-smoothing", 0.1, "--workers", 0)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run of two epochs of six updates, with all of its checkpoints."""
    folder = tmp_path_factory.mktemp("squares") / "run"
    keep = ("--checkpoint-every", 1, "--keep-checkpoints", 100)
    process = with_task(train, ColouredSquares, *ARGUMENTS, *keep, "--output", folder)
    assert process.returncode == 0, process.stderr
    return folder, process


def test_it_trains_and_leaves_a_run_folder(finished):
    folder, process = finished
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["step"]) for line in lines] == [(1, 6), (2, 12)]
    assert lines[1]["accuracy"] == 1 and lines[1]["train_loss"] < lines[0]["train_loss"] and "pf1" not in lines[0]
    checkpoint = torch.load(folder / "best.pt", weights_only=True)
    assert (checkpoint["task"], checkpoint["classes"]) == ("coloured squares", list(COLOURS))
    settings = json.loads((folder / "config.json").read_text())["settings"]
    assert settings == {"image_size": [64, 64], "in_channels": 3, "squares": 48, "noise": 0.1}  # its own size, not B0's
    assert "1 image could not be read" in process.stdout and "square 7" in process.stdout
    assert (folder / "predictions.csv").read_text().startswith("accuracy\n")


@pytest.mark.parametrize("number", [1, 6, 11])
def test_it_resumes_to_the_bit(finished, tmp_path, number):
    folder = stopped_at(finished[0], number, tmp_path / "r")
    process = with_task(train, ColouredSquares, "--resume", folder, "--workers", 1)
    assert process.returncode == 0, process.stderr
    assert_same_run(finished[0], folder)


def test_it_is_evaluated_alone_and_as_an_ensemble(finished, tmp_path):
    best = finished[0] / "best.pt"
    other = shutil.copy(best, tmp_path / "other.pt")
    process = with_task(evaluate, ColouredSquares, "--checkpoint", best, other, "--output", tmp_path, "--squares", 12)
    assert process.returncode == 0, process.stderr
    result = json.loads((tmp_path / "metrics.json").read_text())
    assert result["checkpoints"] == [str(best), str(other)] and result["unreadable"] == ["square 7 cannot be read"]
    rows = (tmp_path / "squares.csv").read_text().splitlines()
    assert len(rows) == 12 and rows[7] == "nan,nan,nan"
    assert result["accuracy"] == 1 and "accuracy 1.00" in process.stdout


def test_a_checkpoint_of_another_task_is_refused_in_a_line(finished):
    for command, arguments in (("evaluate.py", ("--checkpoint",)), ("train.py", ("--resume",))):
        path = finished[0] / ("best.pt" if command == "evaluate.py" else "last.pt")
        assert_one_line_error(run(command, *arguments, path), 1, "coloured squares", "not for screening")


def test_its_flags_are_its_own():
    process = with_task(train, ColouredSquares, "--squares", 5)
    assert_one_line_error(process, 2, "--squares", "at least 6")
    assert_one_line_error(with_task(train, ColouredSquares, "--select", "auc"), 2, "--select")
