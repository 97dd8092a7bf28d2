"""The conversation of one episode in token ids, turn by turn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from empg.agent.chat import ChatFormat
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
from empg.errors import UserError
from empg.recipe import AgentSection


@dataclass(frozen=True, slots=True)
class Prompt:
    """The ids to read before the next action. `fresh` starts an empty context; otherwise they extend the context."""

    ids: list[int]
    fresh: bool


@dataclass(frozen=True, slots=True)
class Agent:
    """Writes prompts and parses turns, from the environment's prompt spec, the recipe and the chat template."""

    prompt_spec: PromptSpec
    section: AgentSection
    chat: ChatFormat

    def dialogue(self) -> Dialogue:
        """Start a new conversation."""
        return Dialogue(self)

    @property
    def system(self) -> str | None:
        """The system message of every conversation, or None."""
        if self.section.prompt == "terse":
            return None
        return self.section.instructions or instructions(self.prompt_spec, self.section.form)

    @property
    def lenient(self) -> bool:
        """Whether prompts and parsing are for a model that was not trained on the format."""
        return self.section.prompt == "instruct" and self.section.form == "react"

    def parse(self, ids: Sequence[int], admissible: Sequence[str] = ()) -> ParsedTurn:
        """Parse sampled ids as a turn. A thought that the prompt opened counts as opened."""
        text = self.chat.text(ids)
        if not text.lstrip().startswith("<think>"):  # some models open the thought again
            text = self.chat.opened(self.system) + text
        return parse_leniently(text, admissible) if self.lenient else FORMS[self.section.form].parse(text)

    def ends_turn(self, ids: Sequence[int]) -> bool:
        """Return whether the last of the sampled ids ends the turn.

        It is a token that ends an assistant message, or it completes one of the form's stop texts. Such a text may be
        split over tokens, and its last token may contain more than the text.
        """
        if ids[-1] in self.chat.stop_ids:
            return True
        stops = FORMS[self.section.form].stops
        if not any(stop[-1] in self.chat.token_text(ids[-1]) for stop in stops):
            return False  # spares decoding the turn at every token
        text = self.chat.text(ids)
        return any(stop in text for stop in stops)

    def write(self, thought: str, action: str) -> list[int]:
        """Return the ids of a turn, up to the one that ends it (`ends_turn`); `parse` is the inverse.

        If the prompt opens the thought, the turn starts inside it. If the prompt also closes it, the turn has no
        thought.

        Raises:
            UserError: the action cannot be expressed in the form.
        """
        text = FORMS[self.section.form].write(thought, action)
        opened = self.chat.opened(self.system)
        if "</think>" in opened:
            text = text.partition("</think>")[2]
        elif opened:
            text = text.removeprefix("<think>")
        ids = self.chat.reply(text, self.system)
        return next(ids[:end] for end in range(1, len(ids) + 1) if self.ends_turn(ids[:end]))

    def check(self) -> None:
        """Write a turn and read it back.

        Raises:
            UserError: with this tokenizer and chat template, the turn changes.
        """
        action = "search[mug]" if self.section.form == "search_r1" else "look"
        ids = self.write("why", action)
        parsed = self.parse(ids)
        thought = "" if "</think>" in self.chat.opened(self.system) else "why"
        if parsed != ParsedTurn(thought, action, well_formed=True):
            raise UserError(
                f"the tokenizer {self.chat.tokenizer.name_or_path!r} cannot write turns of the form "
                f"{self.section.form}: expected {action!r}, read {parsed.action!r} from "
                f"{self.chat.raw_text(ids)[:200]!r}. Use another model or agent.form"
            )


@dataclass(slots=True)
class Dialogue:
    """The conversation of one episode: call `read`, let the policy write, call `wrote`, and repeat.

    `merged`: the history is append-only and every id is read once. `per_turn`: each turn has its own prompt with the
    task, the last `window` (observation, action) pairs and the current observation.
    """

    agent: Agent
    _past: list[tuple[str, str]] = field(default_factory=list)
    _seen: str = ""
    _closed: bool = True
    _admissible: Sequence[str] = ()

    def read(self, observation: str, info: Info) -> Prompt:
        """Return the ids of the next prompt."""
        agent, first = self.agent, not self._past
        section, chat = agent.section, agent.chat
        system = agent.system
        self._seen = self._shown(observation, info, first=first)
        self._admissible = info.get("admissible") or []
        text = self._seen + self._commands(info, first=first)
        if agent.lenient:
            text += reminder(after_malformed=not first and not self._past[-1][1])
        if section.history == "merged":
            ids = chat.first(text, system) if first else chat.later(text, closed=self._closed, system=system)
            return Prompt(ids, fresh=first)
        shown = self._past[-section.window :] if section.window else []
        history = history_text(shown, len(self._past) - len(shown), marked=agent.lenient)
        return Prompt(chat.first(history + text, system), fresh=True)

    def _shown(self, observation: str, info: Info, *, first: bool) -> str:
        """Return the observation as the model reads it: limited in length, in the form of the recipe, with the task."""
        prompt_spec, section = self.agent.prompt_spec, self.agent.section
        limit = None if first else section.max_observation_tokens
        if section.form == "react":
            if limit is not None:
                observation = self.agent.chat.cut(observation, limit)
            return observation_text(prompt_spec, observation, info, first=first)
        if not first:
            observation = self._information(observation, info, limit)
        # In this form the question is in the context once; in a new context it is given again.
        return observation_text(prompt_spec, observation, info, first=first or section.history == "merged")

    def _information(self, observation: str, info: Info, limit: int | None) -> str:
        """Return the documents in their block, which is within the limit as a whole."""
        found = harmless(observation)
        text = information_text(found, info)
        if limit is None or not info["valid"]:
            return text
        room = limit
        while room > 1 and (over := self.agent.chat.length(text) - limit) > 0:
            room = max(1, room - over if room < limit else limit - self.agent.chat.length(information_text("", info)))
            text = information_text(self.agent.chat.cut(found, room), info)
        return text

    def _commands(self, info: Info, *, first: bool) -> str:
        """Return the admissible commands if they are shown, within the token limit of an observation.

        Where they are not listed, a model that was not trained on the format gets their grammar, once per context.
        """
        section = self.agent.section
        show = self.agent.lenient if section.show_admissible == "auto" else section.show_admissible
        text = admissible_text(info) if show else ""
        if not text and self.agent.lenient and (first or section.history == "per_turn"):
            return grammar_text(self.agent.prompt_spec)
        if not text or section.max_observation_tokens is None:
            return text
        return "\n" + self.agent.chat.cut(text, section.max_observation_tokens)

    def parse(self, ids: Sequence[int]) -> ParsedTurn:
        """Parse the ids that the policy sampled after the last prompt."""
        return self.agent.parse(ids, self._admissible)

    def wrote(self, ids: list[int], action: str) -> None:
        """Add the text that the policy wrote after the last prompt."""
        self._past.append((self._seen, action))
        self._closed = bool(ids) and ids[-1] == self.agent.chat.end_of_turn
