"""What several test files need once: tiny data, and undisturbed runs to compare with."""

import os
from collections.abc import Callable
from pathlib import Path

# Before torch is imported: sums over another number of threads round differently, and pytest-xdist has a process for
# each core.  Other processes that tests start find the package as this one does.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1])

import pytest
from tiny_data import write_tiny_data
from tiny_runs import RECIPE, train


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    return write_tiny_data(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def straight(tiny_data, tmp_path_factory) -> Callable[..., Path]:
    """The folder of an undisturbed run on so many ranks (0: plain python); of RECIPE with all of its checkpoints."""
    folders: dict[object, Path] = {}

    def folder(ranks: int, recipe: tuple[object, ...] = RECIPE) -> Path:
        if (ranks, recipe) not in folders:
            output = tmp_path_factory.mktemp("straight") / "run"
            keep = ("--checkpoint-every", 1, "--keep-checkpoints", 100) if recipe == RECIPE else ()
            train(ranks, *recipe, *keep, "--data", tiny_data, "--output", output, "--workers", 0)
            folders[ranks, recipe] = output
        return folders[ranks, recipe]

    return folder
