"""Checkpoint files: written atomically, verified, and read without executing code.

A run folder holds the newest checkpoint as last.pt and the newest few as checkpoints/update-<number>.pt. Next to each
file X.pt, X.pt.sha256 holds its SHA-256 in the format of sha256sum.
"""

from __future__ import annotations

import hashlib
import io
import os
import shlex
import textwrap
from pathlib import Path
from typing import Any

import torch

from efficientnet.common.files import UNFINISHED, CheckpointError, atomic_file, explain_failures, load_tensors

FORMAT = "efficientnet-reference checkpoint 1"
NUMBERED = "checkpoints"  # the folder of the newest few checkpoints


def serialise(content: dict[str, Any]) -> memoryview:
    """Serialise a checkpoint to bytes, as a copy of its current content.

    content: only tensors, numbers, strings, lists and dicts, so that `weights_only` can read it.
    """
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content}, buffer)
    return buffer.getbuffer()


def write_checkpoint(path: Path, data: bytes | memoryview) -> None:
    """Write serialised content to a file atomically, then write its checksum.

    A kill between the two leaves the new file without a checksum, never with the checksum of the old file.
    """
    checksum = checksum_path(path)
    with atomic_file(path) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())  # a full disk fails here, while the old file and its checksum are still there
        checksum.unlink(missing_ok=True)
    with atomic_file(checksum, "w") as file:
        file.write(f"{hashlib.sha256(data).hexdigest()}  {path.name}\n")


def write_numbered(folder: Path, number: int, data: bytes | memoryview, keep: int) -> None:
    """Write the checkpoint after `number` updates, also as last.pt, and keep only the last `keep` - 1 before it.

    last.pt is a hard link to the same file, or a copy if the disk has no hard links. Checkpoints with a higher number
    are deleted: they are left over if a run was resumed from an earlier one.
    """
    path, last = numbered_path(folder, number), folder / "last.pt"
    write_checkpoint(path, data)
    checksum_path(last).unlink(missing_ok=True)
    link = path.with_name(f".last.pt{UNFINISHED}")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)
        os.replace(link, last)
        with atomic_file(checksum_path(last), "w") as file:
            file.write(checksum_path(path).read_text(encoding="utf-8").replace(path.name, last.name))
    except OSError:
        write_checkpoint(last, data)
    others = [other for other in numbered_checkpoints(folder) if other != path]  # a network disk may not list path yet
    kept = [other for other in others if other < path][: keep - 1]
    for old in set(others) - set(kept):
        checksum_path(old).unlink(missing_ok=True)
        old.unlink(missing_ok=True)


def numbered_path(folder: Path, number: int) -> Path:
    return folder / NUMBERED / f"update-{number:08}.pt"


def numbered_checkpoints(folder: Path) -> list[Path]:
    """The numbered checkpoints of a run folder, newest first."""
    return sorted((folder / NUMBERED).glob("update-*.pt"), reverse=True)


def checksum_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def load_checkpoint(path: Path, map_location: str | torch.device = "cpu") -> dict[str, Any]:
    """Load the content of a checkpoint of this project. Executes nothing in the file (`weights_only=True`).

    Raises CheckpointError for a missing, truncated or foreign file, and for a file that differs from its checksum.
    """
    explain_failures(path, lambda: verify(path))
    content = load_tensors(path, map_location)
    written = content.get("format") if isinstance(content, dict) else None
    if written != FORMAT:
        if str(written).startswith(FORMAT.rstrip("0123456789")):
            raise CheckpointError(f"{path}: written by another version of this project ({written}); use that version")
        raise CheckpointError(
            f"{path}: not a checkpoint of this project (train.py writes last.pt and best.pt); to start from other "
            "weights, use --weights"
        )
    return content


def misfit(what: Path | str, error: Exception) -> CheckpointError:
    """The error to raise when the content of a checkpoint does not fit the code."""
    reason = textwrap.shorten(str(error), 300, placeholder=" ...")
    return CheckpointError(f"{what} does not fit this version of the project ({reason})")


def check_task(path: Path, content: dict[str, Any], name: str) -> None:
    """Raise CheckpointError for a checkpoint of another task. Old checkpoints that name no task are for screening."""
    trained_for = content.get("task", "screening")
    if trained_for != name:
        raise CheckpointError(f"{path}: was trained for {trained_for}, not for {name}")


def verify(path: Path) -> None:
    """Raise CheckpointError if the file differs from its checksum. A file without a checksum passes."""
    checksum = checksum_path(path)
    if not checksum.exists():
        return
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    if checksum.read_text(encoding="utf-8").partition(" ")[0] != digest.hexdigest():
        raise CheckpointError(f"{path}: damaged (checksum differs from {checksum.name}); use another copy")


def load_newest(folder: Path) -> tuple[Path, dict[str, Any], list[str]]:
    """The newest intact checkpoint of a run folder, its content, and a line for each newer damaged one.

    Raises CheckpointError if there is none.
    """
    damaged: dict[Path, str] = {}
    for path in (folder / "last.pt", *numbered_checkpoints(folder)):
        if not path.exists() or any(path.samefile(other) for other in damaged):
            continue
        try:
            return path, load_checkpoint(path), list(damaged.values())
        except CheckpointError as error:
            damaged[path] = str(error)
    if damaged:
        raise CheckpointError(f"{next(iter(damaged.values()))} (no other checkpoint of this run is intact)")
    raise CheckpointError(
        f"{folder / 'last.pt'}: no such file; the run had not saved a checkpoint yet. Restart it with "
        f"--resume auto --output {shlex.quote(str(folder))}, or delete the folder"
    )
