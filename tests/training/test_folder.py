"""The run folder: one run at a time in it, and the mark of a run that was asked to stop."""

import json
import multiprocessing
import os
import signal
import time

import pytest

from efficientnet.common.errors import UserError
from efficientnet.common.files import CheckpointError, atomic_file
from efficientnet.training import folder as run
from efficientnet.training.folder import (
    is_stopped,
    launch_name,
    lock,
    mark_stopped,
    own_folder,
    remove_leftovers,
)
from efficientnet.training.plan import make_parser, make_plan


def hold(folder, ready, child):
    with lock(folder):
        if child and os.fork() == 0:  # as a loader process, which outlives a killed rank for seconds
            time.sleep(5)
            os._exit(0)
        ready.set()
        time.sleep(60)


@pytest.mark.parametrize("child", [False, True])
def test_a_second_run_in_a_folder_is_refused_until_the_first_is_dead(tmp_path, child):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    first = context.Process(target=hold, args=(tmp_path, ready, child))
    first.start()
    assert ready.wait(10)
    with pytest.raises(UserError, match=f"process {first.pid} on "), lock(tmp_path):
        pass
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    for _ in range(2):  # it is let go at the end
        with lock(tmp_path):
            pass


def test_a_run_that_is_just_ending_is_waited_for(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    first = context.Process(target=hold, args=(tmp_path, ready, False))
    first.start()
    assert ready.wait(10)
    monkeypatch.setattr(time, "sleep", lambda seconds: os.kill(first.pid, signal.SIGKILL))
    with lock(tmp_path):
        first.join()
    assert first.exitcode == -signal.SIGKILL


def test_what_a_killed_run_left_half_written_goes_and_nothing_else(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with atomic_file(tmp_path / "last.pt"):
        half = next(path.name for path in tmp_path.glob(".last.pt.*"))
    for name in (half, "checkpoints/.update-00000001.pt.abc.unfinished", "checkpoints/.last.pt.unfinished"):
        (tmp_path / name).write_bytes(b"half")
    kept = {".lock", ".launch", ".gitlab-ci.yml", ".env.local", "last.pt", "checkpoints/update-00000001.pt"}
    for name in kept:
        (tmp_path / name).write_bytes(b"whole")
    remove_leftovers(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == kept


def test_only_a_restart_of_the_same_start_calls_a_folder_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    run.mark_launch(tmp_path)
    assert own_folder(tmp_path) is None  # a first start
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert own_folder(tmp_path) == tmp_path
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "other")
    assert own_folder(tmp_path) is None


def planned(folder, *arguments):
    return make_plan(make_parser("").parse_args(["--variant", "b0", "--output", str(folder), *arguments]))


@pytest.mark.parametrize("resume", [(), ("--resume", "auto")])
@pytest.mark.parametrize(
    "content",
    [
        {".gitlab-ci.yml": "stages:"},
        {"notes.txt": "mine"},
        {"config.json": '{"model_type": "bert"}'},
        {"config.json": "no json"},
        {".lock": "", "last.txt": "mine"},
    ],
)
def test_a_folder_that_no_run_of_ours_began_is_refused(tmp_path, content, resume):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="--resume"):
        planned(tmp_path, *resume)


@pytest.mark.parametrize("content", [(), (".lock",), (".lock", ".launch", ".config.json.a8_x.unfinished")])
def test_a_run_may_begin_where_one_was_killed_before_it_began(tmp_path, content):
    for name in content:
        (tmp_path / name).touch()
    assert planned(tmp_path).output == planned(tmp_path, "--resume", "auto").output == tmp_path


def test_a_run_killed_before_its_first_save_is_begun_anew_as_the_messages_say(tmp_path):
    plan = planned(tmp_path / "r")
    (tmp_path / "r" / "checkpoints").mkdir(parents=True)
    (tmp_path / "r" / "config.json").write_text(json.dumps(plan.to_dict()))
    advice = f"--resume auto --output {tmp_path / 'r'}"
    with pytest.raises(ValueError, match=advice):
        planned(tmp_path / "r")
    with pytest.raises(CheckpointError, match=advice):
        make_plan(make_parser("").parse_args(["--resume", str(tmp_path / "r")]))
    assert planned(tmp_path / "r", "--resume", "auto").checkpoint is None


def test_the_mark_of_a_stop_is_for_the_workers_of_the_same_start_on_any_machine(tmp_path, monkeypatch):
    assert not is_stopped(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    mine = launch_name()
    mark_stopped(tmp_path, "stopped by SIGTERM", ["job other-machine 7 1", mine, mine, None])
    assert is_stopped(tmp_path)
    monkeypatch.setattr(os, "getppid", lambda: 1)  # another agent of the same job
    assert launch_name() != mine and not is_stopped(tmp_path)
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert not is_stopped(tmp_path)
