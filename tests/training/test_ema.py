"""The moving average of weights and statistics."""

import pytest
import torch
from torch import nn

from efficientnet.training.ema import ExponentialMovingAverage


def test_the_average_follows_the_definition_with_its_early_decay():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    average = ExponentialMovingAverage(model, 0.5)
    expected = 0.0
    for n, value in enumerate([1.0, 3.0, -2.0, 5.0, 8.0, 13.0, 1.0, 1.0, 1.0, 1.0, 2.0, 0.0]):
        nn.init.constant_(model.weight, value)
        average.update(model)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * value
        assert average.average.weight.item() == pytest.approx(expected, rel=1e-5)


def test_batch_norm_statistics_are_averaged_and_counters_copied():
    model = nn.BatchNorm1d(2)
    average = ExponentialMovingAverage(model, 0.9)
    model(torch.randn(8, 2) + 5)
    average.update(model)
    assert torch.allclose(average.average.running_mean, 0.9 * model.running_mean)  # the first decay is 0.1
    assert average.average.num_batches_tracked == model.num_batches_tracked == 1


def test_the_average_does_not_train():
    average = ExponentialMovingAverage(nn.Linear(2, 2), 0.9).average
    assert not average.training and not any(p.requires_grad for p in average.parameters())
