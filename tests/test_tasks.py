"""Which task a command is about: by the folder, the run, the checkpoint, or a table of predictions."""

import json

import pytest
import torch
from tiny_data import write_tiny_data
from tiny_photographs import write_classes, write_photographs

from efficientnet.imagefolder.task import ImageFolder
from efficientnet.mammography.task import Screening
from efficientnet.tasks import task_of_checkpoint, task_of_evaluation, task_of_training


@pytest.fixture
def folders(tmp_path):
    """Data folders of every kind, and run folders of both tasks."""
    write_tiny_data(tmp_path / "table", patients=2)
    write_classes(tmp_path / "table" / "train", 1)  # class folders beside a table: the table counts
    write_photographs(tmp_path / "split", 1, 1)
    write_classes(tmp_path / "whole", 1)
    (tmp_path / "empty").mkdir()
    for task in (Screening, ImageFolder):
        run = tmp_path / f"run-{task.name}"
        run.mkdir()
        (run / "config.json").write_text(json.dumps({"task": task.name}))
        torch.save({"task": task.name}, run / "best.pt")
        torch.save({"task": task.name}, run / "last.pt")
    (tmp_path / "breasts.csv").write_text("patient_id,laterality,prediction_id,cancer\n")
    (tmp_path / "images.csv").write_text("file,label,class,probability\n")
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "task"),
    [
        ((), Screening),
        (("--data", "table"), Screening),
        (("--data", "table/train.csv"), Screening),
        (("--data", "empty"), Screening),
        (("--data", "missing"), Screening),
        (("--data",), Screening),  # the parser of the command says what is wrong
        (("--data", "split"), ImageFolder),
        (("--data=split",), ImageFolder),
        (("--epochs", "3", "--data", "whole", "--image-size", "64", "32"), ImageFolder),
        (("--resume", "run-imagefolder"), ImageFolder),
        (("--resume", "run-imagefolder/last.pt"), ImageFolder),
        (("--resume", "run-screening", "--data", "split"), Screening),
        (("--resume", "auto", "--output", "run-imagefolder"), ImageFolder),
        (("--resume", "auto", "--output", "new", "--data", "split"), ImageFolder),
    ],
    ids=str,
)
def test_a_training_is_about_the_run_that_it_resumes_or_else_the_folder(folders, monkeypatch, arguments, task):
    monkeypatch.chdir(folders)
    assert task_of_training(arguments) is task


@pytest.mark.parametrize(
    ("arguments", "task"),
    [
        (("--checkpoint", "run-imagefolder"), ImageFolder),
        (("--checkpoint", "run-imagefolder/best.pt", "run-screening/best.pt"), ImageFolder),
        (("--checkpoint", "run-screening", "--data", "split"), Screening),
        (("--checkpoint", "missing.pt"), Screening),
        (("--compare", "images.csv", "run-imagefolder"), ImageFolder),
        (("--compare", "breasts.csv", "breasts.csv"), Screening),
        (("--compare", "run-imagefolder", "run-imagefolder"), ImageFolder),
        (("--weights", "lite0", "--data", "split"), ImageFolder),
        (("--help",), Screening),
    ],
    ids=str,
)
def test_an_evaluation_is_about_the_task_of_the_first_checkpoint_or_table(folders, monkeypatch, arguments, task):
    monkeypatch.chdir(folders)
    assert task_of_evaluation(arguments) is task


def test_a_damaged_configuration_or_an_old_checkpoint_does_not_confuse_it(folders):
    run = folders / "run-imagefolder"
    (run / "config.json").write_text("{")
    assert task_of_training(["--resume", str(run)]) is ImageFolder
    torch.save({"weights": {}}, run / "old.pt")  # before there were tasks
    assert task_of_checkpoint(run / "old.pt") is Screening
    (run / "best.pt").write_bytes(b"damaged")
    assert task_of_checkpoint(run / "best.pt") is Screening
