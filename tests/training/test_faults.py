"""Runs that are killed, hang, or are fed what they cannot use; and what they are worth afterwards."""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time

import pytest
import torch
from commands import assert_one_line_error, python, run, running, running_ranks
from tiny_runs import ALWAYS, LONG, RECIPE, assert_same_run, children, kill, start, train, wait_for
from torch.utils.data import DataLoader

from efficientnet.common.errors import UserError
from efficientnet.training.checkpoint import load_newest
from efficientnet.training.failures import explain_failure, explained_failures, killed_loaders_told_once
from efficientnet.training.loaders import loader_options


def kill_repeatedly(folder, data, kills, generator):
    """Starts a run on two ranks and kills it, again and again, until one and the same run was killed so often.

    A kill hits everything at once, as a power cut does, or one rank alone; at a random moment, or within a save.  A run
    that came to its end before makes way for a new chain.
    """
    count = 0
    while count < kills:
        arguments = (*LONG, *ALWAYS, "--data", data, "--output", folder, "--resume", "auto", "--workers", 1)
        with running_ranks(2, "train.py", *arguments) as run_of_two:
            run_of_two.wait_for("output")
            time.sleep(generator.uniform(0, 1))
            if generator.random() < 0.5:
                deadline = time.monotonic() + 5
                while not list(folder.glob("checkpoints/.update-*")) and time.monotonic() < deadline:
                    time.sleep(0.001)
            first, second = (process.pid for process in run_of_two.processes)
            kill(*generator.choice([[first, second], [first], [second]]))
            ended = run_of_two.wait(timeout=90)
        if ended.returncode:
            count += 1
        else:
            shutil.rmtree(folder)
            count = 0


# 16 chains of 4 kills; of them one of 3 in the default run.
@pytest.mark.parametrize(
    ("seed", "kills"), [(0, 3), *(pytest.param(seed, 4, marks=pytest.mark.nightly) for seed in range(16))]
)
def test_a_run_killed_again_and_again_ends_as_an_undisturbed_one(tiny_data, straight, tmp_path, seed, kills):
    kill_repeatedly(tmp_path / "r", tiny_data, kills, random.Random(seed))
    train(2, *LONG, "--data", tiny_data, "--output", tmp_path / "r", "--resume", "auto", "--workers", 0)
    assert_same_run(straight(2, LONG), tmp_path / "r")


def test_a_full_disk_leaves_the_run_going_and_the_older_checkpoint_whole(tiny_data, straight, tmp_path):
    """The disk is a limit on the size of a file, which is lifted after the run has met it."""
    arguments = (*LONG, *ALWAYS, "--data", tiny_data, "--output", tmp_path / "r", "--workers", 0)
    with running("train.py", *arguments) as process:
        process.wait_for("output")
        while not (tmp_path / "r" / "last.pt").exists():
            time.sleep(0.001)
        pid = process.processes[0].pid
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY))
        process.wait_for("\n", "err")
        warning = process.printed("err").splitlines()[0]
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert "warning" in warning and "last.pt" in warning and "File too large" in warning
        load_newest(tmp_path / "r")
        ended = process.wait(timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert_same_run(straight(0, LONG), tmp_path / "r")


def test_a_rank_that_dies_makes_the_other_leave_with_one_message(tiny_data, tmp_path):
    arguments = ("--data", tiny_data, "--output", tmp_path / "r", "--workers", 0)
    with running_ranks(2, "train.py", *RECIPE, "--epochs", 200, *arguments) as run_of_two:
        run_of_two.wait_for("epoch 1/")
        first, second = run_of_two.processes
        second.kill()
        first.join(timeout=30)
        errors = run_of_two.printed("err")
    assert first.exitcode == 1
    assert errors.count("train.py: ") == 1 and "train.py: error: lost another rank" in errors


@pytest.mark.nightly
def test_torchrun_says_which_rank_died_and_why(tiny_data, tmp_path):
    process = start(2, *RECIPE, "--epochs", 200, "--data", tiny_data, "--output", tmp_path / "r")
    wait_for(process, "epoch 1/")
    kill(children(process.pid)[1])
    started = time.monotonic()
    _, errors = process.communicate(timeout=90)
    assert process.returncode == 1 and time.monotonic() - started < 20
    assert errors.count("train.py: ") == 1 and "train.py: error: lost another rank" in errors
    assert "Signal 9 (SIGKILL)" in errors  # torchrun's part: which it was, and why


def test_a_rank_that_hangs_is_given_up_after_the_timeout(tiny_data, tmp_path):
    arguments = ("--data", tiny_data, "--output", tmp_path / "r", "--workers", 0)
    with running_ranks(2, "train.py", *RECIPE, "--epochs", 200, "--timeout", 0.05, *arguments) as run_of_two:
        run_of_two.wait_for("epoch 1/")
        os.kill(run_of_two.processes[1].pid, signal.SIGSTOP)
        ended = run_of_two.wait(timeout=60)
    assert ended.returncode == 1
    (line,) = (line for line in ended.stderr.splitlines() if line.startswith("train.py: "))
    assert "lost another rank" in line and "0.05 minutes of --timeout" in line


def test_a_loader_process_killed_for_memory_is_reported_as_that(tiny_data, tmp_path):
    arguments = (*RECIPE, "--epochs", 200, "--data", tiny_data, "--output", tmp_path / "r", "--workers", 1)
    with running("train.py", *arguments) as process:
        process.wait_for("epoch 1/")
        kill(children(process.processes[0].pid)[0])
        ended = process.wait(timeout=60)
    assert_one_line_error(ended, 1, "running out of memory", "--workers")


@pytest.mark.parametrize("message", ["DataLoader worker (pid 7) is killed by signal: Killed. ", "another mistake"])
def test_a_killed_loader_is_told_once_though_it_comes_up_in_a_cleanup(message, capsys, monkeypatch):
    class Loader:
        def __del__(self):
            raise RuntimeError(message)

    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
    with killed_loaders_told_once():
        Loader()
    assert ("Traceback" in capsys.readouterr().err) == (message == "another mistake")
    assert sys.unraisablehook is sys.__unraisablehook__


def test_failures_of_the_machinery_are_told_and_mistakes_of_ours_are_not_hidden():
    lost = "[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:3"
    assert "lost another rank" in explain_failure(RuntimeError(lost), 30)
    bus = "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ..."
    assert "/dev/shm" in explain_failure(RuntimeError(bus), 30)
    assert "running out of memory" in explain_failure(
        RuntimeError("DataLoader worker (pid(s) 5, 6) exited unexpectedly"), 30
    )
    assert "Segmentation fault" in explain_failure(
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Segmentation fault. "), 30
    )
    assert "out of memory" in explain_failure(MemoryError(), 30)
    assert explain_failure(RuntimeError("The size of tensor a (3) must match"), 30) is None


class Unsendable:
    """A batch that cannot be handed over, since it cannot be pickled."""

    def __init__(self, text):
        self.text = text

    def __reduce__(self):
        raise RuntimeError(self.text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)", "/dev/shm"),
        ("unable to write to file </torch_722_783672312_1>: No space left on device (28)", "/dev/shm"),
        ("unable to resize file </torch_22438_38> to the right size: Invalid argument (22)", "/dev/shm"),
        ("unable to open shared memory object </torch_2_1> in read-write mode: Too many open files (24)", "ulimit -n"),
        ("received 0 items of ancdata", "ulimit -n"),
        ("another mistake", None),
    ],
)
def test_a_batch_that_cannot_be_handed_over_is_an_error_of_the_run(text, words):
    options = {**loader_options(1, torch.device("cpu")), "collate_fn": lambda items: Unsendable(items[0])}
    error, message = (UserError, words) if words else (RuntimeError, text)
    with pytest.raises(error, match=message), explained_failures():
        next(iter(DataLoader([text], **options)))


def test_too_little_shared_memory_is_told_in_one_line():
    """The system refuses shared memory of more than the limit on the size of a file."""
    loader = DataLoader(
        torch.zeros(2, 50_000), 2, **{**loader_options(1, torch.device("cpu")), "collate_fn": torch.stack}
    )
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(UserError, match=r"ran out of shared memory.*--workers.*/dev/shm"), explained_failures():
            next(iter(loader))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


FAILED_RUN = """
import sys, torch
from torch.utils.data import DataLoader
from efficientnet.training.failures import explained_failures
from efficientnet.training.loaders import loader_options

class Bad(list):
    def __getitem__(self, index):
        raise ValueError("a mistake")

batches = iter(DataLoader(Bad([1]), **loader_options(1, torch.device("cpu"))))
try:
    with explained_failures():
        next(batches)
except ValueError as error:
    sys.last_value = error  # as an interpreter keeps it, with all that its traceback refers to
    sys.exit(3)
"""


def test_loaders_that_a_failure_has_left_do_not_keep_the_process_from_ending():
    assert python("-c", FAILED_RUN, timeout=60).returncode == 3


def test_loading_may_have_all_files_that_the_system_permits():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        loader_options(0, torch.device("cpu"))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_too_few_open_files_for_the_loader_processes_are_told_before_they_start(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (100, 100))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: None)
    loader_options(0, torch.device("cpu"))
    with pytest.raises(UserError, match=r"128 open files but the limit is 100: .*--workers.*ulimit -n"):
        loader_options(4, torch.device("cpu"))


@pytest.mark.parametrize("timeout", [None, 30])
def test_only_a_run_of_several_ranks_can_lose_one(timeout):
    explained = explain_failure(RuntimeError("a decoder: broken pipe"), timeout)
    assert (explained is None) == (timeout is None)
    assert explain_failure(TimeoutError(110, "Connection timed out", "/mnt/x.dcm"), timeout) is None  # a network disk


def test_too_many_broken_updates_in_a_row_stop_the_run_with_their_images(tiny_data, tmp_path):
    process = run(
        *("train.py", *RECIPE, "--data", tiny_data, "--output", tmp_path / "r", "--clip", 0, "--accumulate", 1),
        *("--batch-size", 1, "--image-size", 64, "--learning-rate", 1e30, "--warmup-epochs", 0),
        *("--mixup", 0, "--cutmix", 0),
    )
    assert_one_line_error(process, 1, "20 consecutive updates", "non-finite", "--learning-rate", "not_finite.json")
    suspects = json.loads((tmp_path / "r" / "not_finite.json").read_text())
    assert len(suspects) == 20 and all(len(images) == 1 and images[0].isdigit() for images in suspects)


def test_broken_images_are_replaced_by_the_same_others_and_listed_in_full(tiny_data, tmp_path):
    copy = shutil.copytree(tiny_data, tmp_path / "data")
    broken = sorted((copy / "train_images").rglob("*.png"))[::5]
    for file in broken:
        file.write_bytes(file.read_bytes()[:50])
    for name, workers in (("a", 0), ("b", 2)):
        process = train(0, *RECIPE, "--data", copy, "--output", tmp_path / name, "--workers", workers)
        listed = (tmp_path / name / "unreadable.txt").read_text()
        assert all(file.name in listed for file in broken) and len(listed.splitlines()) == len(broken)
        assert f"{len(broken)} images could not be read" in process.stdout
    assert_same_run(tmp_path / "a", tmp_path / "b")


# In a process of its own, since it changes the signal handlers and `time.sleep` of all that runs in the process.
BROKEN_CONNECTION = """
import signal, subprocess, time
import pytest
from efficientnet.training.failures import killed_loaders_told_once

def as_pytorch_does(number, frame):
    raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")

def end_a_process(*_):
    assert subprocess.run("true").returncode == 0

time.sleep = end_a_process
signal.signal(signal.SIGCHLD, as_pytorch_does)
with pytest.raises(RuntimeError, match="is killed by signal"), killed_loaders_told_once():
    raise ConnectionResetError
signal.signal(signal.SIGCHLD, as_pytorch_does)
with pytest.raises(RuntimeError, match="another mistake"), killed_loaders_told_once():
    raise RuntimeError("another mistake")
end_a_process()  # it raises nothing any more
"""


def test_a_connection_that_breaks_with_a_killed_loader_is_reported_as_the_killed_loader():
    process = python("-c", BROKEN_CONNECTION)
    assert process.returncode == 0, process.stderr
