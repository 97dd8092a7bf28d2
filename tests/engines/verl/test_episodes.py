"""A batch of verl gives back the episodes that were played, and its rows get the credit of their steps."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch

from empg.engines.verl.episodes import EpisodeRows, pack, pack_row, panel_rows, read_episodes, unpack
from empg.environments.panels import Panel
from empg.learner.assign import Assigned, assign_credit
from empg.run.columns import episode_rows
from empg.system.workers import Workers
from tests.engines.trl.parts import small_recipe
from tests.engines.verl.rows import Rows, rows_of, scored_episodes


def read(rows: Rows) -> EpisodeRows:
    return read_episodes(rows.keys, rows.packed, rows.written, rows.logprobs, rows.entropies)


def assigned(episodes: Any, **sections: Any) -> Assigned:
    return assign_credit(episodes, small_recipe(**sections), Workers())


def test_an_episode_survives_as_text() -> None:
    [episode] = scored_episodes(1)
    episode.turns[0].info = {"progress": 0.5, "won": False}
    assert unpack(pack(episode)) == episode


def test_values_that_json_does_not_have_become_plain() -> None:
    [episode] = scored_episodes(1)
    episode.turns[0].info = {"scores": torch.tensor([1, 2]), "kind": {"a"}}
    episode.turns[0].text = "\ud800"  # half of a pair, which UTF-8 does not have
    read_back = unpack(pack(episode)).turns[0]
    assert read_back.info == {"scores": [1, 2], "kind": "{'a'}"}
    assert read_back.text == "\ud800"


@pytest.mark.parametrize("merged", [True, False], ids=["merged", "per_turn"])
def test_the_episodes_of_a_batch_are_those_that_were_played(merged: bool) -> None:
    episodes = scored_episodes()
    rows = rows_of(episodes, merged=merged)
    found = read(rows).episodes
    for mine, other in zip(episodes, found, strict=True):
        for turn, read_back in zip(mine.turns, other.turns, strict=True):
            assert read_back.logprobs == pytest.approx(turn.logprobs)
            assert read_back.entropies == pytest.approx(turn.entropies)
    assert [episode.group for episode in found] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_the_order_of_the_rows_does_not_matter() -> None:
    rows = rows_of(scored_episodes(), merged=False)
    order = torch.randperm(len(rows.keys), generator=torch.Generator().manual_seed(1)).tolist()
    one, two = read(rows), read(rows.reordered(order))
    first, second = (each.to_rows(assigned(each.episodes)) for each in (one, two))
    for mine, other in zip(first, second, strict=True):
        torch.testing.assert_close(other, mine[order])


CASES: dict[str, dict[str, Any]] = {
    "empg": {},
    "no modulation": {"credit": {"modulation": None}},
    "gigpo": {"credit": {"advantage": "gigpo", "modulation": {"name": "scaling"}}},
    "gtpo": {"credit": {"modulation": "gtpo"}},
    "penalties": {"credit": {"invalid_penalty": 0.5}},
}


@pytest.mark.parametrize("sections", CASES.values(), ids=CASES)
@pytest.mark.parametrize("history", ["merged", "per_turn"])
def test_the_tokens_of_a_row_have_the_advantage_of_their_step(history: str, sections: dict[str, Any]) -> None:
    episodes = scored_episodes()
    rows = rows_of(episodes, merged=history == "merged")
    mine = assigned(episodes, agent={"history": history}, **sections)
    batch = read(rows)
    theirs = assigned(batch.episodes, agent={"history": history}, **sections)
    advantages, counted = batch.to_rows(theirs)
    assert torch.equal(counted, rows.written.bool())
    torch.testing.assert_close(advantages[counted], mine.token_advantages)
    assert not advantages[~counted].any()


def test_a_group_that_is_dropped_is_not_trained_on() -> None:
    episodes = scored_episodes()
    episodes[6].reward, episodes[6].success = 0.0, False  # the second group is flat
    rows = rows_of(episodes, merged=True)
    batch = read(rows)
    advantages, counted = batch.to_rows(assigned(batch.episodes, credit={"drop_zero_variance": True}))
    assert torch.equal(counted[:4], rows.written[:4].bool())
    assert not counted[4:].any()
    assert not advantages[4:].any()


def test_a_batch_that_does_not_fit_its_episodes_is_an_error() -> None:
    rows = rows_of(scored_episodes(), merged=True)
    with pytest.raises(ValueError, match="row task0_0: expected a packed episode, got none"):
        read(replace(rows, packed=[None, *rows.packed[1:]]))
    with pytest.raises(ValueError, match="task-0: expected 2 written tokens, got 7"):
        read(replace(rows, packed=[rows.packed[0]] * len(rows.packed)).reordered([1]))


def test_a_panel_has_a_row_for_each_task_in_its_order() -> None:
    panel = Panel(name="p", split="train", tasks=(4, 9, 2), task_ids=("d", "i", "b"), sha256="")
    first, last = scored_episodes(2)
    rows = panel_rows(panel, [pack_row(2, last), pack_row(0, first)])
    assert [rows[0], rows[2]] == json.loads(json.dumps(episode_rows([first, last])))
    assert (rows[1]["task_id"], rows[1]["task_index"], rows[1]["end"], rows[1]["turns"]) == ("i", 9, "env_error", 0)
    assert not rows[1]["success"]
