"""What verl runs for a recipe: credit of a batch as TransferQueue stores it, statistics, packed episodes."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl", reason="verl is not installed: make test-verl runs these tests")

import torch
from tensordict import TensorDict
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from empg.engines.verl.episodes import unpack
from empg.engines.verl.loop import EnvironmentLoop
from empg.engines.verl.recording import (
    PACKED,
    PLAYED,
    RecipeTrainer,
    RecordedLoop,
    assign_batch,
    mismatch,
    token_entropy,
    update_stats,
)
from empg.errors import UserError
from empg.learner.assign import assign_credit
from empg.rollout.types import Episode
from empg.system.workers import Workers
from tests.engines.trl.parts import small_recipe
from tests.engines.verl.rows import rows_of, scored_episodes

pytestmark = pytest.mark.filterwarnings("default")  # of verl


def batch(episodes: list[Episode], *, merged: bool = True, accepted: int = 1) -> tuple[TensorDict, list[str]]:
    """The rows of episodes as TransferQueue returns them, nested; the tokens were sampled at 0.25 nats less."""
    rows = rows_of(episodes, merged=merged)
    lengths = [max(1, int(row.nonzero().max()) + 1 if row.any() else 1) for row in rows.written]
    made = [
        {
            "loss_mask": rows.written[row, :length],
            "response_mask": rows.written[row, :length] * accepted,
            "old_log_probs": rows.logprobs[row, :length],
            "rollout_log_probs": rows.logprobs[row, :length] - 0.25,
            "entropy": rows.entropies[row, :length],
            "extra_fields": {} if rows.packed[row] is None else {PACKED: rows.packed[row]},
        }
        for row, length in enumerate(lengths)
    ]
    return list_of_dict_to_tensordict(made), rows.keys


def test_verl_knows_the_trainer() -> None:
    assert get_trainer_cls("empg_recipe") is RecipeTrainer


@pytest.mark.parametrize("history", ["merged", "per_turn"])
def test_a_batch_gets_the_credit_of_the_recipe(history: str) -> None:
    recipe = small_recipe(credit={"invalid_penalty": 0.5}, agent={"history": history})
    episodes = scored_episodes()
    data, keys = batch(episodes, merged=history == "merged")
    rows, assigned, advantages, mask = assign_batch(data, keys, recipe, 0.0)
    mine = assign_credit(episodes, recipe, Workers())
    assert len(rows.episodes) == 8
    torch.testing.assert_close(advantages[mask == 1], mine.token_advantages)
    assert int(mask.sum()) == int(assigned.keep.sum()) == len(mine.batch)
    assert mismatch(data, mask) == pytest.approx(0.25)


def test_rejected_tokens_are_not_trained_on() -> None:
    data, keys = batch(scored_episodes(), accepted=0)
    _, _, _, mask = assign_batch(data, keys, small_recipe(), 0.0)
    assert not mask.any()


def test_without_entropies_or_episodes_the_error_says_what_is_missing() -> None:
    data, keys = batch(scored_episodes())
    with pytest.raises(UserError, match="the batch has no field entropy"):
        assign_batch(data.exclude("entropy"), keys, small_recipe(), 0.0)
    data, keys = batch(scored_episodes(), merged=False)
    apart = [f"task0_{row}_0" for row in range(len(keys))]
    with pytest.raises(UserError, match="empg_recipe: row task0_1: expected a packed episode, got none"):
        assign_batch(data, apart, small_recipe(), 0.0)


def test_statistics_that_verl_does_not_compute_are_unknown() -> None:
    assigned = assign_credit(scored_episodes(), small_recipe(), Workers())
    metrics = {"actor/loss": 0.5, "actor/grad_norm": 2.0, "actor/lr": 1e-6, "actor/entropy": 9.0, "actor/kl_loss": 0.3}
    stats = update_stats(metrics, assigned, 0.01, 0.7, small_recipe(optimizer={"epochs": 2}))
    assert (stats.loss["loss"], stats.grad_norm, stats.lr, stats.mismatch) == (0.5, 2.0, 1e-6, 0.01)
    assert stats.scored == 2 * stats.tokens
    assert math.isnan(stats.loss["kl_old"])
    assert (stats.loss["entropy"], stats.loss["kl_reference"]) == (0.7, 0.3)
    constant = update_stats(metrics, assigned, 0.01, 0.7, small_recipe(loss={"aggregation": "constant"}))
    assert constant.loss["entropy"] == 0.7
    assert math.isnan(constant.loss["kl_reference"])  # verl's is not in nats per token


def test_entropies_are_those_of_the_trained_tokens() -> None:
    data, keys = batch(scored_episodes())
    _, assigned, _, mask = assign_batch(data, keys, small_recipe(), 0.0)
    entropies = [value for episode in assigned.episodes for turn in episode.turns for value in turn.entropies]
    assert token_entropy(data, mask) == pytest.approx(sum(entropies) / len(entropies))
    assert math.isnan(token_entropy(data, mask * 0))


def test_the_loop_adds_the_episode_to_its_last_output(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    [episode] = scored_episodes(1)

    class Output:
        def __init__(self) -> None:
            self.extra_fields: dict[str, Any] = {"reward_extra_info": {"score": 1.0}}

    async def run(self: Any, sampling_params: Any, **row: Any) -> list[Any]:
        self._episode = episode
        return [Output(), Output()]

    monkeypatch.setattr(EnvironmentLoop, "run", run)
    loop = object.__new__(RecordedLoop)
    for config, recorded in (({"empg": {"run": str(tmp_path)}}, True), ({"empg": {"recipe": "a"}}, False), ({}, False)):
        loop.config = config
        first, last = asyncio.run(loop.run({}, extra_info={"index": 3}))
        assert PACKED not in first.extra_fields
        assert (PACKED in last.extra_fields) is recorded
        assert (PLAYED in last.extra_fields["reward_extra_info"]) is recorded
        if recorded:
            assert unpack(last.extra_fields[PACKED]) == episode
            assert json.loads(last.extra_fields["reward_extra_info"][PLAYED])[0] == 3
