"""A phantom set that several tests prepare."""

import shutil
from pathlib import Path

import pytest

from efficientnet.mammography.phantom.dataset import write_phantom_dataset


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """20 patients and 4 of a test set, with small pictures."""
    return write_phantom_dataset(tmp_path_factory.mktemp("raw") / "set", 20, size=(200, 160), test_patients=4)


@pytest.fixture
def raw(phantoms, tmp_path) -> Path:
    """The same in a folder that a test may change."""
    return shutil.copytree(phantoms, tmp_path / "raw")
