"""The house: what may import what, which packages a run needs, and that README and gate say the same."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

RUN_TIME = {"torch", "numpy", "PIL", "pydicom", "tqdm", "efficientnet"}
SOURCES = sorted([*ROOT.glob("*.py"), *(ROOT / "efficientnet").rglob("*.py")])
# These stand above the rooms, like train.py.
ABOVE = (
    "training/plan",
    "training/console",
    "training/prediction",
    "mammography/evaluation",
    "mammography/augment",
    "benchmark/worker",
    "benchmark/checkpoint",
    "export",
)
COMMANDS = {f"efficientnet/{name}.py" for name in ABOVE}


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports anywhere."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_the_run_time_packages_are_imported(path):
    for name in imported(path):
        top = name.partition(".")[0]
        assert top in RUN_TIME or top in sys.stdlib_module_names, f"{path} imports {name}"


def test_packages_of_extras_are_imported_by_name_and_stand_in_their_extra():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "require":
                module, extra = (argument.value for argument in node.args[:2])
                requirements = re.search(rf"^{extra} = \[(.*?)\]", text, re.MULTILINE | re.DOTALL).group(1)
                assert f'"{module.partition(".")[0]}' in requirements, f"{path} requires {module} of {extra}"
                found.add(extra)
    assert "safetensors" in found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_rooms_know_each_other_one_way_only(path):
    place = str(path.relative_to(ROOT))
    if not place.startswith("efficientnet/") or place in COMMANDS:
        return
    forbidden = {
        "efficientnet/training/": ["efficientnet.mammography"],
        "efficientnet/mammography/": ["efficientnet.training"],
    }
    rooms = next((rooms for room, rooms in forbidden.items() if place.startswith(room)), None)
    rooms = rooms or ["efficientnet.mammography", "efficientnet.training"]
    assert not [name for name in imported(path) if name.startswith(tuple(rooms))]


def test_the_gate_runs_the_test_command_of_the_readme():
    """.ci/run takes the command from the README; this is the line that it looks for."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^python3 -m venv \.venv && \. \.venv/bin/activate && (.*pytest.*)$", text, re.MULTILINE)
    assert lines == ['pip install -e ".[test]" && pytest -n auto']


def test_the_package_imports_from_anywhere(tmp_path):
    """As after `pip install .`: no file of the clone's root is needed by the package."""
    code = f"import sys; sys.path[:] = [p for p in sys.path if p]; sys.path.insert(0, {str(tmp_path)!r})\n"
    code += "import efficientnet, efficientnet.training.plan; print(efficientnet.create_model('b0', 2, 1).num_features)"
    (tmp_path / "efficientnet").symlink_to(ROOT / "efficientnet")
    process = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert process.stdout.strip() == "1280", process.stderr
