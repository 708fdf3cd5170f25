"""Which images make each update."""

import numpy as np
import pytest

from efficientnet.training.recipe import Recipe
from efficientnet.training.sampler import BalancedSampler, cycle


def flags(positives, negatives):
    return np.array([True] * positives + [False] * negatives)


def indices(sampler):
    return [[draw.index for draw in batch] for batch in sampler]


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (3, 2), (4, 1)])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_ranks_and_passes_together_make_the_global_batch(world, accumulate, share):
    positives = flags(30, 170)
    samplers = [BalancedSampler(positives, share, 4, accumulate, rank, world, seed=5) for rank in range(world)]
    order = samplers[0].global_order(0)
    batches = [list(sampler) for sampler in samplers]
    assert all(len(b) == len(samplers[0]) for b in batches)
    for update in range(samplers[0].updates):
        draws = [d for b in batches for step in range(accumulate) for d in b[update * accumulate + step]]
        assert len(draws) == samplers[0].global_batch
        assert sorted(d.index for d in draws) == sorted(order[update].tolist())
        for draw in draws:
            assert order.flat[draw.position] == draw.index


def test_positions_name_every_draw_of_an_epoch_once():
    samplers = [BalancedSampler(flags(20, 60), 0.5, 2, 2, rank, 2) for rank in range(2)]
    positions = [draw.position for sampler in samplers for batch in sampler for draw in batch]
    assert sorted(positions) == list(range(samplers[0].updates * samplers[0].global_batch))


@pytest.mark.parametrize("share", [0.125, 0.3, 0.5])
def test_positives_make_the_stated_share_of_the_epoch_and_of_each_batch(share):
    positives = flags(40, 1960)
    sampler = BalancedSampler(positives, share, 5, 1, 0, 2)
    order = sampler.global_order(3)
    counts = positives[order].sum(1)
    assert abs(counts.sum() - share * order.size) <= 1
    assert np.all(np.abs(counts - share * 10) < 1)


def test_ranks_get_their_part_of_the_positives():
    positives = flags(40, 360)
    for rank in range(4):
        for batch in BalancedSampler(positives, 0.5, 4, 1, rank, 4):
            assert sum(positives[draw.index] for draw in batch) == 2


def test_positives_are_drawn_equally_often_and_negatives_not_twice():
    positives = flags(7, 193)
    order = BalancedSampler(positives, 0.5, 10).global_order(0).ravel()
    drawn = np.bincount(order, minlength=200)
    assert drawn[:7].max() - drawn[:7].min() <= 1
    assert drawn[7:].max() == 1


@pytest.mark.parametrize(("world", "accumulate", "batch"), [(1, 1, 2), (2, 1, 4), (2, 2, 8), (3, 2, 3), (4, 1, 8)])
@pytest.mark.parametrize("positives", [3, 40, 150])
def test_every_batch_of_every_rank_has_a_positive(world, accumulate, batch, positives):
    recipe = Recipe(batch_size=batch, positive_share=0.01).with_a_positive_in_each_batch()
    flag = flags(positives, 200 - positives)
    for rank in range(world):
        for drawn in BalancedSampler(flag, recipe.positive_share, batch, accumulate, rank, world, seed=3):
            assert any(flag[draw.index] for draw in drawn)


def test_a_share_of_zero_only_shuffles():
    assert Recipe(batch_size=4).with_a_positive_in_each_batch() == Recipe(batch_size=4)
    order = BalancedSampler(flags(10, 90), 0.0, 10).global_order(0)
    assert sorted(order.ravel()) == list(range(100)) and len({*flags(10, 90)[order].sum(1)}) > 1


def test_without_oversampling_an_epoch_is_a_permutation():
    order = BalancedSampler(flags(50, 50), 0.1, 10).global_order(0).ravel()
    assert sorted(order) == list(range(100))


def test_the_global_order_depends_on_seed_and_epoch_but_not_on_the_world():
    positives = flags(10, 90)
    a = BalancedSampler(positives, 0.25, 8, 1, 0, 1, seed=1)
    b = BalancedSampler(positives, 0.25, 2, 2, 1, 2, seed=1)
    c = BalancedSampler(positives, 0.25, 8, 1, 0, 1, seed=2)
    assert np.array_equal(a.global_order(4), b.global_order(4))
    assert not np.array_equal(a.global_order(4), a.global_order(5))
    assert not np.array_equal(a.global_order(4), c.global_order(4))


def test_epochs_differ_and_repeat_exactly():
    sampler = BalancedSampler(flags(10, 90), 0.25, 8)
    first = indices(sampler)
    sampler.epoch = 1
    second = indices(sampler)
    sampler.epoch = 0
    assert indices(sampler) == first != second


def test_a_set_smaller_than_a_batch_still_makes_one_update():
    batches = list(BalancedSampler(flags(1, 2), 0.0, 8))
    assert len(batches) == 1 and len(batches[0]) == 8


def test_only_positives_or_only_negatives_is_plain_shuffling():
    for positives in (flags(16, 0), flags(0, 16)):
        sampler = BalancedSampler(positives, 0.5, 4)
        assert sorted(i for batch in indices(sampler) for i in batch) == list(range(16))


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="no image"):
        BalancedSampler([], 0.5, 4)


def test_cycle_keeps_counts_within_one():
    drawn = cycle(np.arange(7), 40, np.random.default_rng(0))
    assert drawn.size == 40
    counts = np.bincount(drawn, minlength=7)
    assert counts.max() - counts.min() <= 1
