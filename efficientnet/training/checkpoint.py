"""Files that are either whole or not there: atomic writing, checkpoints, and their reading without executing code."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import torch

FORMAT = "efficientnet-reference checkpoint 1"


class CheckpointError(Exception):
    """A checkpoint that cannot be used; str() is one line that names the file and what to do."""


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO]:
    """A file that appears at `path` whole when the block ends, or not at all.

    Written beside it under a temporary name, flushed to the disk, then renamed: a kill at any instant leaves either
    the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
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


def save_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Atomically.  `content` is made of tensors, numbers, strings, lists and dicts, so that `weights_only` opens it."""
    with atomic_file(path) as file:
        torch.save({"format": FORMAT, **content}, file)


def load_checkpoint(path: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """The content of a checkpoint of this project.  Nothing in the file is executed (`weights_only=True`).

    Raises CheckpointError for a missing, truncated or foreign file.
    """
    content = load_tensors(path, map_location)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: not a checkpoint of this project; train.py writes last.pt and best.pt")
    return content


def load_tensors(path: Path, map_location: str | torch.device = "cpu") -> Any:
    """`torch.load` with weights_only=True, and every way that it fails told in one line."""
    return explain_failures(path, lambda: torch.load(path, map_location=map_location, weights_only=True))


def explain_failures(path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: is a folder; name the file in it, such as best.pt") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except pickle.UnpicklingError:
        raise CheckpointError(f"{path}: holds more than tensors and plain values, so it is refused unread") from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, UnicodeDecodeError):
        raise CheckpointError(f"{path}: damaged, truncated, or not a PyTorch file; use another copy") from None
