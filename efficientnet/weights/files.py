"""Read and write files of tensors: .safetensors, and PyTorch's files with the wrappers of many training scripts.

PyTorch's files are read with weights_only=True. Objects of unknown classes become empty objects: nothing is executed.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efficientnet.common.errors import UserError
from efficientnet.common.extras import require
from efficientnet.common.files import CheckpointError, atomic_file, explain_failures, load_tensors, write_bytes

FORMAT = "efficientnet-reference weights 1"
WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
# Keys under which training scripts store the state_dict. Averaged weights come first, since the libraries evaluate
# those. mmengine stores its average under `state_dict` and the last weights under `ema_state_dict`, which is therefore
# not in the list.
WRAPPERS = ("state_dict_ema", "model_ema", "weights", "state_dict", "model", "model_state_dict")
# Pickled references that no training script needs. A file with one of them is refused, although it could do no harm.
CODE = {"os", "posix", "nt", "sys", "subprocess", "importlib", "runpy", "eval", "exec", "compile", "open", "__import__"}


class StandIn:
    """An empty object that replaces one of unknown class beside the weights. It ignores its arguments and state."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass


class DictStandIn:
    """The same for a dict subclass with entries: newer versions of PyTorch add entries only to dicts that they know."""

    def __new__(cls, *_: Any) -> OrderedDict:
        return OrderedDict()


# Wrappers that PyTorch puts around modules, at any depth: torch.compile, FSDP and checkpoint_wrapper.
WRAPPED = re.compile(r"(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")


class WeightsError(UserError, ValueError):
    """A file of weights that cannot be used; str() is one or two lines that name it and say why."""


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The tensors of a file's state_dict by name, and the records of a file that this project wrote, else {}.

    Raises WeightsError if the file is missing, damaged, refused for holding code, or has no state_dict or several;
    MissingExtra if the safetensors package is needed but not installed.
    """
    try:
        content, recorded = read_file(path)
    except CheckpointError as error:
        raise WeightsError(str(error)) from None
    tensors = {WRAPPED.sub("", name): tensor for name, tensor in find_state_dict(path, content).items()}
    return tensors, recorded if is_ours(recorded) else {}


def read_file(path: Path) -> tuple[Any, Any]:
    """The content of the file, and its records besides the tensors. Raises CheckpointError and MissingExtra.

    The first bytes tell the format: a .safetensors file begins with the length of its JSON header, and PyTorch's files
    are archives or pickles. For anything else the suffix decides.
    """

    def beginning() -> bytes:
        with open(path, "rb") as file:
            return file.read(64)

    head = explain_failures(path, beginning)
    if head.startswith(b"version https://git-lfs"):
        raise CheckpointError(f"{path}: is a Git LFS pointer, not the file itself: run git lfs pull, or download it")
    if head[8:9] != b"{" and (path.suffix != ".safetensors" or head.startswith((b"PK", b"\x80"))):
        content = read_pickle(path)
        return content, content
    safetensors = require("safetensors", "safetensors", f"reading {path}")

    def load() -> tuple[dict[str, Tensor], Any]:
        try:
            with safetensors.safe_open(path, "pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
                return tensors, json.loads((file.metadata() or {}).get("efficientnet", "{}"))
        except safetensors.SafetensorError as error:
            raise ValueError(error) from None

    return explain_failures(path, load)


def read_pickle(path: Path) -> Any:
    """The content of a file from `torch.save`, with stand-ins for objects of unknown classes, such as arguments.

    PyTorch refuses a class that it does not know. Each refused class gets a stand-in, an empty class of the same name,
    and the file is read again. PyTorch finds the stand-in by name; the real class is neither imported nor called.
    """
    stand_ins: dict[str, type] = {}
    while True:
        try:
            with torch.serialization.safe_globals(list(stand_ins.values())):
                load_tensors(path, "meta")  # fails for unknown classes without reading a tensor
                return load_tensors(path)
        except CheckpointError as error:
            name = error.refused or ""
            module, _, last = name.rpartition(".")
            before = stand_ins.get(name, object)
            kind = DictStandIn if issubclass(before, StandIn) else StandIn
            if CODE & set(name.split(".")) or not last.isidentifier() or issubclass(before, DictStandIn):
                raise
            stand_ins[name] = type(last, (kind,), {"__module__": module or "builtins"})


def is_ours(recorded: Any) -> bool:
    """Whether these are the records of a checkpoint of train.py or of a file of `load.save_weights`."""
    return isinstance(recorded, Mapping) and str(recorded.get("format")).startswith("efficientnet-reference ")


def find_state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """The state_dict inside a file's wrappers. Raises WeightsError if there is none, or several of equal preference."""
    found = state_dicts(content)
    if len(found) == 1:
        return found[0][1]
    if found:
        places = ["".join(f"[{key!r}]" for key in place) for place, _ in found]
        raise WeightsError(
            f"{path}: contains several state_dicts: {', '.join(places)}; save only the one you need: "
            f"torch.save(torch.load(PATH){places[0]}, NEW)"
        )

    def kind(value: Any) -> str:
        return f"{type(value).__module__}.{type(value).__name__}".removeprefix("builtins.")

    kinds = [kind(content)]
    if isinstance(content, Mapping):
        kinds = [f"{name} ({kind(value)})" for name, value in content.items()][:5] or ["nothing"]
    raise WeightsError(
        f"{path}: contains no state_dict, only {', '.join(kinds)}; where it was made, save only the tensors: "
        "torch.save(model.state_dict(), PATH)"
    )


def state_dicts(content: Any, place: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """The state_dicts in nested dicts, with the keys that lead to each; if WRAPPERS hold any, only those of the first.

    A dict is a state_dict if it holds a convolution's weight, or only tensors and is the whole content or a wrapper's.
    """
    if not isinstance(content, Mapping) or len(place) > 4:
        return []
    for wrapper in WRAPPERS:
        if found := state_dicts(content.get(wrapper), (*place, wrapper)):
            return found
    nested = [found for name, value in content.items() for found in state_dicts(value, (*place, str(name)))]
    tensors = {name: value for name, value in content.items() if isinstance(name, str) and torch.is_tensor(value)}
    named = len(tensors) == len(content) and (not place or place[-1] in WRAPPERS)
    if nested or not (tensors and (named or any(tensor.dim() == 4 for tensor in tensors.values()))):
        return nested
    return [(place, tensors)]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], recorded: Mapping[str, Any]) -> None:
    """Write a .safetensors file, or any other with `torch.save`, completely or not at all.

    recorded: plain values for `read_tensors` to return. Without any, the file is the bare state_dict.
    """
    recorded = {"format": FORMAT, **recorded} if recorded else {}
    if path.suffix != ".safetensors":
        with atomic_file(path) as file:
            torch.save({**recorded, "weights": tensors} if recorded else tensors, file)
        return
    safetensors = require("safetensors.torch", "safetensors", f"writing {path}")
    # transformers loads only files whose format is "pt".
    metadata = {"format": "pt"} | ({"efficientnet": json.dumps(recorded)} if recorded else {})
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.save(tensors, metadata))
