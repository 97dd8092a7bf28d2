"""The words for a turn and for the end of an episode, which all pages share."""

from __future__ import annotations

from typing import Any, get_type_hints

import pytest

from empg.record.records import EndShares
from empg.report.turns import END_NAMES, end_name, fault, shown_turn


@pytest.mark.parametrize(
    ("turn", "words"),
    [
        ({"valid": True}, ""),
        ({"valid": None}, ""),  # a run of an earlier version
        ({"valid": False, "rejected": True}, "rejected action"),
        ({"valid": False}, "no thought"),
        ({"valid": False, "action": ""}, "malformed"),
    ],
)
def test_the_fault_of_a_turn_is_named(turn: dict[str, Any], words: str) -> None:
    assert fault({"action": "look", "rejected": None, **turn}) == words


def test_each_end_reason_of_a_record_has_a_name() -> None:
    assert [f"rollout/end/{end}" for end in END_NAMES] == list(get_type_hints(EndShares))


def test_the_end_of_an_episode_is_named() -> None:
    names = [end_name(end) for end in ("step_limit", "env_error", None, "", "its_own")]
    assert names == ["step limit", "environment error", "lost", "lost", "its_own"]


def test_the_texts_of_a_turn_are_bounded() -> None:
    texts = {"observation": "abc", "thought": None, "action": "ab"}
    shown = shown_turn({"turn": 3, "valid": True, "rejected": None, "dropped": None, **texts}, 2)
    assert shown == {
        "turn": 3, "observation": "ab … (1 more characters)", "thought": "", "action": "ab", "fault": "",
        "dropped": False,
    }  # fmt: skip
