"""When a run saves, and that no kill and no full disk costs a file that was there."""

import argparse
import errno
import os
import random
import signal
import time

import numpy as np
import pytest
import torch

from efficientnet.training.checkpoint import (
    CheckpointError,
    load_checkpoint,
    load_newest,
    numbered_checkpoints,
    serialise,
    write_checkpoint,
    write_numbered,
)
from efficientnet.training.store import CheckpointStore, Interval, interval


def state(number):
    return {"weights": {"w": torch.from_numpy(np.full(50_000, number, np.float32))}, "number": number}


def content(number):
    return serialise(state(number))


def test_an_interval_is_a_time_or_a_number_of_updates():
    assert interval("90s") == Interval(seconds=90)
    assert interval("10m") == Interval(seconds=600) and interval("2h") == Interval(seconds=7200)
    assert interval("500") == Interval(updates=500)
    for text in ("0", "0m", "-5", "1.5h", "ten", "", "5d", "10 m"):
        with pytest.raises(argparse.ArgumentTypeError, match="10m"):
            interval(text)


def test_a_save_is_due_after_the_updates_or_the_time(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path, Interval(updates=5), keep=1)
    assert [number for number in range(1, 16) if store.due(number)] == [5, 10, 15]
    now = time.monotonic()
    store = CheckpointStore(tmp_path, Interval(seconds=60), keep=1)
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    assert store.due(1)
    store.save(1, state(1))
    assert not store.due(2)
    store.wait()


def test_the_newest_few_stay_and_last_is_one_of_them(tmp_path):
    for number in (9, 10, 11, 100):
        write_numbered(tmp_path, number, content(number), keep=2)
    assert [path.name for path in numbered_checkpoints(tmp_path)] == ["update-00000100.pt", "update-00000011.pt"]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 4  # each with its checksum, and nothing else
    assert load_checkpoint(tmp_path / "last.pt")["number"] == 100
    assert (tmp_path / "last.pt").samefile(numbered_checkpoints(tmp_path)[0])


def test_checkpoints_after_the_one_that_a_run_went_back_to_are_no_longer_its_own(tmp_path):
    for number in (10, 20, 30):
        write_numbered(tmp_path, number, content(number), keep=3)
    write_numbered(tmp_path, 11, content(11), keep=2)
    assert [path.name for path in numbered_checkpoints(tmp_path)] == ["update-00000011.pt", "update-00000010.pt"]


def test_a_network_disk_that_does_not_list_the_new_file_yet_loses_no_checkpoint(tmp_path, monkeypatch):
    write_numbered(tmp_path, 1, content(1), keep=2)
    listed = numbered_checkpoints(tmp_path)
    monkeypatch.setattr("efficientnet.training.checkpoint.numbered_checkpoints", lambda folder: listed)
    write_numbered(tmp_path, 2, content(2), keep=2)
    names = ["update-00000002.pt", "update-00000001.pt"]
    assert [path.name for path in numbered_checkpoints(tmp_path)] == names
    assert load_checkpoint(tmp_path / "last.pt")["number"] == 2


def test_without_hard_links_last_is_a_copy(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    write_numbered(tmp_path, 5, content(5), keep=2)
    assert load_checkpoint(tmp_path / "last.pt")["number"] == 5
    assert not (tmp_path / "last.pt").samefile(numbered_checkpoints(tmp_path)[0])


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "garbage", "gone"])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_it_used(tmp_path, damage):
    for number in (10, 20):
        write_numbered(tmp_path, number, content(number), keep=3)
    last = tmp_path / "last.pt"
    data = last.read_bytes()
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]  # torch.load would not notice
    if damage == "gone":
        last.unlink()
    else:
        last.write_bytes({"cut": data[:middle], "bit": flipped, "empty": b"", "garbage": b"x" * 99}[damage])
    path, loaded, damaged = load_newest(tmp_path)
    if damage == "gone":
        assert loaded["number"] == 20 and not damaged
    else:
        assert (path.name, loaded["number"]) == ("update-00000010.pt", 10)
        assert len(damaged) == 1 and str(last) in damaged[0] and "damaged" in damaged[0]


def test_nothing_whole_and_nothing_at_all_are_told_apart(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        load_newest(tmp_path)
    write_numbered(tmp_path, 1, content(1), keep=1)
    (tmp_path / "last.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no other checkpoint"):
        load_newest(tmp_path)


def test_a_file_without_a_checksum_is_read_and_one_with_another_files_is_not(tmp_path):
    path = tmp_path / "best.pt"
    write_checkpoint(path, content(1))
    path.with_name("best.pt.sha256").unlink()
    assert load_checkpoint(path)["number"] == 1
    path.with_name("best.pt.sha256").write_text(f"{'0' * 64}  best.pt\n")
    with pytest.raises(CheckpointError, match=r"best\.pt: damaged"):
        load_checkpoint(path)


def test_a_full_disk_is_a_warning_keeps_the_old_files_and_is_tried_again(tmp_path, monkeypatch, capsys):
    store = CheckpointStore(tmp_path, Interval(updates=1), keep=2)
    store.save(1, state(1), {"metrics.jsonl": b"one\n"}, best=True)
    store.wait()

    def full(_handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        store.save(2, state(2), {"metrics.jsonl": b"one\ntwo\n"}, best=True)
        store.wait()
    assert store.error.errno == errno.ENOSPC
    errors = capsys.readouterr().err
    assert errors.count("train.py: warning") == 3 and "No space left on device" in errors
    assert load_checkpoint(tmp_path / "best.pt")["number"] == 1
    assert (tmp_path / "best.pt.sha256").exists() and (tmp_path / "last.pt.sha256").exists()
    assert load_newest(tmp_path)[1]["number"] == 1
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"one\n"
    assert not list(tmp_path.glob(".*")) and not list(tmp_path.glob("checkpoints/.*"))

    store.save(3, state(3))
    store.wait()
    assert store.error is None
    assert load_checkpoint(tmp_path / "best.pt")["number"] == 2  # of the failed save, which had nothing newer
    assert load_newest(tmp_path)[1]["number"] == 3
    assert (tmp_path / "metrics.jsonl").read_bytes() == b"one\ntwo\n"


def test_an_unexpected_error_in_the_thread_reaches_the_run(tmp_path, monkeypatch):
    def mistaken(*_):
        raise ValueError("a mistake")

    monkeypatch.setattr("efficientnet.training.store.write_numbered", mistaken)
    store = CheckpointStore(tmp_path, Interval(updates=1), keep=2)
    store.save(1, state(1))
    for proceed in (store.wait, lambda: store.save(2, state(2)), lambda: store.close("the run is finished")):
        with pytest.raises(ValueError, match="a mistake"):
            proceed()


def test_what_was_serialised_does_not_follow_the_weights(tmp_path):
    weights = torch.zeros(1000)
    store = CheckpointStore(tmp_path, Interval(updates=1), keep=1)
    store.save(1, {"weights": weights}, say="saved")
    weights.fill_(1.0)
    store.wait()
    assert load_newest(tmp_path)[1]["weights"].sum() == 0


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.nightly)])
def test_a_kill_at_any_instant_of_a_save_leaves_a_whole_newest_checkpoint(tmp_path, kills):
    """Kills of a process that does nothing but save, each named in a message if anything is damaged after it."""
    generator = random.Random(0)
    write_numbered(tmp_path, 1, content(1), keep=2)
    number = 1
    for kill in range(kills):
        child = os.fork()
        if child == 0:
            while True:
                number += 1
                write_numbered(tmp_path, number, content(number), keep=2)
        time.sleep(generator.uniform(0, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        _, loaded, damaged = load_newest(tmp_path)
        assert not damaged, f"kill {kill}: {damaged}"
        assert loaded["number"] >= number
        assert (loaded["weights"]["w"] == loaded["number"]).all()
        number = loaded["number"]
    assert number > kills / 4  # the kills did not all come before the first save
