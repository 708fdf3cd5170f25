"""Failures of the machinery, told as what they are."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator

import torch.distributed as dist

LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|timed out|socket|broken pipe", re.IGNORECASE)
KILLED = re.compile(r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (is killed by signal: (?P<name>[\w ]+)|exited)")


def explain_failure(error: BaseException, timeout_minutes: float) -> str | None:
    """One or two lines for a lost rank, a killed loader process, or no memory; None for anything else."""
    text = str(error)
    killed = KILLED.search(text)
    if killed:
        name = killed["name"] or "unknown"
        if name.startswith("Killed") or killed["name"] is None:
            return (
                "a loader process was killed (SIGKILL), which as a rule is the system running out of memory: "
                "lower --workers or --batch-size"
            )
        if name.startswith("Bus error"):
            return "a loader process found no shared memory: lower --workers or --batch-size, or enlarge /dev/shm"
        return f"a loader process ended with the signal {name.strip().rstrip('.')!r}; --workers 0 shows why"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "out of memory: lower --batch-size (and raise --accumulate by as much), --workers, or --image-size"
    if isinstance(error, dist.DistError) or LOST.search(text):
        return (
            f"lost another rank: it has ended, or has not answered for the {timeout_minutes:g} minutes of --timeout; "
            "its own output tells why, and exit code -9 (SIGKILL) as a rule that memory ran out"
        )
    return None


@contextlib.contextmanager
def killed_loaders_told_once() -> Iterator[None]:
    """Within it no traceback is printed where a loader's process is killed while another loader is cleaned up.

    PyTorch then raises in a `__del__`, where Python can only print it; the next batch that is asked for raises again.
    """
    before = sys.unraisablehook

    def print_others(unraisable: sys.UnraisableHookArgs) -> None:
        if not KILLED.search(str(unraisable.exc_value)):
            before(unraisable)

    sys.unraisablehook = print_others
    try:
        yield
    finally:
        sys.unraisablehook = before
