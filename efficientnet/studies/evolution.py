"""The search for a baseline by regularised evolution, and at random for comparison. No torch here.

E. Real et al., "Regularized Evolution for Image Classifier Architecture Search", AAAI 2019 (arXiv 1802.01548,
Algorithm 1). EfficientNet's own search (section 4) used reinforcement learning, as MnasNet does; the objective is the
same, `scaling.mnasnet_objective`.

There is no random state to save. Network `number` of a search is drawn by a generator seeded with (seed, number), from
the networks that had to be finished before it (`ready`). So the finished networks are the whole state of a search:
killed and resumed, with trainings that end in any order, it proposes the same networks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from efficientnet.studies.space import Encoding, SearchSpace

# Draws of a network that was not trained before, until a repeated one is proposed.
MOST_DRAWS = 100


@dataclass(frozen=True)
class Member:
    """A trained network: its number in the search, from 0, and its objective, of which more is better.

    Raises ValueError for a score that is not finite.
    """

    number: int
    encoding: Encoding
    score: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.score):
            raise ValueError(f"the score of network {self.number} must be a finite number, not {self.score}")


def propose_at_random(space: SearchSpace, history: Sequence[Member], number: int, seed: int) -> Encoding:
    """Network `number` of a random search. history: the networks to avoid; only a tiny space repeats them."""
    generator = np.random.default_rng((seed, number))
    return first_new(lambda: space.random(generator), history)


def propose_by_evolution(
    space: SearchSpace, history: Sequence[Member], number: int, seed: int, population: int, sample: int
) -> Encoding:
    """Network `number` of regularised evolution: a mutation of the best of `sample` of the last `population` networks.

    history: the finished networks that this one may depend on, in any order. The population consists of those with the
    highest numbers: the oldest die, not the worst. The parent is the best of a sample without replacement. The first
    `population` networks are those of `propose_at_random` with the same seed.

    Raises ValueError if the history is shorter than the sample: with `lag` in `ready`, a sample of at most
    population - lag + 1 never is.
    """
    if number < population:
        return propose_at_random(space, history, number, seed)
    living = sorted(history, key=lambda member: member.number)[-population:]
    if not 1 <= sample <= len(living):
        raise ValueError(
            f"cannot sample {sample} of the {len(living)} networks that network {number} may depend on: use a smaller "
            "sample or lag, or a larger population"
        )
    generator = np.random.default_rng((seed, number))

    def child() -> Encoding:
        drawn = [living[index] for index in generator.choice(len(living), sample, replace=False)]
        return space.mutate(max(drawn, key=lambda member: member.score).encoding, generator)

    return first_new(child, history)


def first_new(draw: Callable[[], Encoding], history: Sequence[Member]) -> Encoding:
    """The first drawn network that is not in the history; after `MOST_DRAWS`, the last one."""
    known = {member.encoding for member in history}
    for _ in range(MOST_DRAWS):
        encoding = draw()
        if encoding not in known:
            break
    return encoding


def ready(
    propose: Callable[[Sequence[Member], int], Encoding],
    finished: Mapping[int, Member],
    running: Collection[int],
    lag: int,
    total: int,
) -> dict[int, Encoding]:
    """The networks, by number, whose training can start now. An empty answer with none running ends the search.

    Network k depends on the networks 0 to k - lag, whichever others are finished, so two in training may be the same.
    The lag is part of the search, as the seed is: another one proposes other networks. 1 is the sequential search. The
    number of parallel trainings is enough to keep all busy if all take equally long, a larger lag while one is slow.

    propose: `propose_by_evolution` or `propose_at_random` with a space and a seed; it gets history and number.
    finished: by number; running: numbers in training. total: networks in the whole search, which can be raised later.
    """
    if lag < 1:
        raise ValueError(f"lag must be at least 1, not {lag}")
    unbroken = next(number for number in itertools.count() if number not in finished)
    return {
        number: propose([finished[earlier] for earlier in range(number - lag + 1)], number)
        for number in range(unbroken, min(unbroken + lag, total))
        if number not in finished and number not in running
    }
