"""Defaults that follow from the length of a run."""

import pytest

from efficientnet.training.recipe import LONGEST_DECAY, Recipe


@pytest.mark.parametrize(
    ("updates", "epochs", "decay"), [(1, 5, 0.0), (100, 1, 0.9), (50, 10, 0.98), (5000, 100, 0.9998)]
)
def test_the_average_spans_a_tenth_of_the_run_at_most(updates, epochs, decay):
    fitted = Recipe(epochs=epochs).fitted(updates)
    assert fitted.ema_decay == pytest.approx(decay)
    assert fitted.ema_decay == LONGEST_DECAY or 1 / (1 - fitted.ema_decay) <= max(1, updates * epochs / 10) * (1 + 1e-6)
    assert fitted.warmup_epochs == pytest.approx(epochs / 10)


def test_given_values_stay():
    given = Recipe(epochs=10, ema_decay=0.5, warmup_epochs=0.0)
    assert given.fitted(100) == given
    assert given.fitted(100).fitted(7) == given


def test_a_larger_share_than_one_positive_in_a_batch_stays():
    assert Recipe(batch_size=8, positive_share=0.5).with_a_positive_in_each_batch().positive_share == 0.5
    assert Recipe(batch_size=8, positive_share=0.1).with_a_positive_in_each_batch().positive_share == 0.125
    assert Recipe(batch_size=1, positive_share=0.1).with_a_positive_in_each_batch().positive_share == 0.1
