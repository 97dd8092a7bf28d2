"""Aggregation: precomputed weights give the same number as the naive loop, for any micro-batches and workers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from empg.credit import Aggregation, aggregate, token_weights
from tests.credit import reference

MODES: list[Aggregation] = ["token_mean", "episode_mean", "constant"]
Tokens = list[tuple[int, float]]
tokens_of_episodes = st.lists(st.tuples(st.integers(-3, 3), st.integers(-64, 64).map(lambda n: n / 16)), min_size=1)


def test_by_hand() -> None:
    episode = torch.tensor([5, 5, 5, 9])
    assert token_weights(episode, "token_mean").tolist() == [1 / 4] * 4
    torch.testing.assert_close(token_weights(episode, "episode_mean"), torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2]))
    assert token_weights(episode, "constant", constant=4).tolist() == [1 / 8] * 4


@pytest.mark.parametrize("mode", MODES)
@given(tokens_of_episodes)
def test_equals_the_naive_loop(mode: Aggregation, tokens: Tokens) -> None:
    episode, losses = zip(*tokens, strict=True)
    mine = aggregate(torch.tensor(losses), torch.tensor(episode), mode, constant=6.0)
    expected = reference.aggregate(list(losses), list(episode), mode, constant=6.0)
    assert mine.item() == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("mode", MODES)
@given(tokens_of_episodes)
def test_workers_add_up_when_counts_are_global(mode: Aggregation, tokens: Tokens) -> None:
    episode, losses = torch.tensor([i for i, _ in tokens]), torch.tensor([loss for _, loss in tokens])
    counts: dict[str, Any] = {"num_episodes": len(episode.unique()), "num_tokens": len(episode), "constant": 6.0}
    shares = [episode % 2 == 0, episode % 2 == 1]  # whole episodes to each worker, perhaps none
    split = sum((aggregate(losses[share], episode[share], mode, **counts) for share in shares), torch.tensor(0.0))
    whole = aggregate(losses, episode, mode, constant=6.0)
    torch.testing.assert_close(split, whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mode", ["token_mean", "episode_mean"])
@given(tokens_of_episodes)
def test_weights_sum_to_one(mode: Aggregation, tokens: Tokens) -> None:
    weights = token_weights(torch.tensor([i for i, _ in tokens]), mode)
    assert weights.sum().item() == pytest.approx(1, rel=1e-5)
    assert weights.dtype == torch.float32


def test_the_gradient_flows_through_the_loss() -> None:
    losses = torch.ones(3, requires_grad=True)
    aggregate(losses, torch.tensor([0, 0, 1]), "episode_mean").backward()
    torch.testing.assert_close(losses.grad, torch.tensor([0.25, 0.25, 0.5]))


@pytest.mark.parametrize("mode", MODES)
def test_no_tokens(mode: Aggregation) -> None:
    assert token_weights(torch.zeros(0, dtype=torch.long), mode, constant=1.0).shape == (0,)


@pytest.mark.parametrize(
    ("episode", "mode", "options", "message"),
    [
        (
            torch.zeros(2, 2, dtype=torch.long),
            "token_mean",
            {},
            r"^episode: expected one value per token, shape \(M,\), got \(2, 2\)",
        ),
        (torch.zeros(2), "token_mean", {}, "^episode: expected integer ids"),
        (torch.tensor([0]), "mean", {}, "^mode: expected one of token_mean, episode_mean, constant, got 'mean'"),
        (torch.tensor([0]), "constant", {}, "^constant: .* got None"),
        (torch.tensor([0]), "constant", {"constant": 0.0}, "^constant: .* got 0.0"),
        (torch.tensor([0, 0]), "token_mean", {"num_tokens": 0}, "^num_tokens: expected at least 2, .* got 0"),
        (torch.tensor([0, 3]), "episode_mean", {"num_episodes": 1}, "^num_episodes: expected at least 2, .* got 1"),
    ],
)
def test_bad_input(episode: torch.Tensor, mode: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_weights(episode, mode, **options)  # type: ignore[arg-type]  # "mean" on purpose


def test_losses_and_episodes_of_different_length() -> None:
    with pytest.raises(ValueError, match=r"^token_loss: expected shape \(3,\), the shape of episode, got \(2,\)"):
        aggregate(torch.ones(2), torch.tensor([0, 0, 0]), "token_mean")
