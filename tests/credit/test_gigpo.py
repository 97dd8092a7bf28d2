"""GiGPO: worked by hand, against the published equations in float64, and what must not change it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from empg.credit import ADVANTAGES, AdvantageInputs
from empg.credit.advantages.base import discounted_returns
from tests.credit import reference

GIGPO = ADVANTAGES["gigpo"]
Play = tuple[list[list[float]], list[list[str]], list[int]]  # step rewards and states by episode; groups


def inputs(rewards: list[list[float]], states: list[list[str]], groups: list[int]) -> AdvantageInputs:
    known: dict[str, int] = {}
    return AdvantageInputs(
        rewards=torch.tensor([sum(steps) for steps in rewards]),
        groups=torch.tensor(groups),
        episode=torch.tensor([i for i, steps in enumerate(rewards) for _ in steps]),
        step_rewards=torch.tensor([r for steps in rewards for r in steps]),
        states=torch.tensor([known.setdefault(state, len(known)) for steps in states for state in steps]),
    )


@st.composite
def plays(draw: st.DrawFn) -> Play:
    """Groups of two or more episodes in any order, with few states and rewards on a grid."""
    sizes = draw(st.lists(st.integers(2, 4), min_size=1, max_size=3))
    groups = draw(st.permutations([100 - g for g, size in enumerate(sizes) for _ in range(size)]))
    lengths = [draw(st.integers(1, 5)) for _ in groups]
    rewards = [[draw(st.sampled_from([0.0, 0.0, 0.5, 1.0])) for _ in range(n)] for n in lengths]
    return rewards, [[draw(st.sampled_from("abc")) for _ in range(n)] for n in lengths], groups


def test_equal_returns_are_equal_in_whatever_order_the_rewards_come() -> None:
    """Ten rewards of 0.1, or one of 1.0, from the same state: the sum of the ten in float32 is 1.0000001."""
    played = inputs([[0.1] * 10, [1.0]], [["a", *"bcdefghij"], ["a"]], [0, 0])
    assert GIGPO.configured(gamma=1.0, weight=1e6)(played).abs().max() == 0.0


def test_groups_are_of_any_integer_dtype() -> None:
    played = inputs([[0.0, 1.0], [0.0]], [["a", "b"], ["a"]], [7, 7])
    unsigned = replace(played, groups=played.groups.to(torch.uint16))
    torch.testing.assert_close(GIGPO(unsigned), GIGPO(played))


class TestByHand:
    """Two episodes of one task. The first visits a, b and wins; the second visits a, a, c and loses."""

    rewards, states = [[0.0, 1.0], [0.0, 0.0, 0.0]], [["a", "b"], ["a", "a", "c"]]

    def advantages(self, **options: object) -> Tensor:
        return GIGPO.configured(**options)(inputs(self.rewards, self.states, [7, 7]))

    def test_the_step_term_compares_discounted_returns_of_equal_states(self) -> None:
        # Returns: 0.5, 1 and 0, 0, 0. State a has the returns 0.5, 0 and 0, with mean 1/6; b and c occur once.
        step = torch.tensor([1 / 3, 0.0, -1 / 6, -1 / 6, 0.0])
        outcome = torch.tensor([0.5, 0.5, -0.5, -0.5, -0.5])
        mine = self.advantages(gamma=0.5, divide_by_std=False)
        torch.testing.assert_close(mine, outcome + step)
        twice = self.advantages(gamma=0.5, divide_by_std=False, weight=2.0)
        torch.testing.assert_close(twice, outcome + 2 * step)

    def test_by_default_both_terms_are_divided_by_their_sample_standard_deviation(self) -> None:
        # Of 0.95, 0, 0 the mean is 0.95/3 and the sample deviation 0.95/sqrt(3); of 1, 0 the deviation is sqrt(1/2).
        outcome = torch.tensor([1.0, 1.0, -1.0, -1.0, -1.0]) * math.sqrt(1 / 2)
        step = torch.tensor([2 / 3, 0.0, -1 / 3, -1 / 3, 0.0]) * math.sqrt(3)
        torch.testing.assert_close(self.advantages(), outcome + step, rtol=1e-5, atol=1e-5)

    def test_without_weight_it_is_grpo_or_dr_grpo(self) -> None:
        batch = inputs(self.rewards, self.states, [7, 7])
        assert torch.equal(self.advantages(weight=0.0), ADVANTAGES["grpo"](batch))
        assert torch.equal(self.advantages(weight=0.0, divide_by_std=False), ADVANTAGES["dr_grpo"](batch))

    def test_equal_states_of_different_groups_are_not_compared(self) -> None:
        doubled = inputs(self.rewards * 2, self.states * 2, [7, 7, 2, 2])
        assert torch.equal(GIGPO(doubled), self.advantages().repeat(2))

    def test_equal_returns_are_exactly_zero(self) -> None:
        batch = inputs([[0.1], [0.1], [0.1]], [["a"], ["a"], ["a"]], [0, 0, 0])
        assert torch.equal(GIGPO(batch), torch.zeros(3))


@pytest.mark.parametrize("divide", [True, False])
@given(plays(), st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.95, 1.0]))
def test_equals_the_reference(divide: bool, play: Play, weight: float, gamma: float) -> None:
    mine = GIGPO.configured(weight=weight, gamma=gamma, divide_by_std=divide)(inputs(*play))
    expected = reference.gigpo(*play, weight=weight, gamma=gamma, divide=divide)
    np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-4)


@given(plays())
def test_the_order_of_the_episodes_does_not_matter(play: Play) -> None:
    rewards, states, groups = play
    order = list(reversed(range(len(groups))))
    plain, batch = GIGPO(inputs(*play)), inputs(*play)
    shuffled = GIGPO(inputs([rewards[i] for i in order], [states[i] for i in order], [groups[i] for i in order]))
    expected = torch.cat([plain[batch.episode == i] for i in order])
    torch.testing.assert_close(shuffled, expected, rtol=1e-5, atol=1e-5)


def test_returns_are_those_of_each_episode_in_its_own_time_order() -> None:
    rewards, episode = torch.tensor([10.0, 20.0, 1.0, 2.0, 4.0]), torch.tensor([1, 1, 0, 0, 0])
    assert discounted_returns(rewards, episode, 0.5).tolist() == [20.0, 20.0, 3.0, 4.0, 4.0]
    assert discounted_returns(rewards[:0], episode[:0], 0.5).shape == (0,)


@pytest.mark.parametrize(
    ("option", "value"), [("weight", -1.0), ("weight", math.inf), ("gamma", -0.1), ("gamma", math.nan)]
)
def test_a_wrong_option_is_named(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^{option}: expected "):
        GIGPO.configured(**{option: value})
