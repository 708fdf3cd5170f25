"""Run by test_elastic.py on some ranks: the losses of some updates of 6 images, whatever the number of ranks.

Prints from rank 0 those with batch norm in evaluation mode ("fixed"), and those with each rank's own ("per rank").
"""

import json

import torch
from torch import nn

from efficientnet import B0, Coefficients, create_model, scale
from efficientnet.mammography.loss import screening_loss
from efficientnet.mammography.targets import Target
from efficientnet.training.batch_norm import recalibrate_batch_norm
from efficientnet.training.distributed import Process, start
from efficientnet.training.learner import take_step
from efficientnet.training.sampler import BalancedSampler

LABELS = torch.arange(24) % 4 == 0
IMAGES = torch.randn(24, 1, 64, 64, generator=torch.Generator().manual_seed(1)) + LABELS[:, None, None, None]


def losses_with_batch_norm(mode: str, process: Process, factors: Coefficients) -> list[float]:
    torch.manual_seed(0)
    model = create_model(scale(B0, factors), 1, 1, dropout=0.0, stochastic_depth=0.0)
    model = model.to(memory_format=torch.channels_last)
    ddp = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True)
    if mode == "fixed":  # to statistics that fit, or the logits of fresh weights all but vanish
        recalibrate_batch_norm(model, IMAGES, process.device, "fp32")
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and mode == "fixed":
            module.eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    size, rank = 6 // process.world_size, process.rank
    sampler = BalancedSampler(LABELS.numpy(), 0.5, size, rank=rank, world_size=process.world_size)
    losses = []
    for epoch in range(2):
        sampler.epoch = epoch
        for draws in sampler:
            rows = [draw.index for draw in draws]
            loss = screening_loss(ddp(IMAGES[rows]), LABELS[rows, None].float(), (Target("cancer"),))
            loss.backward()
            take_step(optimizer, scaler, model.parameters(), clip=1.0)
            losses.append(sum(process.gather(loss.item())) / process.world_size)
    return losses


def main(arguments: list[str]) -> None:
    """arguments: the factors on a B0's depth and width."""
    process = start("cpu", None)
    factors = Coefficients(*map(float, arguments))
    losses = {mode: losses_with_batch_norm(mode, process, factors) for mode in ("fixed", "per rank")}
    if process.is_main:
        print(json.dumps(losses))
    process.leave()
