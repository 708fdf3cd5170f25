"""The run folder: its name, its log, and whether a new run may write into it."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

from efficientnet.training.checkpoint import atomic_file

RUNS = Path("runs")


def launch_name() -> str | None:
    """Names this start of torchrun, the same for the workers of a restart; None under plain python."""
    identifier = os.environ.get("TORCHELASTIC_RUN_ID")
    return None if identifier is None else f"{identifier}-{os.getppid()}"


def restarted() -> bool:
    """Whether torchrun has started these workers again after a failure."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0


def choose_folder(variant: str) -> Path:
    """`runs/<variant>-<n>` with the next free number, made at once; a restart finds the folder of its first start."""
    launch = launch_name()
    if launch is not None and restarted():
        for marker in RUNS.glob(f"{variant}-*/.launch"):
            if marker.read_text(encoding="utf-8") == launch:
                return marker.parent
    taken = [path.name.rpartition("-")[2] for path in RUNS.glob(f"{variant}-*")]
    number = max((int(text) for text in taken if text.isdigit()), default=0)
    while True:
        number += 1
        folder = RUNS / f"{variant}-{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another run took it in this instant
            continue
        mark_launch(folder)
        return folder


def mark_launch(folder: Path) -> None:
    launch = launch_name()
    if launch is not None:
        (folder / ".launch").write_text(launch, encoding="utf-8")


def append_metrics(folder: Path, values: dict[str, Any]) -> None:
    """One line of metrics.jsonl, on the disk before this returns; what is not a finite number is null."""
    clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(clean) + "\n")
        file.flush()
        os.fsync(file.fileno())


def truncate_metrics(folder: Path, epochs: int) -> None:
    """Keeps the lines of the first `epochs` epochs: those after the checkpoint that a resumed run starts from go."""
    path = folder / "metrics.jsonl"
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["epoch"] <= epochs:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):  # a line cut short by a kill
            continue
    with atomic_file(path, "w") as file:
        file.writelines(kept)
