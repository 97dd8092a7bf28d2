"""The episodes of a group as a tree."""

from __future__ import annotations

from typing import Any

from empg.report.inspector.tree import MAX_LEVELS, Branch, partings, tree


def episode(number: int, actions: str, won: bool = False) -> list[dict[str, Any]]:
    base = {
        "episode": number,
        "success": won,
        "observation": "o",
        "text": "",
        "valid": True,
        "entropy": 0.1,
        "advantage": float("nan"),
    }
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


def test_hundreds_of_episodes_that_part_one_by_one_do_not_make_a_deep_tree() -> None:
    def levels(branch: Branch) -> int:
        return 1 + max((levels(b) for b in branch.branches), default=0)

    root = tree([episode(number, "a" * number + "b") for number in range(900)])
    assert levels(root) == MAX_LEVELS + 2  # the root, and the episodes that stand alone
    deepest = root
    while deepest.branches:
        last, deepest = deepest, max(deepest.branches, key=levels)
    assert [b.episodes for b in last.branches] == [[number] for number in range(MAX_LEVELS, 900)]


def test_won_and_lost_episodes_part_where_a_continuation_has_only_one_outcome() -> None:
    root = tree([episode(0, "abcd", won=True), episode(1, "abce"), episode(2, "ax", won=True), episode(3, "ab")])
    assert (root.won, len(root.episodes)) == (2, 4)
    found = [(b.parts, b.episodes) for b in partings(root)]
    assert found == [(1, [0, 1, 2, 3]), (2, [0, 1, 3]), (3, [0, 1])]


def test_episodes_with_the_same_steps_or_the_same_outcome_do_not_part() -> None:
    assert partings(tree([episode(0, "ab", won=True), episode(1, "ab")])) == []
    assert partings(tree([episode(0, "ab"), episode(1, "ac")])) == []
