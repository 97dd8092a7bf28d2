"""One turn of an episode for a page, and the words for what went wrong in it and for how its episode ended."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from empg.report.markup import short

Row = Mapping[str, Any]
"""A turn with the columns of `tables.EPISODES`, or an episode with those of `loading.episodes_of`."""

END_NAMES = {
    "won": "won",
    "lost": "lost",
    "step_limit": "step limit",
    "token_limit": "token limit",
    "malformed": "malformed turns",
    "env_error": "environment error",
}
"""What pages call each reason for which an episode ends, in the order of the legend."""


def end_name(end: str | None) -> str:
    """Return what pages call the end of an episode; an unknown one keeps its name, and a missing one is `lost`."""
    return END_NAMES.get(end or "lost", end or "")


def fault(turn: Row) -> str:
    """Return why a turn is not valid, in a word or two; empty if it is valid."""
    if turn["valid"] is not False:
        return ""
    if turn["rejected"]:
        return "rejected action"
    return "no thought" if turn["action"] else "malformed"


def shown_turn(turn: Row, limit: int) -> dict[str, Any]:
    """Return what each page shows of a turn: its texts, of at most `limit` characters each, and what happened to it."""
    return {
        "turn": turn["turn"],
        **{name: short(turn[name], limit) for name in ("observation", "thought", "action")},
        "fault": fault(turn),
        "dropped": bool(turn["dropped"]),
    }
