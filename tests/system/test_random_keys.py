"""The keys of random numbers: committed results were drawn with these, so they must not change."""

from __future__ import annotations

import random

import numpy as np

from empg.system.random_keys import Use, random_key, random_policy_key


def test_every_key_is_that_of_the_committed_results() -> None:
    assert random_key(Use.ROLLOUT, 2, 0, 1, seed=7) == (7, 10, 2, 0, 1)
    assert random_key(Use.EVALUATION, 14) == (11, 14)
    assert random_key(Use.CORPUS, seed=7) == (7, 12)
    assert random_key(Use.DEMONSTRATION, 5, seed=7) == (7, 13, 5)
    assert random_key(Use.EXAMPLE, seed=0) == (0, 14)
    assert random_key(Use.MINIBATCHES, 4, 1, 0, seed=7) == (7, 3, 4, 1, 0)
    assert random_policy_key(3) == "empg random policy 3"


def test_a_key_is_of_plain_integers_because_its_text_seeds_some_streams() -> None:
    assert repr(random_key(Use.DEMONSTRATION, 5, seed=7)) == "(7, 13, 5)"


def test_the_streams_are_those_of_the_committed_results() -> None:
    sampled = np.random.Generator(np.random.Philox(np.random.SeedSequence(random_key(Use.EVALUATION, 0)))).random()
    shuffled = random.Random(repr(random_key(Use.MINIBATCHES, 0, 0, 0, seed=0))).random()
    assert (sampled, shuffled) == (0.6181153637441031, 0.5022980825257667)


def test_the_uses_differ() -> None:
    assert len({int(use) for use in Use}) == len(Use.__members__)
