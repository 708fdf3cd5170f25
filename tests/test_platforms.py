"""Plain `python train.py` and its neighbours work where Linux's own modules, signals and files are missing."""

import os
import sys

import pytest
from commands import ROOT, launch
from tiny_runs import SMALL

# What Windows lacks, and macOS in part; also in loader processes, which are started by spawn there.
HIDE = """
import builtins, multiprocessing, os, signal, sys
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for module, names in (
    (os, ("fork", "sched_getaffinity", "pread", "pwrite", "getuid")),
    (signal, ("SIGUSR1", "SIGHUP")),
):
    for name in names:
        delattr(module, name)
plain_open = builtins.open
def open(file, *arguments, **options):
    if str(file).startswith("/proc"):
        raise FileNotFoundError(2, "No such file or directory", str(file))
    return plain_open(file, *arguments, **options)
builtins.open = open
multiprocessing.set_start_method("spawn")
"""


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory):
    """Runs a command of the project on such a machine."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "sitecustomize.py").write_text(HIDE)
    environment = {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}

    def run_there(*arguments):
        return launch([sys.executable, *map(str, arguments)], 180, environment)

    return run_there


def test_it_trains_resumes_and_evaluates(elsewhere, tiny_data, tmp_path):
    recipe = (*SMALL, "--image-size", 32, "--batch-size", 4, "--epochs", 1, "--workers", 1)
    process = elsewhere("train.py", *recipe, "--data", tiny_data, "--output", tmp_path / "r")
    assert process.returncode == 0, process.stderr
    lines = process.stderr.splitlines()
    assert len(lines) == 1 and "file locks are not available here" in lines[0], process.stderr
    process = elsewhere("train.py", "--resume", tmp_path / "r", "--workers", 0)
    assert process.returncode == 0 and "resumed after epoch 1" in process.stdout, process.stderr
    process = elsewhere("evaluate.py", "--checkpoint", tmp_path / "r" / "best.pt", "--workers", 1)
    assert process.returncode == 0 and "Probabilistic F1" in process.stdout, process.stderr


def test_it_prepares_and_draws_phantoms(elsewhere, tiny_data, tmp_path):
    arguments = ("--data", tiny_data, "--output", tmp_path / "cache", "--image-size", 32, "--workers", 1)
    process = elsewhere("-m", "efficientnet.mammography.prepare", *arguments)
    assert process.returncode == 0 and process.stderr == "", process.stderr
    arguments = ("--output", tmp_path / "set", "--patients", 2, "--size", 160, 128, "--workers", 2)
    process = elsewhere("-m", "efficientnet.mammography.phantom", *arguments)
    assert process.returncode == 0 and process.stderr == "", process.stderr
