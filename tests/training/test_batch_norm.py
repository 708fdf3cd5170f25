"""Frozen layers keep weights and statistics to the bit; the others learn."""

import pytest
import torch

from efficientnet import create_model
from efficientnet.training.batch_norm import batch_norms, freeze, recalibrate_batch_norm, train_mode
from efficientnet.training.learner import parameter_groups

CPU = torch.device("cpu")


@pytest.mark.parametrize("freeze_batch_norm", [False, True])
def test_frozen_layers_do_not_move(freeze_batch_norm):
    torch.manual_seed(0)
    model = create_model("b0", 2, 1)
    frozen = [model.stem, *model.body[:2]]
    freeze(frozen)
    optimizer = torch.optim.AdamW(parameter_groups(model, 0.01), lr=0.01)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for _ in range(2):
        train_mode(model, frozen, freeze_batch_norm)
        model(torch.randn(4, 1, 64, 64)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model.state_dict()
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert not [name for name in moved if name.startswith(("stem", "body.0", "body.1"))]
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} <= moved
    statistics = [name for name in moved if "running" in name or "tracked" in name]
    assert bool(statistics) != freeze_batch_norm


def test_frozen_layers_drop_nothing():
    model = create_model("b1", 2, 1)
    frozen = list(model.body[:3])
    train_mode(model, frozen)
    assert not any(module.training for stage in frozen for module in stage.modules())
    assert model.body[3][1].stochastic_depth.training and model.dropout.training


def test_recalibration_leaves_frozen_statistics_alone():
    torch.manual_seed(0)
    model = create_model("b0", 2, 1)
    frozen = [model.stem, model.body[0]]
    before = [norm.running_var.clone() for norm in batch_norms(model)]
    recalibrate_batch_norm(model, torch.randn(4, 1, 64, 64), CPU, "fp32", frozen)
    same = [torch.equal(old, norm.running_var) for old, norm in zip(before, batch_norms(model), strict=True)]
    count = sum(len(batch_norms(module)) for module in frozen)
    assert same == [True] * count + [False] * (len(same) - count)
