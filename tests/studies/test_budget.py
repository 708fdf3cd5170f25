"""What fits a budget: the choice of baselines, epochs and images."""

from dataclasses import replace

import pytest

from efficientnet.common.errors import UserError
from efficientnet.studies.budget import ENOUGH_EPOCHS, fit, possible_designs
from efficientnet.studies.design import FIG8, STEP1, TABLE3, Data, Design

CIFAR = Data("/cifar", (5000,) * 10, 10_000)


def measure(design):
    """A made-up machine: a billion multiply-adds of training a second."""
    return [network.counts.multiply_adds / 1e9 for network in design.networks()]


def fitted(hours, epochs=None, **values):
    design = Design(FIG8, CIFAR, budget_hours=hours, **values)
    return fit(possible_designs(design)[:4], 2, epochs, measure)


@pytest.mark.parametrize("hours", [0.2, 0.5, 1, 2, 4, 8, 16])
def test_the_runs_take_about_the_budget(hours):
    design, seconds = fitted(hours)
    taken = design.seeds * sum(seconds) / 2 / 3600
    assert taken <= 1.001 * hours
    assert design.images_per_class is None or design.epochs == 1
    assert taken > (0.9 if design.images_per_class else 0.45) * hours  # an epoch more would be too much


def test_more_time_is_spent_on_epochs_and_then_on_a_larger_baseline():
    short, long, longer = (fitted(hours)[0] for hours in (0.2, 3, 12))
    assert short.images_per_class is not None and short.epochs == 1 and short.sizes == long.sizes
    assert long.images_per_class is None and long.epochs > 1
    assert longer.sizes != long.sizes and longer.epochs >= ENOUGH_EPOCHS


def test_what_is_given_is_kept():
    assert fitted(2, epochs=7)[0].epochs == 7
    assert fitted(2, images_per_class=100)[0].images_per_class == 100
    with pytest.raises(UserError, match="--budget-hours"):
        fitted(0.01)
    with pytest.raises(UserError, match="--images-per-class"):
        fitted(0.05, epochs=3, images_per_class=5000)


def test_every_baseline_of_a_study_has_a_size_at_which_it_can_be_scaled():
    for study in (STEP1, TABLE3):
        for design in possible_designs(Design(study, CIFAR)):
            assert len(design.networks()) >= 5
    with pytest.raises(UserError, match="--growth"):
        possible_designs(Design(TABLE3, CIFAR, growths=(1.001,)))


def test_the_images_of_a_run():
    design = Design(FIG8, CIFAR)
    assert design.train_images == 50_000
    assert replace(design, images_per_class=1000).train_images == 10_000
    assert replace(design, images_per_class=9000).train_images == 50_000
    uneven = replace(design, data=Data("/photographs", (10_000, 100), 10), images_per_class=1000)
    assert uneven.train_images == 1100


def test_a_larger_baseline_that_cannot_be_measured_is_not_taken():
    """Such as one that takes too much memory."""
    designs = possible_designs(Design(FIG8, CIFAR, budget_hours=100))

    def up_to_the_second(design):
        if design not in designs[:2]:
            raise UserError("out of memory")
        return measure(design)

    assert fit(designs, 2, None, up_to_the_second)[0].sizes == designs[1].sizes
    with pytest.raises(UserError, match="out of memory"):
        fit(designs[2:], 2, None, up_to_the_second)
