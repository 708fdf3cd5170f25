"""The package as pip installs it: commands of its own, no clone beside it."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from commands import ROOT

from efficientnet.__main__ import COMMANDS, listing

# Arguments, and words of the output: one command without torch, one with, one in a folder, which starts processes.
SAMPLES = {
    "scale": (("--phi", "3"), "16,350,296"),
    "train": (("--help",), "torchrun --nproc_per_node=2 --no-python efficientnet-train --variant b3"),
    "prepare": (("--help",), "usage: efficientnet-prepare"),
    "phantom": (("--output", "set", "--patients", "2", "--size", "160", "128", "--workers", "2"), "written"),
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Runs an installed command, from an empty folder."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    shutil.copytree(ROOT / "efficientnet", source / "efficientnet", ignore=shutil.ignore_patterns("__pycache__"))
    for path in [*ROOT.glob("*.py"), *(ROOT / name for name in ("pyproject.toml", "README.md", "LICENSE"))]:
        shutil.copy(path, source)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(folder / "site"), str(source)]
    process = subprocess.run(pip, capture_output=True, text=True)
    if "No matching distribution found for setuptools" in process.stderr:
        pytest.skip("building a wheel needs setuptools, and so the package index")
    assert process.returncode == 0, process.stderr
    (folder / "empty").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}

    def run_there(name, *arguments, launcher=()):
        command = [sys.executable, *launcher, str(folder / "site" / "bin" / f"efficientnet-{name}"), *arguments]
        return subprocess.run(command, cwd=folder / "empty", env=environment, capture_output=True, text=True)

    return run_there


@pytest.mark.parametrize("name", SAMPLES)
def test_a_wheel_brings_the_commands(name, installed):
    arguments, words = SAMPLES[name]
    process = installed(name, *arguments)
    assert process.returncode == 0 and process.stderr == "", process.stderr
    assert words in process.stdout


def test_torchrun_starts_an_installed_command(installed):
    launcher = ("-m", "torch.distributed.run", "--nproc_per_node=1", "--no-python")
    process = installed("train", "--phi", "-1", launcher=launcher)
    assert "efficientnet-train: error: phi must be" in process.stderr and "exitcode  : 2" in process.stderr


def test_an_installed_command_names_installed_commands(installed):
    assert "to train it: efficientnet-train --phi 3\n" in installed("scale", "--phi", "3").stdout
    process = installed("scale", "--phi", "-1")
    assert process.returncode == 2
    assert process.stderr.startswith("efficientnet-scale: error: ")
    assert process.stderr.endswith("(see efficientnet-scale --help)\n")


def test_the_commands_are_listed_and_all_of_them_installed():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    scripts = re.findall(r'^efficientnet-(\w+) = "efficientnet\.__main__:start"$', text, re.MULTILINE)
    assert scripts == list(COMMANDS)
    for name, (where, _) in COMMANDS.items():
        assert f"python {where} " in listing() and f"efficientnet-{name} " in listing()


def test_the_wheel_has_every_folder_of_the_package():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^packages = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL).group(1)
    folders = sorted(path.parent for path in (ROOT / "efficientnet").rglob("__init__.py"))
    names = [".".join(folder.relative_to(ROOT).parts) for folder in folders]
    assert re.findall(r'"([\w.]+)"', listed) == ["efficientnet.commands", *names]
