"""A turn of text, read as a thought and an action."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.agent.parsing import MAX_ACTION_CHARS, parse_turn, write_turn

WORDS = st.text(st.characters(exclude_characters="<>", exclude_categories=["C", "Z"]), min_size=1, max_size=20)


@given(thought=WORDS, action=WORDS)
def test_what_is_written_is_read_back(thought: str, action: str) -> None:
    parsed = parse_turn(write_turn(thought, action))
    assert (parsed.thought, parsed.action, parsed.valid) == (thought, action, True)


@pytest.mark.parametrize(
    ("text", "action", "valid"),
    [
        ("<think>t</think><action> go to\n fridge 1 </action>", "go to fridge 1", True),
        ("<think>t</think><action>a</action><action>b</action>", "a", True),
        ("<action>go</action>", "", False),  # no thought
        ("<think>t</think>go to fridge 1", "", False),
        ("<think>t</think><action>go to fridge", "", False),  # cut before it was closed
        ("<think>t</think><action>   </action>", "", False),
        ("", "", False),
        ("<think>t</think><action>" + "x" * (MAX_ACTION_CHARS + 1) + "</action>", "", False),
    ],
)
def test_forms(text: str, action: str, valid: bool) -> None:
    parsed = parse_turn(text)
    assert (parsed.action, parsed.valid) == (action, valid)


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(text: str) -> None:
    parsed = parse_turn(text)
    assert parsed.valid == bool(parsed.action)
