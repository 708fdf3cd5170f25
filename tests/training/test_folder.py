"""The run folder: one run at a time in it, and the mark of a run that was asked to stop."""

import errno
import json
import multiprocessing
import os
import signal
import time

import pytest

from efficientnet.common.errors import UserError
from efficientnet.common.files import CheckpointError, atomic_file, remove_unfinished
from efficientnet.mammography.task import Screening
from efficientnet.training.distributed import Process
from efficientnet.training.folder import RunFolder, launch_name
from efficientnet.training.plan import make_parser, make_plan


def hold(folder, ready, child):
    with RunFolder(folder).lock():
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
    with pytest.raises(UserError, match=f"process {first.pid} on "), RunFolder(tmp_path).lock():
        pass
    os.kill(first.pid, signal.SIGKILL)
    first.join()
    for _ in range(2):  # it is let go at the end
        with RunFolder(tmp_path).lock():
            pass


def test_a_run_that_is_just_ending_is_waited_for(tmp_path, monkeypatch):
    context = multiprocessing.get_context("fork")
    ready = context.Event()
    first = context.Process(target=hold, args=(tmp_path, ready, False))
    first.start()
    assert ready.wait(10)
    monkeypatch.setattr(time, "sleep", lambda seconds: os.kill(first.pid, signal.SIGKILL))
    with RunFolder(tmp_path).lock():
        first.join()
    assert first.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_locks_is_a_warning(tmp_path, number, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.lockf", refuse)
    with RunFolder(tmp_path).lock():
        (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("train.py: warning: file locks are not available here; do not start a second run in ")
    assert str(tmp_path) in line and os.strerror(number) in line


def test_what_a_killed_run_left_half_written_goes_and_nothing_else(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with atomic_file(tmp_path / "last.pt"):
        half = next(path.name for path in tmp_path.glob(".last.pt.*"))
    for name in (half, "checkpoints/.update-00000001.pt.abc.unfinished", "checkpoints/.last.pt.unfinished"):
        (tmp_path / name).write_bytes(b"half")
    kept = {".lock", ".launch", ".gitlab-ci.yml", ".env.local", "last.pt", "checkpoints/update-00000001.pt"}
    for name in kept:
        (tmp_path / name).write_bytes(b"whole")
    remove_unfinished(tmp_path, seconds=0)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == kept


def test_only_a_restart_of_the_same_start_calls_a_folder_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    RunFolder(tmp_path).mark_launch()
    assert RunFolder.of_this_launch(tmp_path) is None  # a first start
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert RunFolder.of_this_launch(tmp_path).path == tmp_path
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "other")
    assert RunFolder.of_this_launch(tmp_path) is None


def planned(folder, *arguments):
    return make_plan(
        make_parser("", Screening).parse_args(["--variant", "b0", "--output", str(folder), *arguments]), Screening
    )


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
    with pytest.raises(ValueError, match="--output") as caught:
        planned(tmp_path, *resume)
    assert f"already contains {max(content)} but no run to resume" in str(caught.value)  # names what is in the way


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
        make_plan(make_parser("", Screening).parse_args(["--resume", str(tmp_path / "r")]), Screening)
    assert planned(tmp_path / "r", "--resume", "auto").checkpoint is None


class Ranks(Process):
    """Rank 0 of several whose launches are known."""

    def gather(self, value):
        return ["job other-machine 7 1", value, value, None]


def test_the_mark_of_a_stop_is_for_the_workers_of_the_same_start_on_any_machine(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path)
    assert not folder.is_stopped
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    mine = launch_name()
    folder.mark_stopped("stopped by SIGTERM", Ranks(0, 4, 0, 4, "cpu"))
    assert folder.is_stopped
    monkeypatch.setattr(os, "getppid", lambda: 1)  # another agent of the same job
    assert launch_name() != mine and not folder.is_stopped
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    assert not folder.is_stopped
