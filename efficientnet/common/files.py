"""Atomic file writes, and loading of tensors without executing code."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import re
import secrets
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from efficientnet.common.errors import UserError

if TYPE_CHECKING:
    import torch


# Suffix of `atomic_file`'s temporary files. A leftover file may be deleted once its writer is gone.
UNFINISHED = ".unfinished"
TEXT = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}  # file names in the text may be any bytes


class CheckpointError(UserError):
    """A checkpoint cannot be used; str() is one line that names the file and says what to do.

    refused: the full name of the class or function because of which the file was refused unread, if known.
    """

    refused: str | None = None


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO]:
    """Open a file that appears at `path` when the block ends, complete or not at all.

    The file is written to the same folder under a temporary name, flushed to disk and renamed. A kill at any instant
    leaves either the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # Shorten the name: with a suffix, a long one would exceed the file system's limit of 255 bytes.
    temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}{UNFINISHED}")
    try:
        with open(temporary, mode.replace("w", "x"), **({} if "b" in mode else TEXT)) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    with contextlib.suppress(OSError):  # flush the new name; not every system can flush a folder
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def remove_unfinished(folder: Path, seconds: float = 3600) -> None:
    """Delete the temporary files that killed writers left in a folder and its subfolders.

    seconds: delete files that have not been written to for this long; a live writer needs a few seconds at most. Pass 0
    if no writer is alive.
    """
    for path in folder.rglob(f".*{UNFINISHED}"):
        with contextlib.suppress(OSError):  # such as a file finished in the meantime
            if not seconds or time.time() - path.stat().st_mtime > seconds:
                path.unlink()


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    with atomic_file(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    with atomic_file(path, "w") as file:
        json.dump(value, file, indent=2)
        file.write("\n")


def load_tensors(path: Path, map_location: str | torch.device = "cpu") -> Any:
    """`torch.load` with weights_only=True; raises CheckpointError with a one-line message for every failure."""
    import torch  # here, so that processes that only write files start without torch

    def load() -> Any:
        with warnings.catch_warnings(), open(path, "rb") as file:  # given a path, torch would try to read .safetensors
            # Warnings about newer pickle protocols and TorchScript. If loading fails, the CheckpointError says why.
            warnings.filterwarnings("ignore", "Detected pickle protocol|.*TorchScript archive")
            return torch.load(file, map_location=map_location, weights_only=True)

    return explain_failures(path, load)


def explain_failures(path: Path, load: Callable[[], Any]) -> Any:
    """Return `load()`; raise CheckpointError for every failure to read a file of tensors."""
    try:
        return load()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: is a folder; give a file in it, such as best.pt") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # a newer pickle protocol, or not a pickle at all
            raise CheckpointError(
                f"{path}: not in torch.save's default format (damaged, a different format, or a pickle with other "
                "objects); refused without loading"
            ) from None
        found = re.search(r"(?:GLOBAL |SETITEM.* got <class ')([^\s']+)", str(error))
        kind = f" ({found[1]})" if found else ""
        refusal = CheckpointError(
            f"{path}: contains more than tensors and plain values{kind}; refused without loading. "
            "Where it was made, save only the tensors: torch.save(model.state_dict(), PATH)"
        )
        refusal.refused = found and found[1]
        raise refusal from None
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can cause almost any error
        if "TorchScript" in str(error):
            raise CheckpointError(
                f"{path}: is a TorchScript archive; save its tensors: "
                "torch.save(torch.jit.load(PATH).state_dict(), NEW)"
            ) from None
        if "locating file data.pkl" in str(error):
            raise CheckpointError(
                f"{path}: is a different kind of archive, such as torch.export's; save the model's state_dict instead"
            ) from None
        raise CheckpointError(f"{path}: damaged, truncated, or in an unknown format; use another copy") from None
