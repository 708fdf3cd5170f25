"""Exit codes, one-line errors and argument types for commands. Does not import torch."""

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
    """The rank that torchrun assigned to this process; 0 without torchrun."""
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    """The number of ranks; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first_here() -> bool:
    """Whether this is the first process of the run on this machine."""
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


# The wheel holds the three scripts in a folder of the package; in a clone they stand beside it.
IN_WHEEL = Path(__file__).parents[1] / "commands"
SCRIPTS = IN_WHEEL if IN_WHEEL.is_dir() else Path(__file__).parents[2]
# Whether pip installed this command: by its name, or because the scripts are in the package.
INSTALLED = Path(sys.argv[0]).name.startswith("efficientnet-") or IN_WHEEL.is_dir()


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
    """An ArgumentParser with one-line errors, without the usage text before them and without abbreviated flags.

    Descriptions keep their line breaks, and the commands in them are those of `program_name`.
    """

    def __init__(self, **options) -> None:
        options["description"] = examples(options.get("description") or "")
        layout = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=30)
        super().__init__(allow_abbrev=False, formatter_class=layout, **options)

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and a one-line message, printed by one process on each machine.

        The other processes wait before they exit. Otherwise torchrun could end the printing process before it prints.
        """
        if not is_first_here():
            time.sleep(10)
            self.exit(2)
        self.exit(2, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def fail(program: str, message: object) -> int:
    """Print the message without a traceback and return exit code 1.

    Most failures hit every rank, and only rank 0 should report them. The other ranks therefore wait 10 seconds, in
    which torchrun ends them if rank 0 has failed. A rank that is still alive after that has failed alone and prints the
    message.
    """
    if rank() != 0:
        time.sleep(10)
        program = f"{program}: rank {rank()}"
    print(f"{program}: error: {message}", file=sys.stderr, flush=True)
    return 1


def leave(code: int) -> NoReturn:
    """Exit the process.

    A failed rank exits immediately, without destroying its process group: that would wait for the other ranks, which
    may be waiting for this one in a collective.
    """
    if code and "RANK" in os.environ:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            stream.flush()
        os._exit(code)
    raise SystemExit(code)


LOST_READER = (errno.EPIPE, errno.EIO, *([errno.EINVAL] if os.name == "nt" else []))


class Output:
    """A standard stream whose write errors do not abort the command, which may have worked for hours.

    After a failed write, all further text is discarded. If the reader has left (`train.py | head`, a closed terminal),
    the failure is ignored. Any other failure, such as a full disk, is kept in `error`. Characters that the stream's
    encoding lacks are written as escapes.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        # The stream is None if it was closed before the process started.
        self.stream = open(os.devnull, "w") if stream is None else stream  # noqa: SIM115
        self.error: OSError | None = None
        if hasattr(self.stream, "reconfigure"):  # notebook streams lack it
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
                os.dup2(nowhere.fileno(), self.stream.fileno())  # also covers output of native code
            self.stream = open(os.devnull, "w")  # noqa: SIM115


def command(program: str) -> Callable[[Callable[..., int | None]], Callable[..., int]]:
    """Decorate a command's `main(argv, **options)` so that it always returns an exit code.

    argv: the arguments; None means the command line.
    The exit code is 0 or the value that `main` returns; 2 with one line for a usage error; 1 with one line for a
    UserError or a file system error, including a full disk under the command's output; 1 with a traceback for a bug;
    130 for Ctrl-C. A reader that leaves early (`scale.py --table | head`) changes neither the exit code nor the work.
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
    """An argparse type: a file that can be written, checked before the work begins."""
    return writable(Path(text), is_folder=False)


def output_folder(text: str) -> Path:
    """An argparse type: a folder, new or existing, in which files can be written."""
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
    """An argparse type: an int or a finite float in [minimum, maximum], and greater than `above` if given."""

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
