"""Outcome advantages: each base algorithm against the reference, and the groups that are allowed."""

from __future__ import annotations

import math
import re
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from empg.credit import ADVANTAGES, Weighting, outcome_advantages, zero_variance_groups
from tests.credit import reference

METHODS = [name for name, entry in ADVANTAGES.items() if not (entry.compares_steps or entry.needs_critic)]
COMPARING = [name for name in METHODS if ADVANTAGES[name].compares_within_group]
Groups = tuple[list[float], list[int]]


@st.composite
def grouped_rewards(draw: st.DrawFn) -> Groups:
    """Groups of unequal sizes (two or more), with any ids, in any order."""
    ids = draw(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=4, unique=True))
    members = [group for group in ids for _ in range(draw(st.integers(2, 5)))]
    groups = draw(st.permutations(members))
    return [draw(st.sampled_from([0.0, 0.1, 0.5, 1.0])) for _ in groups], groups


class TestByHand:
    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.0])
    groups = torch.tensor([7, 7, 7, -2, -2])

    def test_reinforce(self) -> None:
        expected = torch.tensor([0.6, -0.4, -0.4, 0.6, -0.4])
        torch.testing.assert_close(outcome_advantages(self.rewards, self.groups, "reinforce"), expected)

    def test_rloo(self) -> None:
        expected = torch.tensor([1.0, -0.5, -0.5, 1.0, -1.0])
        torch.testing.assert_close(outcome_advantages(self.rewards, self.groups, "rloo"), expected)

    def test_grpo_divides_by_the_sample_standard_deviation(self) -> None:
        std_7, std_2 = math.sqrt(1 / 3), math.sqrt(1 / 2)
        expected = torch.tensor([2 / 3 / std_7, -1 / 3 / std_7, -1 / 3 / std_7, 0.5 / std_2, -0.5 / std_2])
        torch.testing.assert_close(outcome_advantages(self.rewards, self.groups), expected, rtol=1e-5, atol=0)

    def test_dr_grpo_does_not_divide(self) -> None:
        expected = torch.tensor([2 / 3, -1 / 3, -1 / 3, 0.5, -0.5])
        torch.testing.assert_close(outcome_advantages(self.rewards, self.groups, "dr_grpo"), expected)

    def test_grpo_eps(self) -> None:
        halved = outcome_advantages(self.rewards[3:], self.groups[3:], eps=math.sqrt(1 / 2))
        torch.testing.assert_close(halved, torch.tensor([0.5, -0.5]) / math.sqrt(2))


@pytest.mark.parametrize("method", METHODS)
@given(grouped_rewards())
def test_equals_the_reference(method: str, batch: Groups) -> None:
    rewards, groups = batch
    mine = outcome_advantages(torch.tensor(rewards), torch.tensor(groups), method)
    np.testing.assert_allclose(mine, reference.outcome(rewards, groups, method), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
@given(grouped_rewards(), st.data())
def test_step_weighting_counts_an_episode_once_per_step(method: str, batch: Groups, data: st.DataObject) -> None:
    rewards, groups = batch
    num_steps = [data.draw(st.integers(1, 6)) for _ in rewards]
    mine = outcome_advantages(
        torch.tensor(rewards), torch.tensor(groups), method, weighting="step", num_steps=torch.tensor(num_steps)
    )
    rows = [i for i, n in enumerate(num_steps) for _ in range(n)]
    expected = reference.outcome([rewards[i] for i in rows], [groups[i] for i in rows], method)
    np.testing.assert_allclose(mine[rows], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("weighting", get_args(Weighting))
@pytest.mark.parametrize("method", METHODS)
@given(grouped_rewards(), st.data())
def test_the_order_of_the_episodes_does_not_matter(
    method: str, weighting: Weighting, batch: Groups, data: st.DataObject
) -> None:
    rewards, groups = (torch.tensor(column) for column in batch)
    num_steps = torch.tensor([data.draw(st.integers(1, 6)) for _ in rewards])
    order = torch.tensor(data.draw(st.permutations(range(len(rewards)))))
    plain = outcome_advantages(rewards, groups, method, weighting=weighting, num_steps=num_steps)
    shuffled = outcome_advantages(
        rewards[order], groups[order], method, weighting=weighting, num_steps=num_steps[order]
    )
    torch.testing.assert_close(shuffled, plain[order])


@pytest.mark.parametrize("method", COMPARING)
def test_equal_rewards_are_exactly_zero(method: str) -> None:
    rewards, groups = torch.tensor([0.1] * 7 + [0.7] * 3), torch.tensor([0] * 7 + [1] * 3)
    assert torch.equal(outcome_advantages(rewards, groups, method), torch.zeros(10))
    weighted = outcome_advantages(rewards, groups, method, weighting="step", num_steps=torch.arange(1, 11))
    assert torch.equal(weighted, torch.zeros(10))


def test_zero_variance_groups_have_equal_rewards_only() -> None:
    rewards = torch.tensor([0.1, 1.0, 0.1, 0.0, 0.1, 0.3])
    groups = torch.tensor([4, 9, 4, 9, 4, 2])
    assert zero_variance_groups(rewards, groups).tolist() == [True, False, True, False, True, True]


@pytest.mark.parametrize("method", METHODS)
def test_no_episodes(method: str) -> None:
    nothing = torch.zeros(0, dtype=torch.long)
    assert outcome_advantages(torch.zeros(0), nothing, method).shape == (0,)
    assert zero_variance_groups(torch.zeros(0), nothing).shape == (0,)


def test_dtypes() -> None:
    out = outcome_advantages(torch.tensor([0, 1]), torch.tensor([3, 3], dtype=torch.int32))
    assert out.dtype == torch.float32
    assert not outcome_advantages(torch.rand(2, requires_grad=True), torch.tensor([3, 3])).requires_grad


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.uint16])
def test_the_number_of_steps_is_of_any_integer_dtype(dtype: torch.dtype) -> None:
    rewards, groups, num_steps = torch.tensor([1.0, 0.0]), torch.tensor([0, 0]), torch.tensor([100, 100])
    wanted = outcome_advantages(rewards, groups, weighting="step", num_steps=num_steps)
    assert torch.equal(outcome_advantages(rewards, groups, weighting="step", num_steps=num_steps.to(dtype)), wanted)


class TestRefused:
    @pytest.mark.parametrize("method", COMPARING)
    def test_a_group_of_one_is_named(self, method: str) -> None:
        with pytest.raises(
            ValueError, match=f"^groups: {method} compares the episodes of a group, but group 12 has only one"
        ):
            outcome_advantages(torch.ones(3), torch.tensor([5, 12, 5]), method)

    def test_a_group_of_one_with_many_steps_is_still_a_group_of_one(self) -> None:
        with pytest.raises(ValueError, match="group 12 has only one"):
            outcome_advantages(
                torch.ones(3), torch.tensor([5, 12, 5]), "grpo", weighting="step", num_steps=torch.tensor([4, 4, 4])
            )

    def test_reinforce_has_no_groups(self) -> None:
        assert outcome_advantages(torch.ones(1), torch.tensor([0]), "reinforce").tolist() == [0.0]

    @pytest.mark.parametrize(
        ("rewards", "groups", "options", "message"),
        [
            ([1.0, math.nan], [0, 0], {}, "^rewards: episode 1: expected a number from .* got nan; drop it or"),
            ([[1.0], [0.0]], [0, 0], {}, r"^rewards: expected one value per episode, shape \(E,\), got \(2, 1\)"),
            ([1.0, 0.0], [0], {}, r"^groups: expected shape \(2,\), the shape of rewards, got \(1,\)"),
            ([1.0, 0.0], [0.0, 0.0], {}, "^groups: expected integer ids, got torch.float32"),
            (
                [1.0, 0.0],
                [0, 0],
                {"method": "ppo"},
                f"^method: expected one of {', '.join(METHODS)}, got 'ppo'",
            ),
            ([1.0, 0.0], [0, 0], {"weighting": "token"}, "^weighting: expected one of episode, step, got 'token'"),
            (1.0, 0, {}, r"^rewards: expected one value per episode, shape \(E,\), got \(\)"),
            ([1.0, 0.0], [0, 0], {"weighting": "step"}, "^num_steps: "),
            ([1.0, 0.0], [0, 0], {"weighting": "step", "num_steps": torch.ones(2)}, "^num_steps: expected integer"),
            ([1.0, 0.0], [0, 0], {"weighting": "step", "num_steps": torch.tensor([2, 0])}, "episode 1 has 0"),
        ],
    )
    def test_bad_input(self, rewards: Any, groups: Any, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            outcome_advantages(torch.tensor(rewards), torch.tensor(groups), **options)

    @pytest.mark.parametrize("value", [1e300, 1e20, -1e20])
    def test_a_reward_whose_square_would_be_infinite(self, value: float) -> None:
        """Its group would have an infinite standard deviation, and so advantages of 0."""
        rewards, groups = torch.tensor([0.0, value], dtype=torch.float64), torch.tensor([0, 0])
        wanted = re.escape(f"rewards: episode 1: expected a number from -1e+15 to 1e+15, got {value:g}; drop it or")
        with pytest.raises(ValueError, match=f"^{wanted}"):
            outcome_advantages(rewards, groups)
        assert outcome_advantages(rewards.clamp(-1e15, 1e15), groups).abs().tolist() == pytest.approx([0.5**0.5] * 2)
