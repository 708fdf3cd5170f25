"""One measurement in a fresh process: `python -m efficientnet.benchmark.worker TASK` prints the result as JSON.

In a fresh process, one library's process-wide settings, such as the allocator's, do not affect another library.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from efficientnet.common.command_line import command, leave
from efficientnet.common.cpu import keep_freed_memory
from efficientnet.create import create_model
from efficientnet.inference.fast_path import optimize_for_inference
from efficientnet.inference.precision import PRECISIONS, autocast
from efficientnet.training.fast_cpu import accelerate_training

# For each other library: our name of an architecture, and the library's own.
B0_TO_B7 = [f"b{number}" for number in range(8)]
PEERS = {
    "torchvision": {name: f"efficientnet_{name}" for name in B0_TO_B7}
    | {"resnet50": "resnet50", "mobilenet_v2": "mobilenet_v2"},
    "timm": {name: f"efficientnet_{name}" for name in [*B0_TO_B7, "b8", "l2"]}
    | {"resnet50": "resnet50", "mobilenet_v2": "mobilenetv2_100"},
    "efficientnet_pytorch": {name: f"efficientnet-{name}" for name in [*B0_TO_B7, "b8", "l2"]},
}
# Our paths: the model of `create_model`, and the fast path; others are the fast path on the engine of that name.
PLAIN, FAST = "as written", "fast path"
WARM_UP, FEWEST = 2, 3  # number of uncounted calls, minimum number of counted ones


@dataclass(frozen=True)
class Task:
    """A measurement of a library's model on random images for `seconds`. Library "machine" measures `ceilings`."""

    library: str
    variant: str = "b0"
    batch_size: int = 16
    image_size: int = 224
    train: bool = False
    path: str = PLAIN
    precision: str = "fp32"
    device: str = "cpu"
    seconds: float = 3.0
    threads: int | None = None
    folder: str | None = None  # where engines keep their files

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def build(task: Task) -> nn.Module:
    """The model with its library's defaults: 1000 classes, random weights."""
    if task.library not in PEERS:
        return create_model(task.variant)
    name = PEERS[task.library][task.variant]
    if task.library == "torchvision":
        return getattr(importlib.import_module("torchvision.models"), name)(weights=None)
    if task.library == "timm":
        return importlib.import_module("timm").create_model(name)
    return importlib.import_module("efficientnet_pytorch").EfficientNet.from_name(name)


def prediction(task: Task) -> Callable[[Tensor], Any]:
    """A function that returns the logits of a batch."""
    model = build(task).to(task.device).eval()
    if task.path != PLAIN:
        engine = "torch" if task.path == FAST else task.path
        checkpoint = None
        if task.folder is not None:
            torch.hub.set_dir(task.folder)
            checkpoint = Path(task.folder, "network.pt")
        return optimize_for_inference(model, task.precision, engine=engine, checkpoint=checkpoint)

    def predict(images: Tensor) -> Tensor:
        with torch.inference_mode(), autocast(torch.device(task.device), task.precision):
            return model(images)

    return predict


def training_step(task: Task) -> Callable[[Tensor], Any]:
    """A function that performs a training step on a batch: forward, backward, SGD with momentum."""
    model = build(task).to(task.device).train()
    if task.path == FAST:  # as in train.py
        if task.device == "cpu":
            accelerate_training(model, task.precision)
        model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, fused=True if task.path == FAST else None)
    targets = torch.arange(task.batch_size, device=task.device) % 1000

    def step(images: Tensor) -> None:
        if task.path == FAST:
            images = images.contiguous(memory_format=torch.channels_last)
        with autocast(torch.device(task.device), task.precision):
            logits = model(images)
        nn.functional.cross_entropy(logits.float(), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def seconds_of(call: Callable[[], Any], at_least: float, device: str = "cpu") -> list[float]:
    """Seconds of each call after warm-up, over at least `at_least` seconds in total; on CUDA measured by events."""
    for _ in range(WARM_UP):
        call()
    times: list[float] = []
    while sum(times) < at_least or len(times) < FEWEST:
        if device == "cuda":
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end) / 1000)
        else:
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
    return times


def peak_mebibytes(device: str) -> float:
    """Peak memory in MiB of this process; on CUDA, of its tensors on the device."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    try:
        import resource  # not on Windows
    except ImportError:
        return float("nan")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def ceilings(task: Task) -> dict[str, float]:
    """Limits of the machine: billion multiply-adds a second in a matrix product, by precision; memory in GB/s."""
    side = 4096 if task.device == "cuda" else 1024  # as fast as larger matrices, and not too slow if bf16 is emulated
    result = {}
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32  # the same setting as for convolutions
    for name in ("fp32", "bf16", "fp16") if task.device == "cuda" else ("fp32", "bf16"):
        matrix = torch.randn(side, side, device=task.device).to(PRECISIONS[name])
        best = min(seconds_of(lambda matrix=matrix: matrix @ matrix, task.seconds / 3, task.device))
        result[name] = side**3 / best / 1e9
    big = torch.zeros(2**26, device=task.device)  # 256 MiB, more than any cache
    best = min(seconds_of(lambda: big.add_(1), task.seconds / 3, task.device))
    return result | {"memory": 2 * big.nbytes / best / 1e9}


def measure(task: Task) -> dict[str, Any]:
    """{"seconds": [...], "peak": MiB}, or the `ceilings` of the machine."""
    torch.manual_seed(0)
    if task.threads is not None:
        torch.set_num_threads(task.threads)
    if task.library == "machine":
        keep_freed_memory()
        return ceilings(task)
    call = training_step(task) if task.train else prediction(task)
    if task.library not in PEERS and task.path != PLAIN:
        keep_freed_memory()  # only now, so that memory used to fold the weights is freed first
    images = torch.randn(task.batch_size, 3, task.image_size, task.image_size, device=task.device)
    times = seconds_of(lambda: call(images), task.seconds, task.device)
    return {"seconds": times, "peak": peak_mebibytes(task.device)}


@command("python -m efficientnet.benchmark.worker")
def main(argv: Sequence[str] | None = None) -> None:
    print(json.dumps(measure(Task(**json.loads((argv or sys.argv[1:])[0])))))


if __name__ == "__main__":
    leave(main())
