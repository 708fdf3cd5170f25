"""The processes of one run: ranks under torchrun, or a single one under plain python."""

from __future__ import annotations

import ctypes
import os
import platform
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from efficientnet.command_line import rank


@dataclass(frozen=True)
class Process:
    """This process among those of the run.  rank counts over all machines, local_rank on this one."""

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    backend: str | None = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def barrier(self) -> None:
        if self.backend is not None:
            dist.barrier()

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, on every rank."""
        if self.backend is None:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value in the order of ranks, on every rank."""
        if self.backend is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    @torch.no_grad()
    def broadcast_buffers(self, model: nn.Module) -> None:
        """Rank 0's batch-norm statistics on every rank.

        DDP broadcasts them at each forward pass, and each rank's own batch changes them again.
        """
        if self.backend is not None:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    @torch.no_grad()
    def average_buffers(self, model: nn.Module) -> None:
        """The mean over the ranks of every floating-point buffer."""
        if self.backend is not None:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.world_size


def start(device: str | None, backend: str | None, timeout_minutes: float = 30) -> Process:
    """Joins the run.  device: "cuda" or "cpu", by default what the machine has; backend: nccl with CUDA, else gloo.

    Raises ValueError where more ranks than GPUs would share them under nccl, or CUDA is asked for and absent.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    local_rank, local_world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch sees no CUDA device here; leave the flag out or use --device cpu")
    backend = backend or ("nccl" if kind == "cuda" else "gloo")
    if kind == "cpu" and backend == "nccl":
        raise ValueError("--backend nccl needs CUDA devices; leave the flag out or use gloo")
    if kind == "cuda":
        gpus = torch.cuda.device_count()
        if local_world > gpus and backend == "nccl":
            raise ValueError(
                f"{local_world} processes on this machine but {gpus} GPU{'s' * (gpus != 1)}: use "
                f"--nproc_per_node={gpus}, or --backend gloo to share, or --device cpu"
            )
        torch.cuda.set_device(local_rank % gpus)
        chosen = torch.device("cuda", local_rank % gpus)
    else:
        chosen = torch.device("cpu")
        keep_freed_memory()
    if "RANK" not in os.environ:
        return Process(0, 1, 0, 1, chosen)
    bound = chosen if backend == "nccl" else None
    dist.init_process_group(backend, timeout=timedelta(minutes=timeout_minutes), device_id=bound)
    return Process(rank(), world_size, local_rank, local_world, chosen, backend)


def stop(process: Process) -> None:
    if process.backend is not None and dist.is_initialized():
        dist.destroy_process_group()


def keep_freed_memory() -> None:
    """Tells glibc to keep freed blocks for the next use instead of returning them to the kernel.

    By default every activation of some size is mapped anew and its pages are zeroed one fault at a time, which costs
    more than the arithmetic of a layer on a CPU.  Linux with glibc only; elsewhere nothing happens.
    """
    if platform.system() != "Linux" or platform.libc_ver()[0] != "glibc":
        return
    m_trim_threshold, m_mmap_threshold, largest = -1, -3, 2**31 - 1
    libc = ctypes.CDLL(None)
    libc.mallopt(m_mmap_threshold, largest)
    libc.mallopt(m_trim_threshold, largest)
