"""Episodes as rows: the ids that the policy wrote, and the step of each."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from empg.learner.batch import make_batch, micro_batches
from empg.rollout.types import Episode, Turn


def turn(prompt: list[int], action: list[int]) -> Turn:
    logprobs = [-0.1 * i for i in action]
    return Turn(observation="", prompt_ids=prompt, action_ids=action, logprobs=logprobs, entropies=[0.5] * len(action))


def episode(*turns: Turn) -> Episode:
    return Episode(task_id="t", task_index=0, task_type="", split="train", group=0, turns=list(turns))


EPISODES = [
    episode(turn([1, 2, 3], [10, 11]), turn([4], [12])),
    episode(turn([5, 6], [13, 14, 15])),
]


def test_merged_rows_are_whole_episodes() -> None:
    batch = make_batch(EPISODES, "merged")
    assert batch.rows == [[1, 2, 3, 10, 11, 4, 12], [5, 6, 13, 14, 15]]
    assert batch.row.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.column.tolist() == [3, 4, 6, 2, 3, 4]
    assert batch.step.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.episode.tolist() == [0, 0, 0, 1, 1, 1]


def test_per_turn_rows_are_turns_of_the_same_steps() -> None:
    batch = make_batch(EPISODES, "per_turn")
    assert batch.rows == [[1, 2, 3, 10, 11], [4, 12], [5, 6, 13, 14, 15]]
    assert batch.row.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.column.tolist() == [3, 4, 1, 2, 3, 4]
    assert batch.step.tolist() == [0, 0, 1, 2, 2, 2]
    assert batch.episode.tolist() == [0, 0, 0, 1, 1, 1]


def test_no_episodes_make_an_empty_batch() -> None:
    batch = make_batch([], "merged")
    assert len(batch) == 0
    assert list(micro_batches(batch, torch.zeros(0, dtype=torch.bool), 100, torch.device("cpu"))) == []


ids = st.lists(st.integers(1, 50), min_size=1, max_size=8)
plays = st.lists(st.lists(st.tuples(ids, ids), min_size=1, max_size=4), max_size=6)


@given(plays=plays, history=st.sampled_from(["merged", "per_turn"]), budget=st.integers(8, 60), data=st.data())
def test_passes_score_each_kept_token_once_and_nothing_else(plays, history, budget, data) -> None:
    episodes = [episode(*(turn(p, a) for p, a in play)) for play in plays]
    batch = make_batch(episodes, history)
    keep = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(batch), max_size=len(batch))), dtype=torch.bool)
    written = [i for e in episodes for t in e.turns for i in t.action_ids]
    scored: dict[int, int] = {}
    for micro in micro_batches(batch, keep, budget, torch.device("cpu")):
        assert micro.input_ids.numel() <= budget or len(micro.input_ids) == 1
        for row, column, token in zip(micro.rows.tolist(), micro.columns.tolist(), micro.tokens.tolist(), strict=True):
            assert token not in scored
            scored[token] = int(micro.input_ids[row, column])
    assert scored == {i: written[i] for i in torch.nonzero(keep)[:, 0].tolist()}
