"""One-line explanations of infrastructure failures: a lost rank, a killed loader process, too little memory."""

from __future__ import annotations

import contextlib
import re
import signal
import sys
import time
import traceback
from collections.abc import Iterator

import torch
import torch.distributed as dist

from efficientnet.common.errors import UserError
from efficientnet.training.signals import handles_signals

LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|timed out|socket|broken pipe", re.IGNORECASE)
MORE_SHARED_MEMORY = (
    "a loader process ran out of shared memory: lower --workers or --batch-size, or enlarge /dev/shm (docker run "
    "--shm-size=8g)"
)
KILLED = re.compile(r"DataLoader worker \(pid\(?s?\)? [\d, ]+\) (is killed by signal: (?P<name>[\w ]+)|exited)")
# PyTorch's errors when a tensor for another process exceeds the shared memory or the limit on open files.
NO_SHARED_MEMORY = re.compile(
    r"unable to (allocate shared memory|write to file </torch_|resize file </torch_|open shared memory object)"
)
TOO_MANY_FILES = re.compile(r"Too many open files|received \d+ items of ancdata")
LESS_MEMORY = (
    "lower --batch-size (and raise --accumulate by as much), add --checkpoint-activations, or lower --image-size"
)


@contextlib.contextmanager
def explained_failures(timeout_minutes: float | None = None, less_memory: str = LESS_MEMORY) -> Iterator[None]:
    """Turn infrastructure failures into UserError. Everything else, such as a bug, passes unchanged.

    timeout_minutes: --timeout if there are several ranks, else None.  less_memory: advice when memory runs out.
    """
    try:
        with killed_loaders_told_once():
            yield
    except (RuntimeError, MemoryError, OSError) as error:
        text = explain_failure(error, timeout_minutes, less_memory)
        if text is None:
            raise
        raise UserError(text) from None


def explain_failure(
    error: BaseException, timeout_minutes: float | None = None, less_memory: str = LESS_MEMORY
) -> str | None:
    """Explain an infrastructure failure in one or two lines; None for any other error."""
    text = str(error)
    killed = KILLED.search(text)
    if killed:
        name = killed["name"] or "unknown"
        if name.startswith("Killed") or killed["name"] is None:
            return (
                "a loader process was killed (SIGKILL), usually because the system was running out of memory: "
                "lower --workers or --batch-size"
            )
        if name.startswith("Bus error"):
            return MORE_SHARED_MEMORY
        return (
            f"a loader process was ended by signal {name.strip().rstrip('.')!r}; run with --workers 0 to see the cause"
        )
    if TOO_MANY_FILES.search(text):
        return "too many open files: lower --workers, or raise the limit (ulimit -n)"
    if NO_SHARED_MEMORY.search(text):
        return MORE_SHARED_MEMORY
    if isinstance(error, torch.OutOfMemoryError):
        return f"out of GPU memory: {less_memory}"
    if isinstance(error, MemoryError) or "can't allocate memory" in text:
        return f"out of memory: lower --workers, or {less_memory}"
    lost = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and LOST.search(text))
    if timeout_minutes is not None and lost:
        return (
            f"lost another rank: it exited, or did not answer within the {timeout_minutes:g} minutes of --timeout; "
            "see its own output for the cause. Exit code -9 (SIGKILL) usually means that memory ran out"
        )
    return None


@contextlib.contextmanager
def killed_loaders_told_once() -> Iterator[None]:
    """Report a killed loader process once, by the error in which PyTorch names it.

    PyTorch raises that error in its SIGCHLD handler, wherever the main thread happens to be. Inside a `__del__`, Python
    can only print the error; this suppresses it there, since the next batch raises it again. If the process was sending
    a batch, its connection breaks before the signal arrives, so this waits for the handler. Once an error propagates,
    further killed processes are ignored.
    """
    before = sys.unraisablehook

    def print_others(unraisable: sys.UnraisableHookArgs) -> None:
        if not KILLED.search(str(unraisable.exc_value)):
            before(unraisable)

    sys.unraisablehook = print_others
    try:
        yield
    except BaseException as error:
        if isinstance(error, (ConnectionError, EOFError)):
            time.sleep(1)  # the SIGCHLD handler raises during this sleep
        if hasattr(signal, "SIGCHLD") and handles_signals():  # Windows has no SIGCHLD
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        traceback.clear_frames(error.__traceback__)  # ends the loaders, which the traceback would keep alive
        raise
    finally:
        sys.unraisablehook = before
