"""GAE by hand, its two limits, and normalisation over all workers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from empg.credit import ADVANTAGES, AdvantageInputs, Reduce
from empg.credit.advantages.base import discounted_returns
from tests.credit.batches import on_workers

GAE = ADVANTAGES["gae"]


def inputs(rewards: list[float], values: list[float], episode: list[int], **more: Any) -> AdvantageInputs:
    owner = torch.tensor(episode, dtype=torch.long)
    count = int(owner.max()) + 1 if episode else 0
    outcome = torch.zeros(count).index_add_(0, owner, torch.tensor(rewards))
    return AdvantageInputs(
        rewards=outcome,
        groups=torch.arange(count),
        episode=owner,
        step_rewards=torch.tensor(rewards),
        values=torch.tensor(values),
        **more,
    )


def estimate(batch: AdvantageInputs, **options: object) -> Tensor:
    return GAE.configured(**options)(batch)


def test_by_hand() -> None:
    # Episode 0: d = 0 + 0.5 * 0.4 - 0.2 = 0, then 1 - 0.4 = 0.6; A = 0 + 0.25 * 0.6, 0.6. Episode 1: d = 0 - 0.5.
    batch = inputs([0.0, 1.0, 0.0], [0.2, 0.4, 0.5], [0, 0, 1])
    advantages = estimate(batch, gamma=0.5, lam=0.5, normalise=False)
    torch.testing.assert_close(advantages, torch.tensor([0.15, 0.6, -0.5]))


def test_normalised_by_hand() -> None:
    batch = inputs([1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0, 1, 2])  # A = 1, 0, -1: mean 0, std sqrt(2 / 3)
    torch.testing.assert_close(estimate(batch), torch.tensor([1.0, 0.0, -1.0]) * (3 / 2) ** 0.5, rtol=1e-5, atol=0)


def test_equal_advantages_are_exactly_0() -> None:
    assert estimate(inputs([0.1] * 7, [0.3] * 7, list(range(7)))).tolist() == [0.0] * 7


steps = st.lists(st.tuples(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32), st.integers(0, 3)), min_size=1)


@given(steps, st.floats(0, 1))
def test_with_lam_1_it_is_the_return_minus_the_value_and_with_lam_0_the_surprise(
    batch: list[tuple[float, float, int]], gamma: float
) -> None:
    rewards, values, episode = map(list, zip(*sorted(batch, key=lambda step: step[2]), strict=True))
    seen = inputs(rewards, values, episode)
    assert seen.step_rewards is not None
    assert seen.values is not None
    returns = discounted_returns(seen.step_rewards, seen.episode, gamma)
    torch.testing.assert_close(
        estimate(seen, gamma=gamma, lam=1.0, normalise=False), returns - seen.values, atol=1e-4, rtol=1e-4
    )
    following = [
        next((values[j] for j in range(i + 1, len(episode)) if episode[j] == e), 0.0) for i, e in enumerate(episode)
    ]
    surprise = torch.tensor([r + gamma * n - v for r, v, n in zip(rewards, values, following, strict=True)])
    torch.testing.assert_close(
        estimate(seen, gamma=gamma, lam=0.0, normalise=False), surprise.float(), atol=1e-4, rtol=1e-4
    )


def test_normalisation_is_over_all_workers() -> None:
    parts = [([0.0, 1.0], [0.2, 0.4], [0, 0]), ([], [], []), ([0.5, 0.0], [0.1, 0.9], [0, 1])]
    whole = estimate(inputs([0.0, 1.0, 0.5, 0.0], [0.2, 0.4, 0.1, 0.9], [0, 0, 1, 2]))

    def work(rank: int, reduce: Reduce) -> Tensor:
        return estimate(inputs(*parts[rank], reduce=reduce))

    torch.testing.assert_close(torch.cat(on_workers(3, work)), whole)


@pytest.mark.parametrize(("option", "wrong"), [("gamma", 1.5), ("lam", -0.1), ("lam", float("nan"))])
def test_a_wrong_option_is_named(option: str, wrong: float) -> None:
    with pytest.raises(ValueError, match=f"^{option}: expected a number from 0 to 1, got {wrong}$"):
        GAE.configured(**{option: wrong})
