"""Requests to stop: SIGTERM and SIGUSR1, which schedulers send before they take a machine away, and Ctrl-C."""

from __future__ import annotations

import os
import signal
import time
from types import FrameType, TracebackType

from efficientnet.common.command_line import rank

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
# Slurm signals every process, and torchrun passes on what it gets: within this many seconds it is one request.
ECHO = 2.0
# Elsewhere only what no hand can do, such as coreutils' timeout, which signals its child and then the group.
BURST = 0.1
# BSD's EX_TEMPFAIL, "try again later": no other outcome of a run has it, so that a script may start the run again.
STOPPED = 75


class StopRequest:
    """The first signal, once `listen` was called, is remembered for the loop to act on; a second one ends the process.

    As a context it gives the signals back at the end.  Where a rank of several fails after one came, that is torchrun
    ending it because another has died: it goes without a word, and rank 0 speaks for all.
    """

    def __init__(self) -> None:
        self.signal = 0  # its number; 0: none came
        self._time = 0.0
        self._echo = ECHO if "RANK" in os.environ or "SLURM_JOB_ID" in os.environ else BURST
        self._before: dict[int, object] = {}

    def listen(self) -> None:
        self._before = {number: signal.signal(number, self._receive) for number in SIGNALS}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self.signal:
            self.signal, self._time = number, time.monotonic()
        elif time.monotonic() - self._time > self._echo:
            os._exit(128 + number)

    def __enter__(self) -> StopRequest:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if isinstance(error, RuntimeError) and self.signal and rank() != 0:
            os.kill(os.getpid(), self.signal)


def exit_code(number: int) -> int:
    """Of a run that stopped on request: 130 after Ctrl-C, as shells have it, else STOPPED; 0 under torchrun.

    torchrun would take any other code for a failure, and start the run again or end the ranks that still save.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return 0
    return 128 + number if number == signal.SIGINT else STOPPED


def leave_signals_to_parent(worker: int) -> None:
    """For a loader's processes: a signal to the whole group is not for them; they end with the rank that they serve."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
