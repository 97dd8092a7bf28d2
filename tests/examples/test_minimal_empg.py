"""The example gives the same numbers as the library on the same batch, and it learns."""

from __future__ import annotations

import importlib.util
import re
import sys
from types import ModuleType

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from empg.credit import aggregate, clipped_surrogate, modulate_advantages, outcome_advantages
from tests import ROOT

FILE = ROOT / "examples" / "minimal_empg.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("minimal_empg", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


minimal = load()


@st.composite
def token_batches(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """`advantages (B,)`, `entropies (B, T)`, `step_ids (B, T)`: ragged episodes, observations between the turns."""
    batch, width = draw(st.integers(1, 6)), 24
    rng = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    step_ids = torch.full((batch, width), -1)
    for row in range(batch):
        column = 0
        for step in range(draw(st.integers(1, 5))):
            length = draw(st.integers(1, 3))
            step_ids[row, column + 1 : column + 1 + length] = step
            column += 1 + length
    return torch.randn(batch, generator=rng), 3 * torch.rand(batch, width, generator=rng), step_ids


@given(
    token_batches(),
    st.sampled_from([0.0, 1.0, 3.0]),
    st.sampled_from([0.0, 1.0, 3.0]),
    st.sampled_from([0.0, 0.1, 1.0]),
)
def test_empg_equals_the_library(batch: tuple[Tensor, ...], k: float, k_future: float, zeta: float) -> None:
    mine = minimal.empg(*batch, k=k, k_future=k_future, zeta=zeta)
    torch.testing.assert_close(mine, modulate_advantages(*batch, k=k, k_future=k_future, zeta=zeta))


def test_defaults_equal_the_library() -> None:
    batch = (torch.tensor([1.0, -1.0]), torch.rand(2, 4), torch.tensor([[0, 0, -1, 1], [0, 1, 1, 2]]))
    torch.testing.assert_close(minimal.empg(*batch), modulate_advantages(*batch))


def test_grpo_equals_the_library() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 1.0]])
    groups = torch.arange(3).repeat_interleave(4)
    torch.testing.assert_close(minimal.grpo(rewards).flatten(), outcome_advantages(rewards.flatten(), groups))


def test_loss_equals_the_library() -> None:
    torch.manual_seed(0)
    logp, old, advantages = -torch.rand(5, 9), -torch.rand(5, 9), torch.randn(5, 9)
    agent = torch.rand(5, 9) < 0.6
    token_loss = clipped_surrogate(logp[agent], old[agent], advantages[agent])
    expected = aggregate(token_loss, agent.nonzero()[:, 0], "episode_mean")
    torch.testing.assert_close(minimal.clipped_loss(logp, old, advantages, agent), expected)


def test_rollout_is_token_in_token_out() -> None:
    torch.manual_seed(0)
    policy = minimal.Policy()
    minimal.learn_language(policy, updates=30)
    batch = minimal.play(policy, minimal.BOXES * 8)
    agent = batch.step_ids >= 0
    again = minimal.next_word_logprobs(policy, batch.words)[agent]
    torch.testing.assert_close(again, batch.logprobs[agent], rtol=1e-4, atol=1e-5)
    assert (batch.entropies[agent] > 0).all()
    assert (batch.words[agent] != minimal.PAD).sum() > 0
    assert (batch.logprobs[~agent] == 0).all()


def test_the_environment_returns_the_listed_words() -> None:
    environment = minimal.Environment("green")
    turns = ["open door .", "look red .", "look green", "look green look", ".", "look red .", "open door ."]
    assert [environment.step(turn) for turn in turns] == ["locked", "empty", "key", "what?", "what?", "empty", "locked"]
    assert environment.won


def test_it_is_short_and_needs_only_torch() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 300
    imported = {match.split(".")[0] for match in re.findall(r"^(?:import|from) (\S+)", text, re.MULTILINE)}
    assert imported - set(sys.stdlib_module_names) == {"torch"}


@pytest.mark.slow
@pytest.mark.parametrize("use_empg", [False, True], ids=["GRPO", "EMPG"])
def test_it_learns(use_empg: bool) -> None:
    torch.manual_seed(0)
    policy = minimal.Policy()
    minimal.learn_language(policy)
    won = list(minimal.train(policy, use_empg, updates=25))
    assert sum(won[:2]) / 2 < 0.45
    assert sum(won[-5:]) / 5 > 0.55
