"""Engines: what runs the convolutions of the fast path.

torch         PyTorch's operators, one after the other
compile       AOTInductor, PyTorch's compiler ahead of time; it needs a C++ compiler, and a minute or two
onnxruntime   ONNX Runtime, which reads the network's export to ONNX
openvino      OpenVINO, which does as well

An engine computes the pooled features. Classifier and attention stay with PyTorch. What is made for an engine is kept
in a file for the next time; its name has a hash of all that it depends on.
"""

from __future__ import annotations

import glob
import hashlib
import platform
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

import efficientnet
from efficientnet.common.cpu import cpu_flags
from efficientnet.common.errors import UserError
from efficientnet.common.extras import require
from efficientnet.common.files import write_bytes
from efficientnet.inference.exported import INPUT, SMALLEST, exported, to_onnx

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
    if engine == "onnxruntime":
        return require("onnxruntime", "engines", "the engine onnxruntime")
    return require("openvino", "engines", "the engine openvino")


def has_bf16(openvino: ModuleType) -> bool:
    """Whether OpenVINO computes in bf16 on this processor. Where it does not, it would silently compute in fp32."""
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def compiled_features(read: Callable[[], bytes], network: nn.Module, precision: str) -> Features:
    """A package of `compile_network`."""
    import torch._inductor as inductor  # takes more than a second

    with tempfile.TemporaryDirectory() as folder:  # the loader takes a path with this suffix, and copies the file
        package = Path(folder, "network.pt2")
        package.write_bytes(read())
        call = inductor.aoti_load_package(str(package))
    device = next(network.parameters()).device

    def features(images: Tensor) -> Tensor:
        if min(images.shape[2:]) < SMALLEST:
            return network.pooled_unchecked(images)
        return call(images.to(device, torch.float32).contiguous())  # the code checks neither type nor layout

    return features


def onnxruntime_features(read: Callable[[], bytes], network: nn.Module, precision: str) -> Features:
    """ONNX Runtime with PyTorch's number of threads. Raises MissingExtra."""
    onnxruntime = installed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(read(), options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {INPUT: images.float().numpy(force=True)})[0])


def openvino_features(read: Callable[[], bytes], network: nn.Module, precision: str) -> Features:
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


def features_of(network: nn.Module, engine: str, precision: str, checkpoint: Path | None) -> Features:
    """A function that computes the pooled features of an `InferenceModel` on the engine.

    See `optimize_for_inference`.
    """
    load, make = {
        "compile": (compiled_features, compile_network),
        "onnxruntime": (onnxruntime_features, onnx_of),
        "openvino": (openvino_features, onnx_of),
    }[engine]
    # A hash does not tell what the code of a changed layer does.
    path = None if network.kept else kept_file(network, engine, checkpoint)
    if path is not None:
        try:
            return load(path.read_bytes, network, precision)
        except UserError:
            raise
        except Exception:  # missing or damaged, for which each engine has errors of its own
            pass

    def written() -> bytes:
        print(f"making the network for the engine {engine}{f', to be kept as {path}' if path else ''}", file=sys.stderr)
        data = make(network)
        if path is not None:
            keep(data, path)
        return data

    return load(written, network, precision)


def kept_file(network: nn.Module, engine: str, checkpoint: Path | None) -> Path | None:
    """Where to keep what was made for the engine: ONNX beside the checkpoint, machine code in PyTorch's cache.

    The code is not beside the checkpoint, since a run folder from somebody else must not contain code that we run.
    """
    name = fingerprint(network, engine)
    if engine == "compile":
        return Path(torch.hub.get_dir(), "compiled", f"{name}.pt2")
    return None if checkpoint is None else checkpoint.with_suffix(f".{name}.onnx")


def keep(data: bytes, path: Path) -> None:
    """Write the file. If it is CHECKPOINT.HASH.onnx, delete those with other hashes."""
    try:
        write_bytes(path, data)
        for other in path.parent.glob(f"{glob.escape(path.with_suffix('').stem)}.{16 * '[0-9a-f]'}.onnx"):
            if other != path:
                other.unlink()
    except OSError as error:
        print(f"warning: {path}: {error.strerror}; every start makes it again", file=sys.stderr)


class PooledFeatures(nn.Module):
    """The part of an `InferenceModel` that an engine runs: (N, C, H, W) -> (N, F)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.pooled_unchecked(images)


def onnx_of(network: nn.Module) -> bytes:
    return to_onnx(exported(PooledFeatures(network), network.in_channels), OUTPUT).SerializeToString()


def compile_network(network: nn.Module) -> bytes:
    """Compile for this machine, with the weights laid out for the kernels. Raises UserError, as without a compiler."""
    import torch._inductor as inductor

    program = exported(PooledFeatures(network), network.in_channels)
    with tempfile.TemporaryDirectory() as folder:
        package = str(Path(folder, "network.pt2"))
        try:
            inductor.aoti_compile_and_package(program, package_path=package, inductor_configs={"freezing": True})
        except Exception as error:  # of the compiler, of the system, or of an older PyTorch
            reason = str(error).strip().partition("\n")[0]
            raise UserError(
                f"the engine compile failed; it needs PyTorch 2.6 or newer and a C++ compiler, such as g++: {reason}"
            ) from error
        return Path(package).read_bytes()


def fingerprint(network: nn.Module, engine: str) -> str:
    """16 hex digits of a hash of what decides the file: architecture, weights, versions, and for code the machine."""
    depends_on = [efficientnet.__version__, torch.__version__, network.stages, network.mirrored, network]
    if engine == "compile":
        device = next(network.parameters()).device
        card = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        depends_on += [network.precision, card, platform.machine(), cpu_flags(), torch.get_num_threads()]
    digest = hashlib.sha256(repr(depends_on).encode())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.float().numpy(force=True).tobytes())
    return digest.hexdigest()[:16]
