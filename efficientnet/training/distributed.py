"""The processes of a run: ranks under torchrun, or a single one under plain python."""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from efficientnet.common.command_line import rank, world_size
from efficientnet.common.cpu import keep_freed_memory

# Environment variables in which srun and MPI's mpirun give the number of processes that they started.
LAUNCHERS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE")


@dataclass(frozen=True)
class Process:
    """One process of the run. rank counts over all machines, local_rank on this one; a single one has backend None."""

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
        """Every rank's value, in rank order, on every rank."""
        if self.backend is None:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values

    def maximum(self, *values: int) -> list[int]:
        """The maximum of each value over the ranks, on every rank. Lets ranks agree on flags in one small message."""
        if self.backend is None:
            return [int(value) for value in values]
        largest = torch.tensor(values, dtype=torch.int32, device=self.device)
        dist.all_reduce(largest, dist.ReduceOp.MAX)
        return largest.tolist()

    @torch.no_grad()
    def broadcast_buffers(self, model: nn.Module) -> None:
        """Copy rank 0's batch-norm statistics to every rank.

        DDP broadcasts them before each forward pass, but each rank's own batch then changes them again.
        """
        if self.backend is not None:
            for buffer in model.buffers():
                dist.broadcast(buffer, src=0)

    @torch.no_grad()
    def average_buffers(self, model: nn.Module) -> None:
        """Replace every floating-point buffer by its mean over the ranks."""
        if self.backend is not None:
            for buffer in model.buffers():
                if buffer.is_floating_point():
                    dist.all_reduce(buffer)
                    buffer /= self.world_size

    def leave(self) -> None:
        """Leave the run and end gloo's threads. Call this once every DistributedDataParallel is out of use."""
        if self.backend is not None and dist.is_initialized():
            gc.collect()
            dist.destroy_process_group()


def start(device: str | None, backend: str | None, timeout_minutes: float = 10) -> Process:
    """Join the run and return this process.

    device: "cuda" or "cpu"; by default CUDA if available.  backend: by default nccl with CUDA, else gloo.
    timeout_minutes: how long a rank waits for the others, here and in every later exchange, before it fails.
    Raises ValueError if CUDA is requested but absent, if nccl is requested without CUDA or for more ranks than GPUs,
    under torchrun on Windows, and if a launcher other than torchrun has started several processes.
    """
    local_rank, local_world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device cuda: PyTorch finds no CUDA device; omit the flag or use --device cpu")
    backend = backend or ("nccl" if kind == "cuda" else "gloo")
    if kind == "cpu" and backend == "nccl":
        raise ValueError("--backend nccl needs CUDA devices; omit the flag or use gloo")
    if kind == "cuda":
        gpus = torch.cuda.device_count()
        if local_world > gpus and backend == "nccl":
            raise ValueError(
                f"{local_world} processes on this machine but only {gpus} GPU{'' if gpus == 1 else 's'}: use "
                f"--nproc_per_node={gpus}, or --backend gloo to share, or --device cpu"
            )
        torch.cuda.set_device(local_rank % gpus)
        chosen = torch.device("cuda", local_rank % gpus)
    else:
        chosen = torch.device("cpu")
        keep_freed_memory()
    if "RANK" not in os.environ:
        started = max(int(os.environ.get(name, 1)) for name in LAUNCHERS)
        if started > 1:
            raise ValueError(
                f"{started} processes were started without torchrun; each would be a separate run. Use srun "
                "--ntasks-per-node=1 torchrun --nproc_per_node=GPUS train.py ... for one run, or torchrun "
                "--nproc_per_node=1 for separate runs"
            )
        return Process(0, 1, 0, 1, chosen)
    if not dist.is_available() or sys.platform == "win32":
        raise ValueError("multiple processes need torch.distributed on Linux or macOS; run plain python train.py")
    bound = chosen if backend == "nccl" else None
    timeout = timedelta(minutes=timeout_minutes)
    # Import this module before there is a process group. DDP would import it later, and the module would keep the group
    # as an argument default, out of reach of destroy_process_group. gloo's threads would then outlive the interpreter,
    # and a thread that frees its last message at that point aborts a process that has finished its work.
    importlib.import_module("torch.distributed.fsdp")

    store, ranks = fresh_store(world_size(), timeout), world_size()
    dist.init_process_group(backend, store=store, rank=rank(), world_size=ranks, timeout=timeout, device_id=bound)
    return Process(rank(), ranks, local_rank, local_world, chosen, backend)


def fresh_store(ranks: int, timeout: timedelta) -> dist.Store:
    """The store in which the ranks find each other, under a prefix that no earlier start has used.

    torchrun keeps one store through its restarts (https://github.com/pytorch/pytorch/issues/135712). A rank that found
    another rank's address from before the restart would wait for it until the timeout. torchrun's own restart count
    cannot be the prefix, because it differs between machines. So rank 0 counts the starts and sends the count to every
    other rank. Each request has a number that was never used before, so only rank 0 of this start can have answered it.
    """
    store, _, _ = next(dist.rendezvous("env://", timeout=timeout))
    if rank() != 0:
        asked = store.add(f"asked/{rank()}", 1)
        start = int(store.get(f"answer/{rank()}/{asked}"))  # blocks until rank 0 answers
        store.set(f"joined/{start}/{rank()}", "")
        return dist.PrefixStore(f"start/{start}", store)
    start, deadline = store.add("starts", 1), time.monotonic() + timeout.total_seconds()
    missing = set(range(1, ranks))
    while missing:
        for other in list(missing):
            store.set(f"answer/{other}/{store.add(f'asked/{other}', 0)}", str(start))
            if store.check([f"joined/{start}/{other}"]):
                missing.remove(other)
        if time.monotonic() > deadline:
            raise dist.DistStoreError(f"timed out: ranks {sorted(missing)} did not join")
        time.sleep(0.01)
    return dist.PrefixStore(f"start/{start}", store)
