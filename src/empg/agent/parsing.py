"""One turn of text, read as a thought and an action.

The form is `<think>why</think><action>what</action>`, or that of Search-R1. Model output is hostile input: it is
matched, bounded and cut, never interpreted.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

MAX_ACTION_CHARS = 500
_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)
_ACTION = re.compile(r"<action>(.*?)</action>", re.DOTALL)
_SEARCH = re.compile(r"<search>(.*?)</search>", re.DOTALL)
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_COMMAND = re.compile(r"(search|answer)\[(.*)\]", re.DOTALL)


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


def parse_search_r1(text: str) -> ParsedTurn:
    """Read `<think>why</think>` and one of `<search>query</search>` and `<answer>text</answer>`, as Search-R1 writes.

    The action is `search[query]` of the first search block, else `answer[text]` of the first answer block. The turn is
    valid if there is just one block of the two kinds; a thought may be missing.
    """
    thought = _THOUGHT.search(text)
    searches, answers = _SEARCH.findall(text), _ANSWER.findall(text)
    verb, block = ("search", searches[0]) if searches else ("answer", answers[0] if answers else "")
    words = " ".join(block.split())
    action = f"{verb}[{words}]" if words else ""
    if len(action) > MAX_ACTION_CHARS:
        action = ""
    valid = bool(action) and len(searches) + len(answers) == 1
    return ParsedTurn(" ".join(thought.group(1).split()) if thought else "", action, valid)


def write_search_r1(thought: str, action: str) -> str:
    """The text of a turn in Search-R1's form; `parse_search_r1` reads it back.

    Raises:
        ValueError: the action is neither `search[...]` nor `answer[...]`: the form has no other.
    """
    command = _COMMAND.fullmatch(action)
    if command is None:
        raise ValueError(f"{action!r:.80} cannot be said in the form search_r1, which has search[...] and answer[...]")
    verb, words = command.groups()
    return f"<think>{thought}</think><{verb}>{words}</{verb}>"


@dataclass(frozen=True, slots=True)
class Form:
    """A way to write turns, and to read them back."""

    parse: Callable[[str], ParsedTurn]
    write: Callable[[str, str], str]


FORMS = {"react": Form(parse_turn, write_turn), "search_r1": Form(parse_search_r1, write_search_r1)}
