"""One turn of text, read as a thought and an action.

The form is `<think>why</think><action>what</action>`. Model output is hostile input: it is matched, bounded and cut,
never interpreted.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_ACTION_CHARS = 500
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_ACTION = re.compile(r"<action>(.*?)</action>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A turn taken apart. `valid` is False when the action (or the thought) is missing or the action is over-long."""

    thought: str
    action: str
    valid: bool


def parse_turn(text: str) -> ParsedTurn:
    """Read the first `<think>` and the first `<action>` block; surrounding white space is dropped.

    A turn without a well-formed action keeps an empty action, which no environment understands: the episode goes on
    and the agent reads that nothing happened.
    """
    thought, action = _THOUGHT.search(text), _ACTION.search(text)
    words = " ".join(action.group(1).split()) if action else ""
    valid = thought is not None and 0 < len(words) <= MAX_ACTION_CHARS
    return ParsedTurn(" ".join(thought.group(1).split()) if thought else "", words if valid else "", valid)


def write_turn(thought: str, action: str) -> str:
    """The text of a turn; `parse_turn` reads it back."""
    return f"<think>{thought}</think><action>{action}</action>"
