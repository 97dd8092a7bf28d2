"""The episodes of a group as a tree."""

from __future__ import annotations

from typing import Any

from empg.report.inspector.tree import Branch, tree


def episode(number: int, actions: str) -> list[dict[str, Any]]:
    base = {"episode": number, "observation": "o", "text": "", "valid": True, "entropy": 0.1, "advantage": float("nan")}
    return [{**base, "turn": turn, "action": action} for turn, action in enumerate(actions)]


def drawn(branch: Branch) -> Any:
    """A branch as (actions, episodes that end here, branches)."""
    steps = "".join(step["action"] for step in branch.steps)
    return steps, [end["episode"] for end in branch.ends], [drawn(b) for b in branch.branches]


def test_a_common_prefix_is_drawn_once() -> None:
    found = tree([episode(0, "abc"), episode(1, "abx"), episode(2, "abxd")])
    assert drawn(found) == ("ab", [], [("c", [0], []), ("x", [1], [("d", [2], [])])])
    assert found.episodes == [0, 1, 2]
    assert [c["advantage"] for c in found.steps[0]["credit"]] == [None] * 3


def test_equal_episodes_are_one_branch_and_strangers_part_at_once() -> None:
    assert drawn(tree([episode(0, "ab"), episode(1, "ab")])) == ("ab", [0, 1], [])
    assert drawn(tree([episode(0, "a"), episode(1, "b")])) == ("", [], [("a", [0], []), ("b", [1], [])])


def test_a_long_episode_does_not_make_a_deep_tree() -> None:
    assert len(tree([episode(0, "a" * 5_000), episode(1, "a" * 5_000 + "b")]).steps) == 5_000
