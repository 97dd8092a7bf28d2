"""The episodes of a group as a tree: what they did in common is drawn once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from empg.record.fields import finite
from empg.report.markup import short
from empg.report.turns import Row

MAX_TEXT = 160  # characters of an action in the tree
MAX_LEVELS = 60  # branches within branches; a browser and the template could not nest hundreds of them


@dataclass
class Branch:
    """Steps that the same episodes took, then the branches in which they parted.

    Attributes:
        steps: for each step, its action, and the step of each episode.
        episodes: numbers of the episodes that took these steps.
        won: how many of the episodes were won.
        ends: the episodes that ended after these steps.
        branches: the continuations, in order of their first episode.
        parts: index of the step at which won and lost episodes part: before it they are together, and with it one of
            the continuations has only won or only lost ones. None if they do not part here.
    """

    steps: list[dict[str, Any]] = field(default_factory=list)
    episodes: list[int] = field(default_factory=list)
    won: int = 0
    ends: list[Row] = field(default_factory=list)
    branches: list[Branch] = field(default_factory=list)
    parts: int | None = None

    @property
    def mixed(self) -> bool:
        """Whether some of the episodes were won and some lost."""
        return 0 < self.won < len(self.episodes)


def tree(episodes: Sequence[Sequence[Row]]) -> Branch:
    """Return the tree of the episodes of one group.

    Two episodes share a step if they read the same observation and chose the same action, after the same steps. A
    branch ends only where episodes part. Beyond `MAX_LEVELS` branches within one another, each episode stands alone.
    """
    return _grow(list(episodes), 0, 0)


def partings(branch: Branch) -> list[Branch]:
    """Return the branches after which won and lost episodes part, the earliest in an episode first."""
    found = [branch] if branch.parts is not None else []
    found += [b for child in branch.branches for b in partings(child)]
    return sorted(found, key=lambda b: b.parts or 0)


def _grow(episodes: list[Sequence[Row]], start: int, level: int) -> Branch:
    won = sum(bool(turns[0]["success"]) for turns in episodes)
    branch = Branch(episodes=[turns[0]["episode"] for turns in episodes], won=won)
    depth = start
    while True:
        going = [turns for turns in episodes if len(turns) > depth]
        kinds: dict[tuple[Any, Any], list[Sequence[Row]]] = {}
        for turns in going:
            kinds.setdefault((turns[depth]["observation"], what_was_done(turns[depth])), []).append(turns)
        if len(going) < len(episodes) or len(kinds) != 1:
            break
        branch.steps.append(_step([turns[depth] for turns in going]))
        depth += 1
    branch.ends = [turns[0] for turns in episodes if len(turns) == depth]
    parted = list(kinds.values()) if level < MAX_LEVELS else [[turns] for turns in going]
    branch.branches = [_grow(together, depth, level + 1) for together in parted]
    one_sided = [len({bool(end["success"]) for end in branch.ends}) == 1, *(not b.mixed for b in branch.branches)]
    if branch.mixed and branch.branches and any(one_sided):
        branch.parts = depth
    return branch


def what_was_done(turn: Row) -> str:
    """Return what tells whether two turns did the same: the action, or all that was written if there is none."""
    return turn["action"] or turn["text"] or ""


def _step(turns: Sequence[Row]) -> dict[str, Any]:
    return {
        "turn": turns[0]["turn"],
        "action": short(what_was_done(turns[0]), MAX_TEXT) or "(nothing)",
        "valid": turns[0]["valid"] is not False,
        "credit": [
            {"episode": t["episode"], "entropy": finite(t["entropy"]), "advantage": finite(t["advantage"])}
            for t in turns
        ],
    }
