"""Call a function on many inputs in separate processes, so that a bad input fails alone.

Decoders are native code and files come from anywhere: a decoder may crash, hang or allocate all memory. Each process
works on one input at a time. If it dies or takes too long, that input has failed and a new process replaces it.
(`concurrent.futures` abandons its whole pool when one process dies, and cannot kill a process at a time limit.)
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

START_SECONDS = 300  # time for a process to import its modules on a busy machine


@dataclass(frozen=True)
class Failure:
    """Why an input has no result, in one line."""

    reason: str


class Started:
    """The first message of a process, before it takes its first input."""


def run_isolated(
    function: Callable[[Input], Output], inputs: Iterable[Input], workers: int, seconds: float, memory: float
) -> Iterator[tuple[Input, Output | Failure]]:
    """Yield (input, `function(input)` or Failure) for each input, in order of completion.

    function  defined at the top level of a module, so that spawned processes can import it; an exception is a Failure
    inputs    taken one at a time, when a process is free
    seconds   time limit for one input, after which its process is killed
    memory    GiB that a process may allocate after its start (on Linux; elsewhere there is no limit)

    Raises UserError if a process cannot start. The processes end with the iterator or with this process.
    """
    waiting = iter(inputs)
    busy: list[Worker] = []
    try:
        busy += [Worker(function, memory, first) for first in islice(waiting, workers)]
        while busy:
            for worker in ready_or_late(busy):
                result = worker.receive(seconds)
                if isinstance(result, Started):
                    continue
                if not worker.started:
                    raise UserError(f"a process could not start: {result.reason}; use fewer --workers")
                yield worker.input, result
                try:
                    following = next(waiting)
                except StopIteration:
                    busy.remove(worker)
                    worker.end()
                    continue
                if worker.process is None:
                    busy.remove(worker)
                    busy.append(Worker(function, memory, following))
                else:
                    worker.send(following, seconds)
    finally:
        for worker in busy:
            worker.end()


class Worker:
    """A process with its current input, our end of the pipe to it, and the deadline for its answer."""

    def __init__(self, function: Callable[[Any], Any], memory: float, first: Any) -> None:
        context = multiprocessing.get_context("spawn")  # forking a process with threads, such as torch's, may hang
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, function, memory), daemon=True)
        self.process.start()
        theirs.close()  # so that the pipe closes when the process dies
        self.started = False
        self.send(first, START_SECONDS)

    def send(self, following: Any, seconds: float) -> None:
        self.input, self.deadline = following, time.monotonic() + seconds
        with contextlib.suppress(OSError):  # the process has died; `receive` will notice
            self.connection.send(following)

    def receive(self, seconds: float) -> Any:
        """Return Started or the result. After death or a timeout, return a Failure and set `process` to None."""
        if not self.connection.poll():
            self.end()
            if not self.started:
                return Failure(f"not ready after {START_SECONDS} seconds")
            return Failure(f"took longer than {seconds:g} seconds")
        try:
            result = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            return Failure(cause_of_death(self.end()))
        if isinstance(result, Started):
            self.started, self.deadline = True, time.monotonic() + seconds
        return result

    def end(self) -> int | None:
        """Kill the process and return its exit code; None if it has already been ended."""
        if self.process is None:
            return None
        self.process.kill()
        self.process.join()
        self.connection.close()
        code, self.process = self.process.exitcode, None
        return code


def ready_or_late(busy: list[Worker]) -> list[Worker]:
    """Wait for the next workers that have answered, died or timed out, and return them."""
    time_left = min(worker.deadline for worker in busy) - time.monotonic()
    ready = wait([worker.connection for worker in busy], max(0.0, time_left))
    now = time.monotonic()
    return [worker for worker in busy if worker.connection in ready or now >= worker.deadline]


def cause_of_death(exit_code: int) -> str:
    if exit_code >= 0:
        return f"the process exited (exit code {exit_code})"
    name = signal.Signals(-exit_code).name
    if name == "SIGKILL":
        return "the process was killed by the system, probably because memory ran out"
    return f"the process crashed in native code ({name})"


def serve(connection: Connection, function: Callable[[Any], Any], memory: float) -> None:
    """A process's main function: answer each input until the pipe closes, as it does when the parent ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # decoders print warnings, which would break up the progress bar
    limit_memory(memory)
    with contextlib.suppress(EOFError, OSError):
        connection.send(Started())
        while True:
            following = connection.recv()
            try:
                result = function(following)
            except MemoryError:
                result = Failure(f"needs more than {memory:g} GiB of memory")
            except Exception as error:
                result = Failure(" ".join(f"{type(error).__name__}: {error}".split()))
            connection.send(result)


def limit_memory(gibibytes: float) -> None:
    """Limit further allocations of this process; an allocation beyond that raises MemoryError. Linux only."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            present = int(file.read().split()[0]) * resource.getpagesize()
    except (ImportError, OSError):
        return
    resource.setrlimit(resource.RLIMIT_AS, (present + round(gibibytes * 2**30), resource.RLIM_INFINITY))
