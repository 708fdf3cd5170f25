"""Runs the project's commands: in this process where what they say and write matters, else as a person does."""

import contextlib
import functools
import importlib
import io
import multiprocessing.connection
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

from torch.distributed import TCPStore

ROOT = Path(__file__).resolve().parents[1]


def run(command: str, *arguments: object) -> SimpleNamespace:
    """`python COMMAND ARGUMENTS` in this process, COMMAND a script or a module; returncode, stdout and stderr."""
    return call(module_of(command).main, arguments)


def with_task(module: ModuleType, task: type, *arguments: object) -> SimpleNamespace:
    """The same of train.py or evaluate.py for another task."""
    return call(functools.partial(module.main, task=task), arguments)


def call(main: Callable[[list[str]], int], arguments: Sequence[object]) -> SimpleNamespace:
    output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = main([str(argument) for argument in arguments])
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in (output, errors))
    return SimpleNamespace(returncode=code, stdout=stdout, stderr=stderr)


def module_of(command: str) -> ModuleType:
    """The module that `python COMMAND` or `python -m COMMAND` runs."""
    module = importlib.import_module(command.removesuffix(".py"))
    return importlib.import_module(f"{command}.__main__") if hasattr(module, "__path__") else module


def python(*arguments: object, timeout: float = 120, environment: dict[str, str] | None = None):
    """`python ARGUMENTS` in the root of the clone, as a process of its own."""
    return launch([sys.executable, *map(str, arguments)], timeout, environment)


def torchrun(processes: int, *arguments: object, timeout: float = 300, environment: dict[str, str] | None = None):
    """`torchrun --nproc_per_node=PROCESSES ARGUMENTS` on a free port of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return launch([*launcher, *map(str, arguments)], timeout, environment)


def launch(command: list[str], timeout: float, environment: dict[str, str] | None = None, folder: Path = ROOT):
    environment = {**os.environ, **(environment or {})}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=timeout, env=environment)


# Its server imports torch once, and what torch imports at the first step; its children are there within milliseconds.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["train", "torch._dynamo", "torch.distributed.fsdp"])


class Processes:
    """Processes that call `function` with one of the argument lists each; what they print goes into files of `folder`.

    As a context it leaves none of them behind.
    """

    def __init__(self, folder: Path, function: Callable[..., object], argument_lists: Sequence[Sequence[object]]):
        self.folder = folder
        self.processes = [
            FORKSERVER.Process(target=print_into, args=(folder / f"{number}", function, arguments))
            for number, arguments in enumerate(argument_lists)
        ]
        for process in self.processes:
            process.start()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.kill()
            process.join()

    def printed(self, name: str) -> str:
        """What they have printed so far, one after the other; name: "out" or "err"."""
        return "".join(path.read_text() for path in sorted(self.folder.glob(f"*.{name}")))

    def wait_for(self, text: str, name: str = "out") -> None:
        """Until one of them has printed it."""
        while text not in self.printed(name):
            assert all(process.is_alive() for process in self.processes), self.printed("err")
            time.sleep(0.001)

    def wait(self, timeout: float) -> SimpleNamespace:
        """Until they have ended, or one has failed, which ends the others as torchrun does; returncode and texts."""
        deadline = time.monotonic() + timeout
        while any(process.is_alive() for process in self.processes):
            codes = [process.exitcode for process in self.processes]
            if any(codes) or time.monotonic() > deadline:
                break
            multiprocessing.connection.wait([process.sentinel for process in self.processes], timeout=0.05)
        failed = next(filter(None, (process.exitcode for process in self.processes)), None)
        self.__exit__()
        code = failed or next(filter(None, (process.exitcode for process in self.processes)), 0)
        return SimpleNamespace(returncode=code, stdout=self.printed("out"), stderr=self.printed("err"))


def print_into(path: Path, function: Callable[..., object], arguments: Sequence[object]) -> None:
    for name, handle in (("out", 1), ("err", 2)):
        os.dup2(os.open(path.with_suffix(f".{name}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), handle)
    multiprocessing.set_start_method(None, force=True)  # for loader processes the system's default, not a forkserver
    code = function(*arguments)
    sys.stdout.flush()
    sys.exit(code)


@contextlib.contextmanager
def running(command: str, *arguments: object) -> Iterator[Processes]:
    """`python COMMAND ARGUMENTS` in a process group of its own, at once: without the seconds of an import of torch."""
    texts = [str(argument) for argument in arguments]
    with tempfile.TemporaryDirectory() as folder, Processes(Path(folder), call_main, [(command, texts)]) as processes:
        yield processes


def call_main(command: str, arguments: list[str]) -> int:
    os.setpgid(0, 0)
    return module_of(command).main(arguments)


@contextlib.contextmanager
def running_ranks(count: int, command: str, *arguments: object) -> Iterator[Processes]:
    """The command on so many ranks, as torchrun starts them but without torchrun, whose own import costs seconds."""
    texts = [str(argument) for argument in arguments]
    with rendezvous() as port, tempfile.TemporaryDirectory() as folder:
        ranks = [(rank_environment(rank, count, port), command, texts) for rank in range(count)]
        with Processes(Path(folder), be_a_rank, ranks) as processes:
            yield processes


@contextlib.contextmanager
def rendezvous() -> Iterator[int]:
    """The port of a store in which ranks find each other.  The system chooses it, so that no other process has it."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield store.port


def rank_environment(rank: int, count: int, port: int) -> dict[str, str]:
    """What torchrun tells a rank."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_PORT": port}
    texts = {name: str(number) for name, number in numbers.items()}
    return {**texts, "MASTER_ADDR": "127.0.0.1", "TORCHELASTIC_USE_AGENT_STORE": "True"}


def ranks(count: int, command: str, *arguments: object, timeout: float = 120) -> SimpleNamespace:
    """The same to the end: returncode, and what all of them printed."""
    with running_ranks(count, command, *arguments) as processes:
        return processes.wait(timeout)


def be_a_rank(environment: dict[str, str], command: str, arguments: list[str]) -> int:
    os.environ |= environment
    return call_main(command, arguments)


def assert_one_line_error(process, code: int, *words: str) -> None:
    """The command ended with `code` and at most two lines on stderr that contain every word, without a traceback."""
    lines = [line for line in process.stderr.splitlines() if line.strip()]
    assert process.returncode == code, process.stderr
    assert 1 <= len(lines) <= 2, process.stderr
    for word in words:
        assert word in process.stderr, process.stderr
    assert "Traceback" not in process.stderr
