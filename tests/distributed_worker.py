"""Run by test_distributed.py on two ranks: what every rank must see of the others.  Prints "ok" from rank 0."""

import torch
from torch import nn

from efficientnet.training.distributed import start


def main(_: list[str]) -> None:
    process = start("cpu", None)
    assert process.world_size == 2 and process.backend == "gloo"
    assert process.gather(process.rank * 10) == [0, 10]
    assert process.broadcast({"folder": process.rank}) == {"folder": 0}

    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(1.0 + 2 * process.rank)
    norm.num_batches_tracked.fill_(5 + process.rank)
    process.average_buffers(norm)
    assert norm.running_mean.tolist() == [2.0, 2.0]
    norm.running_mean.fill_(1.0 + 2 * process.rank)
    process.broadcast_buffers(norm)
    assert norm.running_mean.tolist() == [1.0, 1.0] and norm.num_batches_tracked == 5

    # Gradient accumulation: two passes, exchanged once, give the mean gradient over all four parts of the batch.
    torch.manual_seed(0)
    batch = torch.randn(8, 3)
    reference = nn.Linear(3, 1)
    ddp = nn.parallel.DistributedDataParallel(nn.Linear(3, 1))
    ddp.module.load_state_dict(reference.state_dict())
    parts = batch.view(2, 2, 2, 3)[process.rank]
    with ddp.no_sync():
        (ddp(parts[0]).square().mean() / 2).backward()
    (ddp(parts[1]).square().mean() / 2).backward()
    reference(batch).square().mean().backward()
    assert torch.allclose(ddp.module.weight.grad, reference.weight.grad, atol=1e-6)
    process.barrier()
    if process.is_main:
        print("ok")
    del ddp
    process.leave()
