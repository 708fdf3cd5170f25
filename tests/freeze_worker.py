"""Run by test_learner.py on some ranks, with a file of weights: the gradients before and after --freeze-epochs.

Prints "ok" from rank 0.
"""

import copy
import weakref

import torch
from coloured_squares import ColouredSquares
from tiny_runs import SMALL

from efficientnet.training.distributed import Process, start
from efficientnet.training.learner import Learner
from efficientnet.training.plan import make_parser, make_plan

FLAGS = (*SMALL, "--freeze-epochs", 1, "--dropout", 0, "--stochastic-depth", 0, "--precision", "fp32")


def main(arguments: list[str]) -> None:
    process = start("cpu", None)
    flags = [str(value) for value in (*FLAGS, "--weights", *arguments)]
    learner = Learner(make_plan(make_parser("", ColouredSquares).parse_args(flags), ColouredSquares), process)
    wrapped = []
    for epoch in range(3):
        learner.train(epoch)
        wrapped.append(weakref.ref(learner.ddp))
        images = torch.randn(process.world_size, 4, 3, 64, 64, generator=torch.Generator().manual_seed(epoch))
        expected = mean_gradients(copy.deepcopy(learner.model), images)
        loss = learner.ddp(images[process.rank]).square().mean()  # kept until the next epoch has begun, as in train.py
        loss.backward()
        found = {name: p.grad for name, p in learner.model.named_parameters() if p.grad is not None}
        check(found, expected, process)
        assert set(found) == ({"classifier.weight", "classifier.bias"} if epoch == 0 else set(expected))
        assert learner.step(0.01)
    assert wrapped[0]() is None and wrapped[1]() is wrapped[2]() is learner.ddp
    process.barrier()
    if process.is_main:
        print("ok")
    del learner
    process.leave()


def mean_gradients(model: torch.nn.Module, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of the parameters that learn, over the ranks' images (W, N, C, H, W), on one process."""
    for part in images:
        (model(part).square().mean() / len(images)).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}


def check(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], process: Process) -> None:
    """The gradients are the expected ones, up to rounding, and the same to the bit on every rank."""
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-5)
        assert all(torch.equal(gradient, other) for other in process.gather(gradient.clone()))
