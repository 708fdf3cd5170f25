"""Commands: exit codes, errors in one line, and argument types. No torch here."""

from __future__ import annotations

import argparse
import contextlib
import errno
import functools
import math
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

from efficientnet.common.errors import UserError


def rank() -> int:
    """The rank that torchrun gave this process; 0 without it."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """The number of ranks; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first_here() -> bool:
    """Whether this is the first process of the run on this machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


INSTALLED = Path(sys.argv[0]).name.startswith("efficientnet-")  # by pip, and not started from a clone


def program_name(start: str) -> str:
    """The name of a command in messages: `start` in a clone, efficientnet-NAME where pip installed it.

    start: such as "train.py", "python train.py" or "python -m efficientnet.export".
    """
    return f"efficientnet-{re.split('[ .]', start.removesuffix('.py'))[-1]}" if INSTALLED else start


def examples(text: str) -> str:
    """The text with the commands in it as `program_name` gives them."""
    if not INSTALLED:
        return text
    text = re.sub(r"(torchrun \S+) train\.py", r"\1 --no-python efficientnet-train", text)
    return re.sub(r"python (-m [\w.]+|\w+\.py)", lambda found: program_name(found[0]), text)


class Parser(argparse.ArgumentParser):
    """argparse with errors in one line, without the usage before it, and without abbreviated flags.

    Descriptions keep their line breaks, and the commands in them are those of `program_name`.
    """

    def __init__(self, **options) -> None:
        options["description"] = examples(options.get("description") or "")
        layout = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=30)
        super().__init__(allow_abbrev=False, formatter_class=layout, **options)

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line, printed by one process on each machine.

        The others wait for torchrun to end them, or it would end the one that speaks.
        """
        if not is_first_here():
            time.sleep(10)
            self.exit(2)
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def fail(program: str, message: object) -> int:
    """Print the message without a traceback; returns exit code 1.

    Most failures meet every rank, and rank 0 speaks for all. Another rank waits for torchrun to end it because of rank
    0's failure; if that does not happen, the failure is its own, and it says so.
    """
    if rank() != 0:
        time.sleep(10)
        program = f"{program}: rank {rank()}"
    print(f"{program}: error: {message}", file=sys.stderr, flush=True)
    return 1


def leave(code: int) -> NoReturn:
    """End the process.

    A rank that failed exits at once, without destroying its process group: the others may be waiting for it in a
    collective, and it would wait for them.
    """
    if code and "RANK" in os.environ:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(code)
    raise SystemExit(code)


LOST_READER = (errno.EPIPE, errno.EIO, *([errno.EINVAL] if os.name == "nt" else []))


class Output:
    """A standard stream whose failure does not end a command that may have worked for hours.

    After a failed write its text is discarded: the reader has left (`train.py | head`, a closed terminal), or a disk is
    full, which `error` keeps. A character that its encoding lacks is written as an escape.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        # None: it was closed before the start.
        self.stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        self.error: OSError | None = None
        if hasattr(self.stream, "reconfigure"):  # not in notebooks
            self.stream.reconfigure(errors="backslashreplace", line_buffering=True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        self.attempt(self.stream.write, text)
        return len(text)

    def flush(self) -> None:
        self.attempt(self.stream.flush)

    def attempt(self, action: Callable[..., object], *arguments: str) -> None:
        try:
            action(*arguments)
        except OSError as error:
            if error.errno not in LOST_READER:
                self.error = self.error or error
            with contextlib.suppress(OSError, ValueError), open(os.devnull, "w") as nowhere:
                os.dup2(nowhere.fileno(), self.stream.fileno())  # also for what native code writes
            self.stream = open(os.devnull, "w")  # noqa: SIM115


def command(program: str) -> Callable[[Callable[..., int | None]], Callable[..., int]]:
    """Decorate a command's `main(argv, **options)`: it returns an exit code, whatever happens.

    argv: the arguments; None takes those of the command line.
    The code is 0 or the one that `main` returns; 2 with one line for a usage error; 1 with one line for a UserError or
    a failure of the file system, also of a full disk under its output; 1 with the traceback for a bug; 130 for Ctrl-C.
    A reader of its output that leaves early (`scale.py --table | head`) changes neither the code nor the work.
    """

    def decorate(main: Callable[..., int | None]) -> Callable[..., int]:
        @functools.wraps(main)
        def guarded(argv: Sequence[str] | None = None, **options: Any) -> int:
            output = Output(sys.stdout)
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(Output(sys.stderr)):
                code = outcome(argv, **options)
                output.flush()
                if output.error and not code:
                    return fail(program, f"cannot write output: {output.error.strerror}")
                return code

        def outcome(argv: Sequence[str] | None, **options: Any) -> int:
            try:
                return main(argv, **options) or 0
            except SystemExit as leaving:  # argparse: a usage error, or --help
                return leaving.code
            except UserError as error:
                return fail(program, error)
            except OSError as error:  # a full disk, a folder without permission
                return fail(program, f"{error.filename}: {error.strerror}" if error.filename else error)
            except Exception:
                traceback.print_exc()
                return 1
            except KeyboardInterrupt as interruption:
                if rank() == 0:
                    print(": ".join([program, "interrupted", *map(str, interruption.args)]), file=sys.stderr)
                return 130

        return guarded

    return decorate


def output_file(text: str) -> Path:
    """An argparse type: a file that can be written, which is found out before the work."""
    return writable(Path(text), is_folder=False)


def output_folder(text: str) -> Path:
    """An argparse type: a folder, new or old, in which files can be written."""
    return writable(Path(text), is_folder=True)


def writable(path: Path, is_folder: bool) -> Path:
    if path.exists() and not (path.is_dir() if is_folder else path.is_file()):
        kind = "a folder" if path.is_dir() else "a file" if path.is_file() else "a device"
        raise argparse.ArgumentTypeError(f"{path} is {kind}; expected {'a folder' if is_folder else 'a file'}")
    place = path if is_folder else path.parent
    while not (place.exists() or place.is_symlink()):
        place = place.parent
    if not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
        reason = "is not writable" if place.is_dir() else "is not a folder"
        raise argparse.ArgumentTypeError(f"cannot write {path}: {place} {reason}; choose another path")
    return path


def number(
    kind: type, minimum: float = -math.inf, maximum: float = math.inf, *, above: float | None = None
) -> Callable[[str], float | int]:
    """An argparse type: an int or a finite float in [minimum, maximum], and greater than `above` where given."""

    def convert(text: str) -> float | int:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a {'whole number' if kind is int else 'number'}"
            ) from None
        if not math.isfinite(value) or not minimum <= value <= maximum or (above is not None and value <= above):
            bounds = [f"above {above:g}"] if above is not None else []
            bounds += [f"at least {minimum:g}"] if minimum > -math.inf else []
            bounds += [f"at most {maximum:g}"] if maximum < math.inf else []
            raise argparse.ArgumentTypeError(f"{text} must be {' and '.join(bounds) or 'finite'}")
        return value

    return convert
