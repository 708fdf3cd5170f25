"""What may import what, which packages a run needs, and that README and gate say the same."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from commands import ROOT

RUN_TIME = {"torch", "numpy", "PIL", "pydicom", "tqdm", "efficientnet"}
SOURCES = sorted([*ROOT.glob("*.py"), *(ROOT / "efficientnet").rglob("*.py")])
# From the bottom up: a module imports only from its own folder and from lower lines. `__main__` modules and the scripts
# are commands, which stand on the last line.
LAYERS = [
    {"common"},
    {"scaling", "layers", "metrics"},
    {"baselines"},
    {"complexity", "architecture"},
    {"model"},
    {"weights", "inference", "analysis"},
    {"create"},
    {"training"},
    {"mammography", "imagefolder"},
    {"tasks"},
    {"export", "benchmark", "studies", "train", "evaluate", "scale"},
]


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


MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}


def project_imports(module: str) -> set[str]:
    """Modules of the project that this one imports; the names in a folder or of the package are not modules."""
    names = {name for name in imported(MODULES[module]) if name in MODULES}
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)} - {module}


def layer(module: str) -> int:
    if module == "efficientnet" or module.endswith(".__main__"):  # the public names, and commands
        return len(LAYERS) - 1
    part = module.removeprefix("efficientnet.").partition(".")[0]
    return next(number for number, parts in enumerate(LAYERS) if part in parts)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_one_way(module):
    folder = module.removeprefix("efficientnet.").partition(".")[0]
    for name in project_imports(module):
        same_folder = name.removeprefix("efficientnet.").partition(".")[0] == folder
        assert same_folder or layer(name) < layer(module), f"{module} imports {name}"


def test_no_imports_go_in_a_circle():
    finished: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path, module))
        if module not in finished:
            for name in project_imports(module):
                visit(name, (*path, module))
            finished.add(module)

    for module in MODULES:
        visit(module, ())


HIDDEN = ("__init__", "__pycache__", "__main__")


def test_folders_say_what_is_in_them():
    for name, path in MODULES.items():
        if path.name == "__init__.py" and name != "efficientnet":
            text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            for module in path.parent.iterdir():
                if (module.suffix == ".py" or module.is_dir()) and module.stem not in HIDDEN:
                    assert f"{module.stem} " in text, f"{name} does not mention {module.stem}"


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
