"""The text of the user's messages in one episode, whether they become token ids or chat messages."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from typing import Protocol

from empg.agent.parsing import FORMS, ParsedTurn, parse_leniently
from empg.agent.prompts import (
    admissible_text,
    grammar_text,
    harmless,
    history_text,
    information_text,
    instructions,
    observation_text,
    reminder,
)
from empg.environments.base import Info, PromptSpec
from empg.recipe import AgentSection

CUT = " [cut]"  # the end of a text that was cut


class Measure(Protocol):
    """Counts tokens."""

    def length(self, text: str) -> int:
        """Count the tokens of a text inside a message."""
        ...

    def cut(self, text: str, limit: int) -> str:
        """Return the text, or its beginning and the mark `[cut]` if it has more than `limit` tokens."""
        ...


def system_message(prompt_spec: PromptSpec, section: AgentSection) -> str | None:
    """Return the system message of every conversation, or None."""
    if section.prompt == "terse":
        return None
    return instructions(prompt_spec, section.form) if section.instructions is None else section.instructions or None


def is_lenient(section: AgentSection) -> bool:
    """Return whether prompts and parsing are for a model that was not trained on the format."""
    return section.prompt == "instruct" and section.form == "react"


def parse_text(section: AgentSection, text: str, admissible: Sequence[str] = ()) -> ParsedTurn:
    """Parse the text of a turn."""
    return parse_leniently(text, admissible) if is_lenient(section) else FORMS[section.form].parse(text)


class Wording:
    """The user's messages of one episode: call `read`, let the policy write, call `acted`, and repeat.

    `merged`: each message continues the conversation. `per_turn`: each turn has its own conversation, whose only
    message has the task, the last `window` (observation, action) pairs and the current observation.

    Attributes:
        admissible: the admissible commands of the last observation, if they are known.
    """

    def __init__(self, prompt_spec: PromptSpec, section: AgentSection, measure: Measure) -> None:
        self.prompt_spec, self.section, self.measure = prompt_spec, section, measure
        self.admissible: Sequence[str] = ()
        self._past: list[tuple[str, str]] = []
        self._seen = ""

    @property
    def starts_conversation(self) -> bool:
        """Whether the next message is the first of a conversation."""
        return not self._past or self.section.history == "per_turn"

    def read(self, observation: str, info: Info) -> str:
        """Return the text of the next message."""
        section, first, lenient = self.section, not self._past, is_lenient(self.section)
        limit = None if first else section.max_observation_tokens
        shown = self._limited(observation, info, limit, first=first)
        # In Search-R1's form the question is in the context once; in a new context it is given again.
        once = first or (section.form == "search_r1" and section.history == "merged")
        self._seen = observation_text(self.prompt_spec, shown, info, first=once)
        self.admissible = info.get("admissible") or []
        text = self._seen + self._commands(info, shown, limit, first=first)
        if lenient:
            text += reminder(after_malformed=not first and not self._past[-1][1])
        if section.history == "merged":
            return text
        past = self._past[-section.window :] if section.window else []
        return history_text(past, len(self._past) - len(past), marked=lenient) + text

    def acted(self, action: str) -> None:
        """Add the action that followed the last message; it is empty if the turn was malformed."""
        self._past.append((self._seen, action))

    def _limited(self, observation: str, info: Info, limit: int | None, *, first: bool) -> str:
        """Return the observation in the form of the recipe, within a limit of tokens."""
        if self.section.form == "search_r1" and not first:
            return self._information(observation, info, limit)
        return observation if limit is None else self.measure.cut(observation, limit)

    def _information(self, observation: str, info: Info, limit: int | None) -> str:
        """Return the documents in their block, which is within the limit as a whole."""
        found = harmless(observation)
        text = information_text(found, info)
        if limit is None or not info["valid"]:
            return text
        room = limit
        while room > 1 and (over := self.measure.length(text) - limit) > 0:
            room = max(1, room - over if room < limit else limit - self.measure.length(information_text("", info)))
            text = information_text(self.measure.cut(found, room), info)
        return text

    def _commands(self, info: Info, shown: str, limit: int | None, *, first: bool) -> str:
        """Return the admissible commands if they are listed, as many as the limit leaves after the observation `shown`.

        Where they are not listed, a model that was not trained on the format gets their grammar, once per context.
        """
        section, lenient = self.section, is_lenient(self.section)
        show = lenient if section.show_admissible == "auto" else section.show_admissible
        commands = [command for command in info.get("admissible") or [] if command != "help"] if show else []
        if not commands and lenient and (first or section.history == "per_turn"):
            return grammar_text(self.prompt_spec)
        text = admissible_text(commands)
        if limit is None or self.measure.length(shown + text) <= limit:
            return text

        def too_long(count: int) -> bool:
            return self.measure.length(shown + admissible_text(commands[:count], mark=CUT.strip())) > limit

        kept = bisect_right(range(1, len(commands)), False, key=too_long)
        return admissible_text(commands[:kept], mark=CUT.strip())


def cut_text(text: str, limit: int, length: Callable[[str], int]) -> str:
    """Return the text, or its beginning and the mark `[cut]` if `length` counts more than `limit` tokens."""
    text = text.strip()
    if length(text) <= limit:
        return text
    ends: Sequence[int] = [word.end() for word in re.finditer(r"\S+", text)]
    if length(text[: ends[0]] + CUT) > limit:
        ends = range(ends[0])  # a word that is too long is cut at any character
    fits, too_long = 0, len(ends)
    while too_long - fits > 1:  # indices into `ends`; the kept text was counted, whatever the tokenizer does
        middle = (fits + too_long) // 2
        if length(text[: ends[middle]] + CUT) <= limit:
            fits = middle
        else:
            too_long = middle
    return text[: ends[fits]] + CUT
