"""The keys of all random numbers of a run and of its evaluations. Each key names its use.

The same key gives the same numbers, in whatever order and on whichever worker they are drawn. Keys of training begin
with the seed of the recipe, then name their use. Those of evaluations and of the random policy have no seed, so that
all policies of all runs meet the same numbers at the same place of a panel.

So two uses of one run share no stream. A key with a seed can equal one without: with seed 11, the keys of the corpus
and of the example are those of places 12 and 14 of an evaluation. This is harmless: the corpus is drawn by another
generator, and the example is played without random numbers.
"""

from __future__ import annotations

from enum import IntEnum


class Use(IntEnum):
    """What random numbers are for. Another number here would change the results of every recipe."""

    MINIBATCHES = 3  # seed, iteration, epoch, rank: the order of episodes
    ROLLOUT = 10  # seed, iteration, group, member: the sampling of an episode
    EVALUATION = 11  # no seed; place in the panel: the sampling of an episode
    CORPUS = 12  # seed: the episodes that the tokenizer of `tiny` is built from
    DEMONSTRATION = 13  # seed, index: the mistakes of an episode of the expert
    EXAMPLE = 14  # seed: the episode that is shown before and after the warm start


def random_key(use: Use, *numbers: int, seed: int | None = None) -> tuple[int, ...]:
    """Return the key of a stream: the seed if there is one, the use, and the numbers that tell its streams apart."""
    head = () if seed is None else (seed,)
    return (*head, int(use), *numbers)


def random_policy_key(place: int) -> str:
    """Return the key of the random policy at a place of a panel."""
    return f"empg random policy {place}"
