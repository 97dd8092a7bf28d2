"""Parse one turn of text into a thought and an action.

The form is `<think>why</think><action>what</action>`, or that of Search-R1. Model output is hostile input: it is
matched and limited in length, never interpreted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from empg.errors import UserError

MAX_ACTION_CHARS = 500
TAGS = tuple(
    f"<{slash}{name}>" for name in ("think", "action", "search", "answer", "information") for slash in ("", "/")
)
_FREE = re.compile(r"(\w+) ?\[(.*)\]\.?", re.DOTALL)
_COMMAND = re.compile(r"(search|answer)\[(.*)\]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ParsedTurn:
    """A parsed turn.

    `well_formed` is False if the action or the thought is missing, or if the action is too long. A turn without a
    readable action is malformed; its `action` is empty. `action_at` is the character of the text at which the block of
    the action begins; 0 without an action.
    """

    thought: str
    action: str
    well_formed: bool
    action_at: int = field(default=0, compare=False)


def parse_turn(text: str) -> ParsedTurn:
    """Parse the first `<think>` and the first `<action>` block; surrounding white space is removed.

    A turn without a well-formed action gets an empty action, which every environment rejects. The episode continues,
    and the agent reads that nothing happened.
    """
    thought, action = _block(text, "think"), _block(text, "action")
    words = action.words if action else ""
    well_formed = thought is not None and 0 < len(words) <= MAX_ACTION_CHARS
    if action is None or not well_formed:
        return ParsedTurn(thought.words if thought else "", "", well_formed=False)
    return ParsedTurn(thought.words if thought else "", words, well_formed=True, action_at=action.start)


def parse_leniently(text: str, admissible: Sequence[str] = ()) -> ParsedTurn:
    """Read a turn of a model that was not trained on the format. A recognizable command is executed.

    A thought may lack its opening tag. It may also be missing, but then the turn is not well-formed. The command is
    the first block with words after the first `</think>`, because thoughts may quote the format. Case and a final
    period do not count when the action is compared with the admissible commands.
    """
    closed = text.find("</think>") + 1
    action = _with_words(text, closed if _block(text, "action", closed) else 0)
    end = text.rfind("</think>", 0, action.start if action and action.start > closed else None)
    before = text[: max(end, 0)]
    thought = " ".join(before.partition("<think>")[2 if "<think>" in before else 0].split())
    if action is None or len(action.words) > MAX_ACTION_CHARS:
        return ParsedTurn(thought, "", well_formed=False)
    return ParsedTurn(thought, _admissible_form(action.words, admissible), bool(closed), action_at=action.start)


def _admissible_form(action: str, admissible: Sequence[str]) -> str:
    """Return the admissible command that equals the action up to case and a final period, else the action.

    Commands with free text (`search[<your query>]`) are compared up to the bracket.
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
    """Return the text of a turn; `parse_turn` is the inverse."""
    return f"<think>{thought}</think><action>{action}</action>"


def parse_search_r1(text: str) -> ParsedTurn:
    """Parse `<think>why</think>` and one of `<search>query</search>` and `<answer>text</answer>`, as in Search-R1.

    Only the first complete block counts, since Search-R1 cuts a response after it. As there, the thought is optional, a
    block may be empty, and its length is limited only by that of the turn.
    """
    thought = _block(text, "think")
    blocks = [block for block in (_block(text, "search"), _block(text, "answer")) if block is not None]
    block = min(blocks, key=lambda found: found.start, default=None)
    words = thought.words if thought else ""
    if block is None:
        return ParsedTurn(words, "", well_formed=False)
    return ParsedTurn(words, f"{block.tag}[{block.words}]", well_formed=True, action_at=block.start)


def write_search_r1(thought: str, action: str) -> str:
    """Return the text of a turn in Search-R1's form; `parse_search_r1` is the inverse.

    Raises:
        UserError: the action is neither `search[...]` nor `answer[...]`.
    """
    command = _COMMAND.fullmatch(action)
    if command is None:
        raise UserError(
            f"{action!r:.80} cannot be expressed in agent.form=search_r1: expected search[...] or answer[...]"
        )
    verb, words = command.groups()
    return f"<think>{thought}</think><{verb}>{words}</{verb}>"


@dataclass(frozen=True, slots=True)
class _Block:
    """`<tag>words</tag>`, which starts at character `start` of its text; white space is collapsed."""

    tag: str
    start: int
    words: str


def _block(text: str, tag: str, begin: int = 0) -> _Block | None:
    """Return the first complete block that starts at character `begin` or later, in linear time.

    A lazy pattern would scan to the end for each unclosed tag.
    """
    start = text.find(f"<{tag}>", begin)
    inside = start + len(tag) + 2
    end = text.find(f"</{tag}>", inside) if start >= 0 else -1
    return _Block(tag, start, " ".join(text[inside:end].split())) if end >= 0 else None


def _with_words(text: str, begin: int) -> _Block | None:
    """Return the first `<action>` block from character `begin` that is not empty, as a quoted format is."""
    block = _block(text, "action", begin)
    while block is not None and not block.words:
        block = _block(text, "action", block.start + 1)
    return block


@dataclass(frozen=True, slots=True)
class Form:
    """A pair of functions that parse turns and write them, and the texts that end a turn while it is sampled."""

    parse: Callable[[str], ParsedTurn]
    write: Callable[[str, str], str]
    stops: tuple[str, ...] = ()


FORMS = {
    "react": Form(parse_turn, write_turn),
    "search_r1": Form(parse_search_r1, write_search_r1, stops=("</search>", "</answer>")),
}
