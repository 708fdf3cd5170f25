"""Requests to stop: Ctrl-C, and SIGTERM and SIGUSR1, which schedulers send before they take a machine away."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType, TracebackType

from efficientnet.common.command_line import rank

# Windows has no SIGUSR1.
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGINT") if hasattr(signal, name))
# Slurm signals every process, and torchrun forwards signals: repeats within this many seconds are one request.
ECHO = 2.0
# Elsewhere a repeat this soon comes from a program, not a user: coreutils' timeout signals its child, then the group.
BURST = 0.1
# BSD's EX_TEMPFAIL, "try again later". No other outcome of a run has this code, so scripts may rerun it.
TRY_AGAIN = 75


class Stopped(Exception):
    """Raised on all ranks at the same point, after one of them got a signal and they agreed to stop."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def name(self) -> str:
        return signal.Signals(self.number).name

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, as in shells, else TRY_AGAIN; 0 under torchrun.

        torchrun would treat any other code as a failure, and restart the run or end ranks that are still saving.
        """
        if "TORCHELASTIC_RUN_ID" in os.environ:
            return 0
        return 128 + self.number if self.number == signal.SIGINT else TRY_AGAIN


class StopRequest:
    """Records the first signal after `listen` for the training loop; a second signal ends the process at once.

    As a context manager, it restores the handlers on exit. If a rank other than 0 fails after a signal, torchrun is
    ending it because another rank died. It then exits silently and leaves the report to rank 0.
    """

    def __init__(self) -> None:
        self.signal = 0  # the signal's number; 0 if there was none
        self.time = 0.0
        self.echo = ECHO if "RANK" in os.environ or "SLURM_JOB_ID" in os.environ else BURST
        self.before: dict[int, object] = {}

    def listen(self) -> None:
        if handles_signals() and not self.before:  # a run of each fold listens
            self.before = {number: signal.signal(number, self.receive) for number in SIGNALS}

    def receive(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal, self.time = number, time.monotonic()
        elif time.monotonic() - self.time > self.echo:
            os._exit(128 + number)

    def __enter__(self) -> StopRequest:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if isinstance(error, RuntimeError) and self.signal and rank() != 0:
            os.kill(os.getpid(), self.signal)


def handles_signals() -> bool:
    """Whether this is the main thread, the only one in which Python can set signal handlers."""
    return threading.current_thread() is threading.main_thread()


def leave_signals_to_parent(worker: int) -> None:
    """Ignore signals in a loader process: a signal to the whole group is for the rank, which ends its loaders."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
