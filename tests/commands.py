"""Runs the project's commands as a person does, from the root of the clone."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def run(*arguments: object, timeout: float = 600, environment: dict[str, str] | None = None):
    """`python ARGUMENTS` in the clone; returns the completed process with text output."""
    return launch([sys.executable, *map(str, arguments)], timeout, environment)


def torchrun(processes: int, *arguments: object, timeout: float = 900, environment: dict[str, str] | None = None):
    """`torchrun --nproc_per_node=PROCESSES ARGUMENTS` on a free port of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return launch([*launcher, *map(str, arguments)], timeout, environment)


def launch(command: list[str], timeout: float, environment: dict[str, str] | None):
    return subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
    )


def assert_one_line_error(process, code: int, *words: str) -> None:
    """The command ended with `code` and at most two lines on stderr that contain every word, without a traceback."""
    lines = [line for line in process.stderr.splitlines() if line.strip()]
    assert process.returncode == code, process.stderr
    assert 1 <= len(lines) <= 2, process.stderr
    for word in words:
        assert word in process.stderr, process.stderr
    assert "Traceback" not in process.stderr
