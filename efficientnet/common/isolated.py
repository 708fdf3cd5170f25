"""A function over many inputs in processes of its own, such that no input costs more than itself.

Decoders are native code and files come from anywhere: one may crash, hang or ask for all memory. Here a process has one
input at a time. If it dies or takes too long, that input has failed, and a fresh process takes its place.
(`concurrent.futures` gives up its whole pool when one process dies, and has no time limit that ends a process.)
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from efficientnet.common.errors import UserError

Input, Output = TypeVar("Input"), TypeVar("Output")

START_SECONDS = 300  # for a process to import what it needs, on a busy machine


@dataclass(frozen=True)
class Failure:
    """Why there is no result for an input, in one line."""

    reason: str


class _Started:
    """What a process says when it is there, before it takes its first input."""


def run_isolated(
    function: Callable[[Input], Output], inputs: Iterable[Input], workers: int, seconds: float, memory: float
) -> Iterator[tuple[Input, Output | Failure]]:
    """(input, `function(input)` or Failure) for each input, in the order in which they are done.

    function  of a module, so that a process started by spawn finds it; an exception of it is a Failure
    inputs    taken one at a time, when a process is free
    seconds   for one input; after them its process is killed
    memory    GiB that a process may take beyond what it has at its start (on Linux; elsewhere there is no limit)

    Raises UserError if a process cannot start. The processes end with the iterator, and with this process.
    """
    waiting = iter(inputs)
    crew: list[_Worker] = []
    try:
        crew += [_Worker(function, memory, first) for first in islice(waiting, workers)]
        while crew:
            for worker in _ready_or_late(crew):
                result = worker.receive(seconds)
                if isinstance(result, _Started):
                    continue
                if not worker.started:
                    raise UserError(f"a process could not start ({result.reason}); use fewer --workers")
                yield worker.input, result
                crew.remove(worker)
                for following in islice(waiting, 1):
                    if worker.process is None:
                        worker = _Worker(function, memory, following)
                    else:
                        worker.send(following, seconds)
                    crew.append(worker)
                if worker not in crew:
                    worker.end()
    finally:
        for worker in crew:
            worker.end()


class _Worker:
    """A process with its input, the end of a pipe to it, and the time by which it has to answer."""

    def __init__(self, function: Callable[[Any], Any], memory: float, first: Any) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads, such as torch's, may hang
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, function, memory), daemon=True)
        self.process.start()
        theirs.close()  # so that its death closes the pipe
        self.started = False
        self.send(first, START_SECONDS)

    def send(self, following: Any, seconds: float) -> None:
        self.input, self.deadline = following, time.monotonic() + seconds
        with contextlib.suppress(OSError):  # it has died since; `receive` will see that
            self.connection.send(following)

    def receive(self, seconds: float) -> Any:
        """_Started, or the result of the input. After a Failure for its death or lateness, `process` is None."""
        if not self.connection.poll():
            self.end()
            if not self.started:
                return Failure(f"it was not there after {START_SECONDS} seconds")
            return Failure(f"took longer than {seconds:g} seconds")
        try:
            result = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return Failure(_cause_of_death(self.end()))
        if isinstance(result, _Started):
            self.started, self.deadline = True, time.monotonic() + seconds
        return result

    def end(self) -> int | None:
        """Ends the process, if there is one, and returns its exit code."""
        if self.process is None:
            return None
        self.process.kill()
        self.process.join()
        self.connection.close()
        code, self.process = self.process.exitcode, None
        return code


def _ready_or_late(crew: list[_Worker]) -> list[_Worker]:
    """Waits for the next workers that have answered, died, or run out of time."""
    time_left = min(worker.deadline for worker in crew) - time.monotonic()
    ready = wait([worker.connection for worker in crew], max(0.0, time_left))
    now = time.monotonic()
    return [worker for worker in crew if worker.connection in ready or now >= worker.deadline]


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code == -signal.SIGKILL:
        return "made the system kill its process, as it does for lack of memory"
    if exit_code is not None and exit_code < 0:
        return f"crashed its process in native code ({signal.Signals(-exit_code).name})"
    return f"ended its process (exit code {exit_code})"


def _serve(connection: Connection, function: Callable[[Any], Any], memory: float) -> None:
    """What a process does: answer each input until the pipe closes, which it does when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # where decoders write remarks across the parent's progress bar
    _limit_memory(memory)
    with contextlib.suppress(EOFError, OSError):
        connection.send(_Started())
        while True:
            following = connection.recv()
            try:
                result = function(following)
            except MemoryError:
                result = Failure(f"needs more than {memory:g} GiB of memory")
            except Exception as error:
                result = Failure(" ".join(f"{type(error).__name__}: {error}".split()))
            connection.send(result)


def _limit_memory(gibibytes: float) -> None:
    """From here on an allocation beyond so much more fails in this process alone, before the machine runs short."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            present = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):  # not Linux
        return
    resource.setrlimit(resource.RLIMIT_AS, (present + round(gibibytes * 2**30), resource.RLIM_INFINITY))
