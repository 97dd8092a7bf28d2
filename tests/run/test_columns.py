"""What is written down about an iteration: rows that can be read alone, numbers that can be checked by hand."""

from __future__ import annotations

import math
from dataclasses import fields
from typing import cast

import pytest

from empg.credit import LossStats
from empg.learner.assign import assign_credit
from empg.record.records import CreditNumbers, EndShares, EpisodeRow, PolicyNumbers, RolloutNumbers
from empg.rollout.types import EndReason
from empg.run.columns import credit_numbers, episode_rows, join_columns, rollout_numbers, turn_columns
from empg.system.workers import Workers
from tests.learner.plays import episode, recipe, turn, two_groups


def test_one_row_per_turn_with_all_its_credit_is_made_of() -> None:
    assigned = assign_credit(two_groups(), recipe(), Workers())
    columns = turn_columns(4, assigned)
    assert {len(column) for column in columns.values()} == {9}
    assert columns["iteration"] == [4] * 9
    assert columns["episode"] == [0, 0, 1, 2, 2, 2, 3, 4, 4]
    assert columns["turn"] == [0, 1, 0, 0, 1, 2, 0, 0, 1]
    assert columns["entropy"] == pytest.approx([0.2, 0.9, 1.4, 0.1, 0.3, 2.0, 0.6, 0.7, 0.8])
    assert columns["action_entropy"] == columns["entropy"]  # these turns have no thought
    assert columns["num_action_tokens"] == [2, 1, 3, 1, 2, 1, 2, 1, 1]
    assert columns["num_prompt_tokens"] == [2, 1, 2, 2, 1, 1, 2, 2, 1]
    assert columns["clarity"][1] == 0.0  # an episode's last step
    for row in range(9):  # the equation, from the row's own columns
        modulated = columns["advantage_outcome"][row] * columns["scale"][row] + 0.1 * columns["clarity"][row]
        assert columns["advantage_modulated"][row] == pytest.approx(modulated, abs=1e-5)
    mean = sum(columns["advantage_modulated"]) / 9
    assert columns["advantage"] == pytest.approx([value - mean for value in columns["advantage_modulated"]], abs=1e-5)


def test_the_entropy_of_each_token_is_recorded_if_asked() -> None:
    assigned = assign_credit(two_groups(), recipe(), Workers())
    assert turn_columns(4, assigned)["token_entropies"] == [None] * 9
    recorded = turn_columns(4, assigned, token_entropies=True)
    turns = [turn for episode in assigned.episodes for turn in episode.turns]
    assert recorded["token_entropies"] == [pytest.approx(turn.entropies, abs=5e-4) for turn in turns]
    assert [len(row) for row in recorded["token_entropies"]] == recorded["num_action_tokens"]


def test_a_step_that_did_not_count_says_why() -> None:
    episodes = [*two_groups(), episode(2, 0.0, turn([1], [2])), episode(2, 0.0, turn([1], [3]))]
    episodes[0].turns[0].entropies[0] = math.nan
    columns = turn_columns(0, assign_credit(episodes, recipe(credit={"drop_zero_variance": True}), Workers()))
    assert columns["dropped"] == [True] + [False] * 10  # not finite; the last two have no signal
    for name in ("advantage", "scale", "clarity", "entropy_normalised", "advantage_modulated"):
        assert [value is None for value in columns[name]] == [True] + [False] * 8 + [True] * 2
    assert columns["entropy"][0] is None
    assert columns["entropy"][9] == 0.5


def test_a_turn_without_tokens_has_no_entropy_and_was_not_dropped() -> None:
    episodes = two_groups()
    said = episodes[0].turns[0]
    said.action_ids, said.logprobs, said.entropies = [], [], []
    assigned = assign_credit(episodes, recipe(), Workers())
    columns = turn_columns(0, assigned)
    assert (columns["entropy"][0], columns["advantage"][0], columns["dropped"][0]) == (None, None, False)
    assert assigned.dropped_steps == 0
    assert credit_numbers(columns)["entropy/step_min"] == pytest.approx(0.1)


def test_a_row_keeps_what_was_written_and_its_whole_process_reward() -> None:
    episodes = two_groups()
    said = episodes[0].turns[0]
    said.text, said.valid, said.process_reward = "<think>no tag", False, 0.2
    columns = turn_columns(0, assign_credit(episodes, recipe(credit={"invalid_penalty": 0.5}), Workers()))
    assert columns["text"][:2] == ["<think>no tag", ""]
    assert columns["action_ids"][:2] == [[30, 31], [32]]
    assert columns["process_reward"][:2] == pytest.approx([-0.3, 0.0])


def test_the_plain_base_algorithm_has_no_columns_of_the_method() -> None:
    columns = turn_columns(0, assign_credit(two_groups(), recipe(credit={"modulation": None}), Workers()))
    assert "scale" not in columns
    assert columns["advantage"] == columns["advantage_outcome"]


def test_a_rule_without_scale_and_clarity_leaves_their_columns_and_numbers_out() -> None:
    columns = turn_columns(0, assign_credit(two_groups(), recipe(credit={"modulation": "gtpo"}), Workers()))
    assert {"entropy_normalised", "scale", "clarity"}.isdisjoint(columns)
    assert len(columns["advantage_modulated"]) == 9
    assert {"credit/scale_std", "credit/clarity_mean"}.isdisjoint(credit_numbers(columns))


def test_workers_rows_are_joined_and_numbered_through() -> None:
    first = turn_columns(0, assign_credit(two_groups()[:2], recipe(), Workers()))
    second = turn_columns(0, assign_credit(two_groups()[2:], recipe(), Workers()))
    nothing = turn_columns(0, assign_credit([], recipe(), Workers()))
    assert nothing == {}
    joined = join_columns([first, nothing, second])
    assert joined["episode"] == [0, 0, 1, 2, 2, 2, 3, 4, 4]
    assert joined["group"] == [0, 0, 0, 1, 1, 1, 1, 1, 1]


def test_rollout_numbers_by_hand() -> None:
    broken = episode(1, 0.0, turn([1], [2, 2, 2]), end=EndReason.ENV_ERROR)
    won = episode(0, 1.0, turn([1, 1], [2], failure="dead"), turn([1], [2, 2], valid=False), end=EndReason.WON)
    lost = episode(0, 0.0, turn([1], [2, 2, 2]), end=EndReason.STEP_LIMIT)
    numbers = rollout_numbers(episode_rows([won, lost, broken]))
    assert numbers["rollout/episodes"] == 3
    assert numbers["rollout/success"] == 0.5  # of the episodes that could be played
    assert numbers["rollout/turns"] == 1.5
    assert numbers["rollout/turn_tokens"] == 2.0
    assert numbers["rollout/episode_tokens"] == 5.0
    assert numbers["rollout/valid_actions"] == pytest.approx(2 / 3)
    assert numbers["rollout/failed_turns"] == pytest.approx(1 / 3)
    assert numbers["tokens/sampled"] == 9
    assert numbers["rollout/end/env_error"] == pytest.approx(1 / 3)
    shares = [share for name, share in cast("dict[str, float]", numbers).items() if name.startswith("rollout/end/")]
    assert sum(shares) == pytest.approx(1.0)


def test_the_types_of_the_records_name_what_is_written() -> None:
    numbers, rows = rollout_numbers([]), episode_rows(two_groups())
    assert set(numbers) == set(RolloutNumbers.__annotations__)
    assert set(EndShares.__annotations__) == {f"rollout/end/{reason.value}" for reason in EndReason}
    assert all(set(row) == set(EpisodeRow.__annotations__) for row in rows)
    credit = credit_numbers(turn_columns(0, assign_credit(two_groups(), recipe(), Workers())))
    assert set(credit) == set(CreditNumbers.__annotations__)
    statistics = {f"policy/{each.name}" for each in fields(LossStats) if each.name != "tokens"}
    assert set(PolicyNumbers.__annotations__) <= statistics | {"policy/grad_norm", "policy/lr", "policy/mismatch"}


def test_numbers_of_nothing_are_finite() -> None:
    numbers = cast("dict[str, float]", rollout_numbers([]))
    assert all(math.isfinite(value) for value in numbers.values())
    assert credit_numbers({}) == {}


def test_credit_numbers_by_hand() -> None:
    columns = {
        "entropy": [1.0, None, 3.0, 2.0],
        "scale": [0.5, None, 1.5, 1.0],
        "clarity": [0.0, None, 0.5, 1.0],
        "advantage": [-1.0, None, 3.0, 2.0],
    }
    numbers = credit_numbers(columns)
    assert numbers["entropy/step_mean"] == 2.0
    assert (numbers["entropy/step_min"], numbers["entropy/step_p50"], numbers["entropy/step_max"]) == (1.0, 2.0, 3.0)
    assert (numbers["credit/scale_min"], numbers["credit/scale_max"]) == (0.5, 1.5)
    assert numbers["credit/scale_std"] == pytest.approx(0.408248, abs=1e-6)
    assert numbers["credit/clarity_mean"] == 0.5
    assert numbers["credit/advantage_abs_mean"] == 2.0
