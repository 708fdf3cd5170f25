"""A run that is asked to stop saves one update that all ranks agree on, and leaves within seconds."""

import os
import signal
import subprocess
import sys

import pytest
from commands import ROOT, assert_one_line_error, run, running, running_ranks
from tiny_runs import LONG, RECIPE, assert_same_run, children, start, train, wait_for

from efficientnet.training.distributed import Process
from efficientnet.training.folder import RunFolder

ALONE = Process(0, 1, 0, 1, "cpu")
SECONDS = 30  # from the signal to the end, on a loaded machine; otherwise it is about two


def assert_stopped_and_goes_on(errors, folder, straight, ranks):
    """After the signal: it is marked, goes on, and ends as a run that was left alone."""
    assert errors.count("everything is saved, continue with --resume") == 1, errors
    assert (folder / "STOPPED").read_text().startswith("stopped by SIG")
    train(ranks, "--resume", folder, "--workers", 0)
    assert not (folder / "STOPPED").exists()
    assert_same_run(straight(ranks, LONG), folder)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGUSR1, marks=pytest.mark.nightly)])
def test_one_process_stops_with_a_code_of_its_own_and_goes_on_to_the_same_end(tiny_data, straight, tmp_path, number):
    with running("train.py", *LONG, "--workers", 1, "--data", tiny_data, "--output", tmp_path / "r") as process:
        process.wait_for("epoch 1/")
        os.killpg(process.processes[0].pid, number)  # its loader process too
        ended = process.wait(SECONDS)
    assert ended.returncode == 75 and len(ended.stderr.splitlines()) == 1
    assert_stopped_and_goes_on(ended.stderr, tmp_path / "r", straight, 0)


@pytest.mark.nightly
def test_a_signal_to_torchrun_stops_all_ranks(tiny_data, straight, tmp_path):
    signals = ("--standalone", "--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    process = start(2, *LONG, "--data", tiny_data, "--output", tmp_path / "r", elastic=signals)
    wait_for(process, "epoch 1/")
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=SECONDS)
    assert_stopped_and_goes_on(errors, tmp_path / "r", straight, 2)
    assert process.returncode == 1  # torchrun's own, whatever its ranks return


def test_a_signal_to_one_rank_stops_all_and_torchrun_does_not_start_them_again(tiny_data, straight, tmp_path):
    elastic = ("--standalone", "--max-restarts=3")
    process = start(2, *LONG, "--data", tiny_data, "--output", tmp_path / "r", elastic=elastic)
    wait_for(process, "epoch 1/")
    os.kill(children(process.pid)[1], signal.SIGTERM)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, errors
    assert_stopped_and_goes_on(errors, tmp_path / "r", straight, 2)


def test_a_worker_that_torchrun_starts_again_after_a_stop_leaves_with_0(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    RunFolder(tmp_path).mark_stopped("stopped by SIGTERM", ALONE)
    process = run("train.py", "--resume", "auto", "--output", tmp_path)
    assert process.returncode == 0 and "not started again" in process.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["STOPPED"]


def test_the_mark_of_an_earlier_start_does_not_make_a_restarted_worker_succeed(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "another")
    RunFolder(tmp_path).mark_stopped("stopped by SIGTERM", ALONE)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    process = run("train.py", "--resume", "auto", "--output", tmp_path)
    assert_one_line_error(process, 2, "no run to resume")


WAITING = """
import sys, time, types
sys.path.insert(0, sys.argv[1])
from efficientnet.training import signals
now = 0.0
signals.time = types.SimpleNamespace(monotonic=lambda: now)
with signals.StopRequest() as request:
    request.listen()
    print("ready", flush=True)
    while not request.signal:
        time.sleep(0.01)
    now += float(sys.argv[2])
    print("asked", flush=True)
    sys.stdin.readline()
    print("saved", flush=True)
"""


@pytest.mark.parametrize(
    ("launcher", "pause", "output"),
    [({"RANK": "0"}, 1.5, "saved\n"), ({"SLURM_JOB_ID": "7"}, 1.5, "saved\n"), ({"RANK": "0"}, 2.5, ""), ({}, 0.3, "")],
)
def test_a_second_signal_leaves_at_once_but_a_launchers_echo_of_the_first_does_not(launcher, pause, output):
    environment = {name: os.environ[name] for name in os.environ if name != "RANK" and not name.startswith("SLURM")}
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(ROOT), str(pause)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment | launcher,
    )
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)  # which comes before the line that is written next
    assert process.communicate("\n", timeout=60)[0] == output
    assert process.returncode == (0 if output else 130)


def test_an_output_folder_that_exists_is_refused_and_left_as_it_is(tiny_data, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    process = run("train.py", *RECIPE, "--data", tiny_data, "--output", tmp_path / "mine")
    assert_one_line_error(process, 2, "mine", "already contains", "no run to resume")
    assert os.listdir(tmp_path / "mine") == ["notes.txt"]


def test_a_second_run_in_the_folder_of_a_living_one_is_refused_and_harms_nothing(tiny_data, tmp_path):
    arguments = ("--data", tiny_data, "--output", tmp_path / "r", "--resume", "auto", "--workers", 0)
    with running_ranks(1, "train.py", *RECIPE, "--epochs", 200, *arguments) as first:
        first.wait_for("epoch 1/")
        pid = first.processes[0].pid
        assert_one_line_error(run("train.py", *arguments), 1, "in use by another run", str(pid))
    with running_ranks(1, "train.py", *arguments) as second:
        second.wait_for("resumed after epoch")
        second.wait_for("epoch ")
