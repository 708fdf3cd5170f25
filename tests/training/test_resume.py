"""A run that was stopped after any update ends as if it had not been: to the bit, on 1, 2 and 3 ranks."""

import csv
import json
import os
import random
import shutil

import numpy as np
import pytest
import torch
from commands import assert_one_line_error, run
from tiny_runs import assert_same_run, metrics, stopped_at, train

from efficientnet.mammography.augment import augment_draw
from efficientnet.mammography.dataset import MammogramDataset
from efficientnet.mammography.image_files import find_images
from efficientnet.mammography.preprocessing import Preprocessing
from efficientnet.mammography.table import read_table
from efficientnet.training.progress import Progress
from efficientnet.training.sampler import BalancedSampler, Draw


# A stop after the last update of an epoch (9, 4, 3) is one before its validation.
@pytest.mark.parametrize(
    ("ranks", "stops", "workers"),
    [
        (0, (14,), (2,)),
        (2, (5,), (1,)),
        pytest.param(0, range(1, 27), (0, 2), marks=pytest.mark.nightly),
        pytest.param(1, (1, 8, 10, 26), (0, 2), marks=pytest.mark.nightly),
        pytest.param(2, range(1, 12), (2, 0), marks=pytest.mark.nightly),
        pytest.param(3, range(1, 9), (2, 0), marks=pytest.mark.nightly),
    ],
)
def test_a_run_resumed_after_any_update_ends_as_if_undisturbed(straight, tmp_path, ranks, stops, workers):
    for place, number in enumerate(stops):
        folder = stopped_at(straight(ranks), number, tmp_path / f"after-{number}")
        process = train(ranks, "--resume", folder, "--workers", workers[place % len(workers)])
        assert "resumed after epoch" in process.stdout
        assert_same_run(straight(ranks), folder)


def test_the_numbers_of_an_update_depend_on_where_it_is_and_on_nothing_else():
    def drawn(seed, epoch, position, rank):
        Progress(epoch=epoch, position=position).seed_update(seed, rank)
        return (torch.rand(1).item(), random.random(), np.random.rand())

    first = drawn(0, 1, 2, 3)
    torch.rand(7), random.random(), np.random.rand(5)
    assert drawn(0, 1, 2, 3) == first
    others = [
        drawn(*where)
        for where in ((1, 1, 2, 3), (0, 0, 2, 3), (0, 1, 0, 3), (0, 1, 2, 0), (2**31, 10**6, 10**6, 10**4))
    ]
    assert len({first, *others}) == 6


def test_reading_and_augmenting_draw_from_no_generator_that_a_checkpoint_would_have_to_keep(tiny_data):
    table = read_table(tiny_data / "train.csv", ("cancer", "biopsy"))
    dataset = MammogramDataset(
        table,
        find_images(table, tiny_data),
        Preprocessing((32, 32)),
        lambda picture, draw: augment_draw(picture, draw, seed=0, strength=1.0),
        replace_broken=True,
    )

    def states():
        return random.getstate(), np.random.get_state()[1].tobytes(), torch.get_rng_state().numpy().tobytes()

    before = states()
    first = dataset[Draw(3, 1, 17)][0]
    assert states() == before
    assert torch.equal(dataset[Draw(3, 1, 17)][0], first)
    assert not torch.equal(dataset[Draw(3, 2, 17)][0], first) and not torch.equal(dataset[Draw(3, 1, 18)][0], first)


def test_a_sampler_that_starts_later_gives_the_rest_of_the_same_epoch():
    whole = BalancedSampler([True] * 10 + [False] * 90, 0.25, 2, 2, rank=1, world_size=2, seed=3)
    late = BalancedSampler([True] * 10 + [False] * 90, 0.25, 2, 2, rank=1, world_size=2, seed=3)
    whole.epoch = late.epoch = 4
    late.start = 5
    assert list(late) == list(whole)[10:] and len(late) == len(whole) - 10 == len(list(late))
    late.start = late.updates
    assert list(late) == [] and len(late) == 0


def test_another_number_of_ranks_goes_on_with_the_same_images_an_update(straight, tmp_path):
    folder = stopped_at(straight(2), 5, tmp_path / "r")
    assert_one_line_error(run("train.py", "--resume", folder), 1, "8 images per update", "1 ranks", "--accumulate")
    train(0, "--resume", folder, "--accumulate", 4, "--workers", 0)
    # Batch norm sees the same parts of a batch, but its running statistics are those of other parts.
    for mine, theirs in zip(metrics(folder), metrics(straight(2)), strict=True):
        assert mine["step"] == theirs["step"]
        assert mine["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.2)
    assert metrics(folder)[0] == metrics(straight(2))[0]


def test_data_with_other_targets_are_refused_before_they_are_trained_on(straight, tiny_data, tmp_path):
    folder = stopped_at(straight(0), 3, tmp_path / "r")
    data = shutil.copytree(tiny_data, tmp_path / "data")
    (data / "train.csv").write_text((data / "train.csv").read_text().replace("biopsy", "other", 1))
    process = run("train.py", "--resume", folder, "--data", data)
    assert_one_line_error(process, 1, "no column 'biopsy'", "cancer, other")


def test_a_run_keeps_its_split_when_labels_are_corrected_and_patients_come_and_go(straight, tiny_data, tmp_path):
    folder = stopped_at(straight(0), 9, tmp_path / "r")
    before = torch.load(folder / "last.pt", weights_only=True)["split"]
    trained = set(before["fold_of"]) - {patient for patient, fold in before["fold_of"].items() if fold == 0}
    data = shutil.copytree(tiny_data, tmp_path / "data")
    # A fold dealt anew by these labels would hold out patients that were trained on.
    lines = (data / "train.csv").read_text().splitlines()
    lines = [lines[0]] + [line[:-3] + ("1,1" if line[:3] in ("101", "107") else "0,0") for line in lines[1:]]
    lines = [line.replace("100,", "new,", 1) if line.startswith("100,") else line for line in lines]
    (data / "train.csv").write_text("\n".join(lines) + "\n")
    process = train(0, "--resume", folder, "--data", data, "--workers", 0)
    assert "train.csv has changed since the run began; patients: 1 new (ignored" in process.stdout
    assert "1 missing" in process.stdout and "with a changed label" in process.stdout
    after = torch.load(folder / "last.pt", weights_only=True)
    assert after["split"] == before and set(after["training_patients"]) == trained  # also who has left


def test_images_that_are_gone_are_counted_when_a_run_is_resumed(straight, tiny_data, tmp_path):
    folder = stopped_at(straight(0), 9, tmp_path / "r")
    data = shutil.copytree(tiny_data, tmp_path / "data")
    held_out = next(csv.DictReader((straight(0) / "predictions.csv").open()))["patient_id"]
    shutil.rmtree(data / "train_images" / held_out)
    process = train(0, "--resume", folder, "--data", data, "--workers", 0)
    assert "began with 36 training and 12 validation images, but now finds 36 and 8" in process.stdout
    assert "4 rows of the table have no image file" in process.stdout


def test_more_epochs_go_on_along_the_longer_schedule_and_fewer_than_finished_are_refused(straight, tmp_path):
    folder = stopped_at(straight(0), 27, tmp_path / "r")  # finished
    process = train(0, "--resume", folder, "--epochs", 4, "--workers", 0)
    assert "schedule    for 4 epochs instead of 3: the learning rate is now 4.57e-05" in process.stdout
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert json.loads((folder / "config.json").read_text())["recipe"]["epochs"] == 4
    again = run("train.py", "--resume", folder, "--epochs", 3)
    assert_one_line_error(again, 2, "--epochs 3", "already finished 4 epochs")
    assert metrics(folder)[:3] == metrics(straight(0))


def test_what_is_no_run_is_not_resumed_and_nothing_is_written_there(straight, tmp_path):
    assert_one_line_error(run("train.py", "--resume", straight(0).parent), 1, "not a run folder")
    assert_one_line_error(run("train.py", "--resume", ""), 1, "not a run folder")
    download = shutil.copy(straight(0) / "last.pt", tmp_path)
    assert_one_line_error(run("train.py", "--resume", download), 1, "not in a run folder", "--weights")
    assert os.listdir(tmp_path) == ["last.pt"]


def test_a_damaged_newest_checkpoint_costs_the_updates_since_the_one_before_and_nothing_else(straight, tmp_path):
    folder = stopped_at(straight(0), 3, tmp_path / "r")
    train(0, "--resume", folder, "--workers", 0, "--checkpoint-every", 5)  # leaves those after updates 18, 25 and 27
    last = folder / "last.pt"
    last.write_bytes(last.read_bytes()[:-1000])
    process = train(0, "--resume", folder, "--workers", 0)
    assert process.stderr.count("\n") == 1 and "last.pt: damaged" in process.stderr
    assert "update-00000025.pt" in process.stderr
    assert_same_run(straight(0), folder)
