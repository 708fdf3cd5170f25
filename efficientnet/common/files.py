"""Files that are written completely or not at all, and tensors that are read without executing code."""

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


# The ending of `atomic_file`'s temporary files. One that is left behind may be deleted once its writer is gone.
UNFINISHED = ".unfinished"
TEXT = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}  # a file's name may be any bytes


class CheckpointError(UserError):
    """A checkpoint that cannot be used; str() is one line that names the file and what to do.

    refused: the class or function, by its full name, for which a file was refused unread.
    """

    refused: str | None = None


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO]:
    """A file that appears at `path` complete when the block ends, or not at all.

    It is written in the same folder under a temporary name, flushed to disk and renamed: a kill at any instant leaves
    either the old file or the new one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # File systems allow names of 255 bytes, which is too short for some names with an ending.
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
    with contextlib.suppress(OSError):  # not every system can flush a folder, which holds the new name
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def remove_unfinished(folder: Path, seconds: float = 3600) -> None:
    """Delete the temporary files of killed writers in a folder and those below it.

    They are those not written to for so many seconds, of which a living writer needs a few at most; 0 if none lives.
    """
    for path in folder.rglob(f".*{UNFINISHED}"):
        with contextlib.suppress(OSError):  # such as one that was finished in the meantime
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
    """`torch.load` with weights_only=True; raises CheckpointError in one line for every way it fails."""
    import torch  # here, so that processes that only write files start without it

    def load() -> Any:
        with warnings.catch_warnings(), open(path, "rb") as file:  # by its ending torch would read a .safetensors file
            # A newer pickle protocol, which torch may fail to read, and TorchScript. The CheckpointError says so.
            warnings.filterwarnings("ignore", "Detected pickle protocol|.*TorchScript archive")
            return torch.load(file, map_location=map_location, weights_only=True)

    return explain_failures(path, load)


def explain_failures(path: Path, load: Callable[[], Any]) -> Any:
    """Return `load()`; raise CheckpointError for the ways in which reading a file of tensors fails."""
    try:
        return load()
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path}: is a folder; give a file in it, such as best.pt") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except pickle.UnpicklingError as error:
        if "Unsupported operand" in str(error):  # a newer pickle protocol, or no pickle at all
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
    except Exception as error:  # a damaged file can cause almost any error in its reader
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
