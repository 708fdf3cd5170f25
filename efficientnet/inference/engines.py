"""Engines: what runs the convolutions of the fast path.

torch         PyTorch's operators, one after the other
compile       torch.compile, which generates code for this machine; it needs a C++ compiler, and half a minute
onnxruntime   ONNX Runtime, which reads the network's export to ONNX
openvino      OpenVINO, which does as well

An engine computes the pooled features. Classifier and attention stay with PyTorch.
"""

from __future__ import annotations

import functools
import glob
import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

import efficientnet
from efficientnet.common.errors import UserError
from efficientnet.common.extras import require
from efficientnet.common.files import write_bytes
from efficientnet.inference.exported import INPUT, exported, to_onnx

if TYPE_CHECKING:
    from efficientnet.inference.fast_path import InferenceModel

ENGINES = ("torch", "compile", "onnxruntime", "openvino")
# Engines that read ONNX, on the CPU, and the precisions that they compute in.
OF_ONNX = {"onnxruntime": ("fp32",), "openvino": ("fp32", "bf16")}
OUTPUT = "features"

Features = Callable[[Tensor], Tensor]


def check_engine(engine: str, precision: str, device: str) -> None:
    """Raise ValueError for an unknown engine, or a precision or type of device ("cpu", "cuda") that it lacks."""
    if engine not in ENGINES:
        raise ValueError(f"engine must be one of {', '.join(ENGINES)}, not {engine!r}")
    if precision not in OF_ONNX.get(engine, (precision,)):
        raise ValueError(f"{engine} has no {precision}: choose {' or '.join(OF_ONNX[engine])}")
    if engine in OF_ONNX and device != "cpu":
        raise ValueError(f"{engine} runs on the CPU here, not on {device}: choose the CPU, or another engine")


def installed(engine: str) -> ModuleType:
    """The package of an engine that reads ONNX. Raises MissingExtra."""
    return require(engine, "engines", f"the engine {engine}")


def has_bf16(openvino: ModuleType) -> bool:
    """Whether OpenVINO computes in bf16 on this processor. Where it does not, it would silently compute in fp32."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compiled(features: Features) -> Features:
    """Compile, with the weights as constants that are laid out once for the kernels."""
    import torch._inductor.config as inductor

    call = torch.compile(features)

    def frozen(images: Tensor) -> Tensor:
        with inductor.patch(freezing=True), torch.no_grad():
            return call(images)

    return frozen


def onnxruntime_features(read: Callable[[], bytes], precision: str) -> Features:
    """ONNX Runtime with PyTorch's number of threads. Raises MissingExtra."""
    onnxruntime = installed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(read(), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.float().numpy(force=True)})[0])


def openvino_features(read: Callable[[], bytes], precision: str) -> Features:
    """OpenVINO with PyTorch's number of threads. Raises MissingExtra, and UserError if the processor has no bf16."""
    openvino = installed("openvino")
    if precision == "bf16" and not has_bf16(openvino):
        raise UserError("this processor has no bf16 units, without which OpenVINO computes in fp32: choose fp32")
    options = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "PERFORMANCE_HINT": "LATENCY",
    }
    core = openvino.Core()
    model = core.compile_model(core.read_model(read()), "CPU", options)
    return lambda images: torch.from_numpy(model(images.float().numpy(force=True))[0].copy())


def features_of(network: InferenceModel, engine: str, precision: str, file: Path | None) -> Features:
    """A function that computes the network's pooled features on the engine. See `optimize_for_inference`."""
    if engine == "compile":
        return compiled(network.pooled_unchecked)
    load = {"onnxruntime": onnxruntime_features, "openvino": openvino_features}[engine]
    path = None
    if file is not None and not network.kept:  # a hash does not tell what the code of a changed layer does
        path = file.with_suffix(f".{fingerprint(network)}{file.suffix}")
        try:
            return load(path.read_bytes, precision)
        except UserError:
            raise
        except Exception:  # missing or damaged, for which each engine has errors of its own
            pass
    return load(functools.partial(onnx_of, network, path), precision)


class PooledFeatures(nn.Module):
    """The part of an `InferenceModel` that an engine runs: (N, C, H, W) -> (N, F)."""

    def __init__(self, network: InferenceModel) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.pooled_unchecked(images)


def onnx_of(network: InferenceModel, path: Path | None) -> bytes:
    """Export the pooled features, and write them to the path, NAME.HASH.onnx, instead of those of other hashes."""
    data = to_onnx(exported(PooledFeatures(network), network.in_channels), OUTPUT).SerializeToString()
    if path is not None:
        name = path.with_suffix("").stem
        try:
            write_bytes(path, data)
            for other in path.parent.glob(f"{glob.escape(name)}.{16 * '[0-9a-f]'}{path.suffix}"):
                if other != path:
                    other.unlink()
        except OSError as error:
            print(f"warning: {path}: {error.strerror}; every start exports the network again", file=sys.stderr)
    return data


def fingerprint(network: InferenceModel) -> str:
    """16 hex digits of a hash of what decides the export: the architecture, the weights, and the versions."""
    versions = (efficientnet.__version__, torch.__version__)
    digest = hashlib.sha256(repr((versions, network.stages, network.mirrored, network)).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy(force=True))
    return digest.hexdigest()[:16]
