"""`python -m efficientnet` lists the commands; `start` is the entry point of every installed command."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import NoReturn

import efficientnet
from efficientnet.common.command_line import SCRIPTS, Parser, leave

# By the last part of their installed names: the script or module, and what it does. They are in pyproject.toml too.
COMMANDS = {
    "scale": ("scale.py", "derive architectures; the paper's tables, its grid search, budgets"),
    "train": ("train.py", "train on one process or, under torchrun, on many"),
    "evaluate": ("evaluate.py", "score checkpoints: metrics, predictions, submission"),
    "prepare": ("-m efficientnet.mammography.prepare", "check a folder of mammograms, and decode it once"),
    "ablation": ("-m efficientnet.mammography.ablation", "what each part of the recipe contributes, on phantoms"),
    "phantom": ("-m efficientnet.mammography.phantom", "write the embedded data set of synthetic mammograms"),
    "weights": ("-m efficientnet.weights", "show or convert weights of this and other libraries"),
    "export": ("-m efficientnet.export", "write a checkpoint as ONNX or as PyTorch's exported program"),
    "studies": ("-m efficientnet.studies", "the paper's experiments at desk scale, and a search for a baseline"),
    "benchmark": ("-m efficientnet.benchmark", "measure speed beside torchvision, timm and others"),
}


def start() -> NoReturn:
    """Run the command that the process is called after: efficientnet-scale is scale.py."""
    where, _ = COMMANDS[Path(sys.argv[0]).stem.removeprefix("efficientnet-")]
    if where.endswith(".py"):
        sys.path.insert(0, str(SCRIPTS))
    module = importlib.import_module(where.removeprefix("-m ").removesuffix(".py"))
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{module.__name__}.__main__")
    leave(module.main())


def listing() -> str:
    lines = [f"EfficientNet {efficientnet.__version__}. The commands in a clone, and as pip installs them:", ""]
    lines += [f"  python {where:<36} efficientnet-{name:<10} {what}" for name, (where, what) in COMMANDS.items()]
    return "\n".join([*lines, "", "Each explains itself with --help; the README shows them in use."])


if __name__ == "__main__":
    Parser(prog="python -m efficientnet", description="List the commands of this project.").parse_args()
    print(listing())
