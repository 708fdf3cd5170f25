"""Ranks: what they share, and which starts are refused."""

import copy
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from commands import python, rank_environment, ranks, rendezvous
from tiny_runs import RECIPE

from efficientnet.common.errors import UserError
from efficientnet.mammography.task import Screening
from efficientnet.training.distributed import Process, start
from efficientnet.training.folder import RUNS, RunFolder
from efficientnet.training.plan import make_parser, make_plan


def test_two_ranks_share_objects_buffers_and_gradients():
    process = ranks(2, "distributed_worker")
    assert process.returncode == 0, process.stderr
    assert process.stdout.strip() == "ok"


@pytest.mark.skipif(sys.platform != "linux", reason="the names of threads are in /proc")
def test_a_finished_run_leaves_no_thread_of_gloo_behind(tiny_data, tmp_path):
    """One that is there when the interpreter ends may abort the process, whose work would count as failed."""
    arguments = (*RECIPE, "--epochs", 1, "--data", tiny_data, "--output", tmp_path / "r", "--workers", 0)
    with rendezvous() as port:
        environment = rank_environment(0, 1, port)
        process = python("tests/threads_at_exit.py", tmp_path, "train.py", *arguments, environment=environment)
    assert process.returncode == 0, process.stderr
    threads = (tmp_path / "0").read_text()
    assert "python" in threads and "gloo" not in threads


def pretend(monkeypatch, gpus, ranks):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))


def test_ranks_that_find_different_images_are_refused(tiny_data):
    """Logits are gathered by the place of an image in the table, which has to be the same place everywhere."""
    plan = make_plan(make_parser("", Screening).parse_args(["--data", str(tiny_data)]), Screening)
    plan.task.load(Process(0, 1, 0, 1, torch.device("cpu")), False, None, None, None)
    data = plan.task.run
    data.check_ranks(SimpleNamespace(gather=lambda own: [own, own]))
    other, row = copy.copy(data), data.validation.rows[0]
    other.validation = replace(data.validation, rows=(replace(row, laterality="R"), *data.validation.rows[1:]))
    found = []
    other.check_ranks(SimpleNamespace(gather=lambda own: found.append(own) or found))
    with pytest.raises(UserError, match="ranks found different images"):
        data.check_ranks(SimpleNamespace(gather=lambda own: [own, *found]))


def test_more_ranks_than_gpus_is_refused_with_the_number(monkeypatch):
    pretend(monkeypatch, gpus=1, ranks=2)
    with pytest.raises(ValueError, match=r"1 GPU.*--nproc_per_node=1"):
        start(None, None)


def test_without_cuda_nccl_and_cuda_are_refused(monkeypatch):
    pretend(monkeypatch, gpus=0, ranks=1)
    with pytest.raises(ValueError, match="no CUDA device"):
        start("cuda", None)
    with pytest.raises(ValueError, match="nccl needs CUDA"):
        start("cpu", "nccl")


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_processes_that_srun_or_mpirun_started_without_torchrun_are_refused(monkeypatch, name):
    pretend(monkeypatch, gpus=0, ranks=1)
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setenv("SLURM_NTASKS", "2")  # of the job: also in its script and in an interactive shell
    monkeypatch.setenv(name, "1")
    assert start(None, None).world_size == 1
    monkeypatch.setenv(name, "2")
    with pytest.raises(ValueError, match=r"2 processes .* srun --ntasks-per-node=1 torchrun"):
        start(None, None)


def test_plain_python_is_one_process_on_the_cpu(monkeypatch):
    pretend(monkeypatch, gpus=0, ranks=1)
    monkeypatch.delenv("RANK", raising=False)
    process = start(None, None)
    assert (process.rank, process.world_size, process.device.type, process.backend) == (0, 1, "cpu", None)
    assert process.gather(7) == [7] and process.broadcast(7) == 7


def test_run_folders_count_up_and_a_restart_finds_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    first, second = RunFolder.choose("b3"), RunFolder.choose("b3")
    assert (first.path, second.path) == (RUNS / "b3-1", RUNS / "b3-2")
    assert RunFolder.choose("b0").path == RUNS / "b0-1"
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "other")
    first.mark_launch()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert RunFolder.choose("b3") == first
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "job")
    assert RunFolder.choose("b3") == second
