"""One task before and after the warm start: two columns, hostile text inert, long episodes cut and said to be."""

from __future__ import annotations

from empg.rollout.types import Episode, Turn
from empg.run.example import TURNS_SHOWN, WIDTH, side_by_side


def an_episode(turns: list[tuple[str, str]], success: bool = False, task: str = "put a vase in the safe") -> Episode:
    """An episode of (what was written, action that was read from it)."""
    made = [
        Turn(observation="", prompt_ids=[], action_ids=[], logprobs=[], entropies=[], text=text, action=action)
        for text, action in turns
    ]
    return Episode(task_id="t", task_index=0, task_type="", split="", group=0, task=task, turns=made, success=success)


def test_the_columns_are_actions_or_what_was_written_where_there_is_none() -> None:
    before = an_episode([("blah\nblah", "")])
    after = an_episode([("go", "go to safe 1"), ("put", "put vase in safe 1")], success=True)
    assert side_by_side(before, after) == [
        "the same task before and after the warm start: put a vase in the safe",
        "   before: not won, 1 turn  after: won, 2 turns",
        "1  blah blah                > go to safe 1",
        "2                           > put vase in safe 1",
    ]


def test_long_episodes_and_long_texts_are_cut_visibly() -> None:
    before = an_episode([("x" * 10_000, "")] * (TURNS_SHOWN + 3))
    lines = side_by_side(before, an_episode([], task="y" * 500))
    assert lines[-1] == "..."
    assert len(lines) == 2 + TURNS_SHOWN + 1
    assert lines[2] == "1    " + "x" * (WIDTH - 3) + "..."  # the first column is as wide as its "..."
    assert max(map(len, lines)) < 200


def test_an_episode_as_long_as_the_table_is_not_said_to_be_cut() -> None:
    lines = side_by_side(an_episode([("a", "b")] * TURNS_SHOWN), an_episode([("a", "b")]))
    assert len(lines) == 2 + TURNS_SHOWN
