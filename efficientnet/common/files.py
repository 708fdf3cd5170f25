"""Files that are either whole or not there, and tensors read without executing code."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from efficientnet.common.errors import UserError

if TYPE_CHECKING:
    import torch


# How the temporary files of `atomic_file` end: whoever finds one may delete it, once its writer is gone.
UNFINISHED = ".unfinished"


class CheckpointError(UserError):
    """A checkpoint that cannot be used; str() is one line that names the file and what to do."""


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO]:
    """A file that appears at `path` whole when the block ends, or not at all.

    Written beside it under a temporary name, flushed to the disk, then renamed: a kill at any instant leaves either
    the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=UNFINISHED)
    try:
        with os.fdopen(handle, mode, **({} if "b" in mode else {"encoding": "utf-8", "newline": ""})) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~current_umask())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    with contextlib.suppress(OSError):  # the rename itself, where a directory can be synced
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def current_umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_json(path: Path, value: Any) -> None:
    with atomic_file(path, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def load_tensors(path: Path, map_location: str | torch.device = "cpu") -> Any:
    """`torch.load` with weights_only=True, and every way that it fails told in one line."""
    import torch  # here, so that processes that only write files start without it

    def load() -> Any:
        with warnings.catch_warnings():
            # That it may not be able to read a file: it then fails, and the line that says so is enough.
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(path, map_location=map_location, weights_only=True)

    return explain_failures(path, load)


def explain_failures(path: Path, load: Callable[[], Any]) -> Any:
    """What `load` returns; CheckpointError for the ways in which reading a file of tensors fails."""
    try:
        return load()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: is a folder; name the file in it, such as best.pt") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # of a newer pickle protocol, or of no pickle at all
            raise CheckpointError(
                f"{path}: not what torch.save writes by default (damaged, of another format, or a pickle with other "
                "things in it), so it is refused unread"
            ) from None
        found = re.search(r"GLOBAL (\S+)", str(error))
        kind = f" ({found.group(1)})" if found else ""
        raise CheckpointError(
            f"{path}: holds more than tensors and plain values{kind}, so it is refused unread"
        ) from None
    except CheckpointError:
        raise
    except Exception:  # a damaged file can mislead its reader into almost any error
        kind = "safetensors" if path.suffix == ".safetensors" else "PyTorch"
        raise CheckpointError(f"{path}: damaged, truncated, or not a {kind} file; use another copy") from None
