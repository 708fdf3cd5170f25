"""Runs the project's commands: in this process where what they say and write matters, else as a person does."""

import contextlib
import importlib
import io
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

from torch.distributed import TCPStore

ROOT = Path(__file__).resolve().parents[1]


def run(command: str, *arguments: object) -> SimpleNamespace:
    """`python COMMAND ARGUMENTS` in this process, COMMAND a script or a module; returncode, stdout and stderr."""
    main = importlib.import_module(command.removesuffix(".py")).main
    output, errors = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = main([str(argument) for argument in arguments])
    stdout, stderr = (stream.buffer.getvalue().decode() for stream in (output, errors))
    return SimpleNamespace(returncode=code, stdout=stdout, stderr=stderr)


def python(*arguments: object, timeout: float = 120, environment: dict[str, str] | None = None):
    """`python ARGUMENTS` in the root of the clone, as a process of its own."""
    return launch([sys.executable, *map(str, arguments)], timeout, environment)


def torchrun(processes: int, *arguments: object, timeout: float = 300, environment: dict[str, str] | None = None):
    """`torchrun --nproc_per_node=PROCESSES ARGUMENTS` on a free port of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return launch([*launcher, *map(str, arguments)], timeout, environment)


def launch(command: list[str], timeout: float, environment: dict[str, str] | None = None):
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env={**os.environ, **(environment or {})}
    )


# Its server imports torch once, and its children are there within milliseconds.
FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload(["train"])


def ranks(count: int, command: str, *arguments: object, timeout: float = 120) -> SimpleNamespace:
    """The command on so many ranks, as torchrun starts them but without torchrun, whose own import costs seconds.

    What all of them printed together; the returncode is 0 if all had 0.
    """
    with tempfile.TemporaryDirectory() as folder, rendezvous() as port:
        processes = [
            FORKSERVER.Process(
                target=be_a_rank, args=(rank, count, port, folder, command, [str(argument) for argument in arguments])
            )
            for rank in range(count)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(timeout)
            process.kill()
            process.join()
        stdout, stderr = (
            "".join(Path(folder, f"{rank}.{name}").read_text() for rank in range(count)) for name in ("out", "err")
        )
    codes = [process.exitcode for process in processes]
    return SimpleNamespace(returncode=next(filter(None, codes), 0), stdout=stdout, stderr=stderr)


@contextlib.contextmanager
def rendezvous() -> Iterator[int]:
    """The port of a store in which ranks find each other; the system chooses it, so that no other process has it."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield store.port


def be_a_rank(rank: int, count: int, port: int, folder: str, command: str, arguments: list[str]) -> None:
    for name, handle in (("out", 1), ("err", 2)):
        os.dup2(os.open(Path(folder, f"{rank}.{name}"), os.O_WRONLY | os.O_CREAT | os.O_APPEND), handle)
    os.environ |= {name: str(rank) for name in ("RANK", "LOCAL_RANK")}
    os.environ |= {name: str(count) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    code = importlib.import_module(command.removesuffix(".py")).main(arguments)
    sys.stdout.flush()
    sys.exit(code)


def assert_one_line_error(process, code: int, *words: str) -> None:
    """The command ended with `code` and at most two lines on stderr that contain every word, without a traceback."""
    lines = [line for line in process.stderr.splitlines() if line.strip()]
    assert process.returncode == code, process.stderr
    assert 1 <= len(lines) <= 2, process.stderr
    for word in words:
        assert word in process.stderr, process.stderr
    assert "Traceback" not in process.stderr
