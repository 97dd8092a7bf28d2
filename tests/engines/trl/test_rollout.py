"""Episodes that TRL's generation writes follow the rules of every other rollout, token for token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl", reason="trl is not installed: make test-trl runs these tests")

from empg.engines.trl import EMPGConfig, EMPGTrainer, EpisodeRollout, environment_reward
from empg.engines.trl.rollout import token_columns
from empg.errors import UserError
from empg.learner.batch import make_batch
from empg.rollout.types import EndReason, Episode
from tests.engines.trl.parts import arguments, fixed_episode, small_recipe, tiny_policy

pytestmark = pytest.mark.filterwarnings("default")  # of TRL and transformers about their own names


def played(tmp_path: Path, **sections: Any) -> tuple[list[Episode], dict[str, Any]]:
    """Play one generation batch of a small recipe in a trainer; return its episodes and what TRL got."""
    recipe = small_recipe(**sections)
    policy, rollout = tiny_policy(recipe), EpisodeRollout(recipe)
    trainer = EMPGTrainer(
        policy.model,
        environment_reward,
        EMPGConfig(**arguments(tmp_path)),
        train_dataset=rollout.dataset(),
        processing_class=policy.tokenizer,
        rollout_func=rollout,
    )
    columns = rollout([str(number // 4) for number in range(8)], trainer)
    return rollout.episodes, columns


def test_the_tokens_are_those_of_our_own_rows() -> None:
    episodes = [fixed_episode(number) for number in range(8)]
    columns, batch = token_columns(episodes, 3), make_batch(episodes, "merged")
    assert [p + c for p, c in zip(columns["prompt_ids"], columns["completion_ids"], strict=True)] == batch.rows
    for row, (prompt, steps) in enumerate(zip(columns["prompt_ids"], columns["step_ids"], strict=True)):
        written = [len(prompt) + column for column, step in enumerate(steps) if step >= 0]
        assert written == batch.column[batch.row == row].tolist()
        assert columns["env_mask"][row] == [int(step >= 0) for step in steps]


def test_an_episode_without_a_turn_is_one_token_outside_the_loss() -> None:
    empty = fixed_episode(0)
    empty.turns, empty.end = [], EndReason.ENV_ERROR
    assert token_columns([empty], 7) == {
        "prompt_ids": [[7]], "completion_ids": [[7]], "env_mask": [[0]], "step_ids": [[-1]], "episode_reward": [None],
    }  # fmt: skip


def test_an_episode_whose_environment_failed_has_no_reward_and_no_token_in_the_loss() -> None:
    failed = fixed_episode(2)
    failed.end = EndReason.ENV_ERROR
    columns = token_columns([failed, fixed_episode(1)], 7)
    assert columns["episode_reward"] == [None, 1.0]
    assert not any(columns["env_mask"][0])
    assert max(columns["step_ids"][0]) == len(failed.turns) - 1  # the records still tell its turns apart


def test_groups_play_their_task(tmp_path: Path) -> None:
    episodes, columns = played(tmp_path)
    assert [episode.group for episode in episodes] == [0] * 4 + [1] * 4
    assert [episode.task_index for episode in episodes] == [0] * 4 + [1] * 4
    assert len({tuple(ids) for ids in columns["prompt_ids"]}) == 2
    assert columns["episode_reward"] == [episode.reward for episode in episodes]
    assert columns["logprobs"] is None


def test_the_limits_of_the_recipe_hold(tmp_path: Path) -> None:
    limits = {"groups": 2, "group_size": 4, "max_turn_tokens": 10, "max_episode_tokens": 128}
    episodes, columns = played(tmp_path, rollout=limits, environment={"max_steps": 9, "options": {"rooms": "small"}})
    assert {len(turn.action_ids) for episode in episodes for turn in episode.turns} <= set(range(1, 11))
    lengths = [len(p) + len(c) for p, c in zip(columns["prompt_ids"], columns["completion_ids"], strict=True)]
    assert max(lengths) <= 128
    assert {episode.end for episode in episodes} == {EndReason.TOKEN_LIMIT}


def test_prompts_per_turn_are_refused() -> None:
    with pytest.raises(UserError, match=r"agent\.history: the engine trl expects merged, got per_turn"):
        EpisodeRollout(small_recipe(agent={"history": "per_turn"}))
