"""What several test files need once: tiny data, and undisturbed runs to compare with."""

import contextlib
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


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills, and that the workers of pytest-xdist share; they only read it.

    One that is there is whole, since it was moved there.
    """
    base = factory.getbasetemp()
    place = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / f"shared-{name}"
    if not place.exists():
        folder = factory.mktemp(name) / name
        make(folder)
        with contextlib.suppress(OSError):  # another worker was faster
            folder.rename(place)
    return place


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    return made_once(tmp_path_factory, "data", write_tiny_data)


@pytest.fixture(scope="session")
def straight(tiny_data, tmp_path_factory) -> Callable[..., Path]:
    """The folder of an undisturbed run on so many ranks (0: plain python); of RECIPE with all of its checkpoints."""

    def folder(ranks: int, recipe: tuple[object, ...] = RECIPE) -> Path:
        keep = ("--checkpoint-every", 1, "--keep-checkpoints", 100) if recipe == RECIPE else ()
        arguments = (*recipe, *keep, "--data", tiny_data, "--workers", 0)
        name = f"{'recipe' if recipe == RECIPE else 'long'}-{ranks}"
        return made_once(tmp_path_factory, name, lambda output: train(ranks, *arguments, "--output", output))

    return folder
