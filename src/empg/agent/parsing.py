"""One turn of text, read as a thought and an action.

The form is `<think>why</think><action>what</action>`, or that of Search-R1. Model output is hostile input: it is
matched, bounded and cut, never interpreted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from empg.errors import UserError

MAX_ACTION_CHARS = 500
TAGS = tuple(
    f"<{slash}{name}>" for name in ("think", "action", "search", "answer", "information") for slash in ("", "/")
)
_FREE = re.compile(r"(\w+) ?\[(.*)\]\.?", re.DOTALL)
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
    thought, action = _block(text, "think"), _block(text, "action")
    words = action.words if action else ""
    valid = thought is not None and 0 < len(words) <= MAX_ACTION_CHARS
    return ParsedTurn(thought.words if thought else "", words if valid else "", valid)


def parse_leniently(text: str, admissible: Sequence[str] = ()) -> ParsedTurn:
    """Read a turn of a model that was not trained in the form: a command that can be told is executed.

    A thought may lack its opening tag, or be missing, which leaves the turn invalid. The command is taken from what
    follows the thought, because thoughts quote the form. An action that is an admissible command but for case and a
    final period is that command.
    """
    before, closed, after = text.partition("</think>")
    thought = " ".join(before.partition("<think>")[2 if "<think>" in before else 0].split()) if closed else ""
    action = _block(after, "action") or _block(text, "action")
    words = action.words if action else ""
    words = _admissible_form(words, admissible) if 0 < len(words) <= MAX_ACTION_CHARS else ""
    return ParsedTurn(thought, words, bool(closed and words))


def _admissible_form(action: str, admissible: Sequence[str]) -> str:
    """The admissible command that the action is, apart from case and a final period; else the action unchanged.

    Commands with free text (`search[<your query>]`) are matched by what stands before the bracket.
    """
    wanted = {action.casefold(), action.rstrip(" .").casefold()}
    for command in admissible:
        if command.casefold() in wanted:
            return command
    free = _FREE.fullmatch(action)
    verbs = {command.partition("[<")[0] for command in admissible if "[<" in command}
    if free is not None and free[1].casefold() in verbs:
        return f"{free[1].casefold()}[{free[2]}]"
    return action


def write_turn(thought: str, action: str) -> str:
    """The text of a turn; `parse_turn` reads it back."""
    return f"<think>{thought}</think><action>{action}</action>"


def parse_search_r1(text: str) -> ParsedTurn:
    """Read `<think>why</think>` and one of `<search>query</search>` and `<answer>text</answer>`, as Search-R1 writes.

    The first complete block counts, and nothing that follows it: Search-R1 cuts a response there. A thought may be
    missing.
    """
    thought = _block(text, "think")
    blocks = [block for block in (_block(text, "search"), _block(text, "answer")) if block is not None]
    block = min(blocks, key=lambda found: found.start, default=None)
    action = f"{block.tag}[{block.words}]" if block is not None and block.words else ""
    if len(action) > MAX_ACTION_CHARS:
        action = ""
    return ParsedTurn(thought.words if thought else "", action, bool(action))


def write_search_r1(thought: str, action: str) -> str:
    """The text of a turn in Search-R1's form; `parse_search_r1` reads it back.

    Raises:
        UserError: the action is neither `search[...]` nor `answer[...]`: the form has no other.
    """
    command = _COMMAND.fullmatch(action)
    if command is None:
        raise UserError(f"{action!r:.80} cannot be said in the form search_r1, which has search[...] and answer[...]")
    verb, words = command.groups()
    return f"<think>{thought}</think><{verb}>{words}</{verb}>"


@dataclass(frozen=True, slots=True)
class _Block:
    """`<tag>words</tag>`, which starts at character `start` of its text; white space is squeezed."""

    tag: str
    start: int
    words: str


def _block(text: str, tag: str) -> _Block | None:
    """The first complete block, in linear time: a lazy pattern would try each of many unclosed tags to the end."""
    start = text.find(f"<{tag}>")
    inside = start + len(tag) + 2
    end = text.find(f"</{tag}>", inside) if start >= 0 else -1
    return _Block(tag, start, " ".join(text[inside:end].split())) if end >= 0 else None


@dataclass(frozen=True, slots=True)
class Form:
    """A way to write turns, and to read them back."""

    parse: Callable[[str], ParsedTurn]
    write: Callable[[str, str], str]


FORMS = {"react": Form(parse_turn, write_turn), "search_r1": Form(parse_search_r1, write_search_r1)}
