"""The conversation of one episode in token ids, turn by turn."""

from __future__ import annotations

from dataclasses import dataclass, field

from empg.agent.chat import ChatFormat
from empg.agent.parsing import FORMS, ParsedTurn
from empg.agent.prompts import (
    admissible_text,
    harmless,
    history_text,
    information_text,
    instructions,
    observation_text,
)
from empg.environments.base import Info, PromptSpec
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

    def parse(self, ids: list[int]) -> ParsedTurn:
        """Parse sampled ids as a turn."""
        return FORMS[self.section.form].parse(self.chat.text(ids))

    def write(self, thought: str, action: str) -> list[int]:
        """Return the ids of a turn, including its end-of-turn token; `parse` is the inverse.

        Raises:
            UserError: the action cannot be expressed in the form.
        """
        return self.chat.reply(FORMS[self.section.form].write(thought, action))


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

    def read(self, observation: str, info: Info) -> Prompt:
        """Return the ids of the next prompt."""
        agent, first = self.agent, not self._past
        section, chat = agent.section, agent.chat
        system = None
        if section.prompt == "instruct":
            system = section.instructions or instructions(agent.prompt_spec, section.form)
        self._seen = self._shown(observation, info, first=first)
        text = self._seen + self._commands(info)
        if section.history == "merged":
            ids = chat.first(text, system) if first else chat.later(text, closed=self._closed)
            return Prompt(ids, fresh=first)
        shown = self._past[-section.window :] if section.window else []
        return Prompt(chat.first(history_text(shown, len(self._past) - len(shown)) + text, system), fresh=True)

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
        while room > 1 and (over := self._length(text) - limit) > 0:
            room = max(1, room - over if room < limit else limit - self._length(information_text("", info)))
            text = information_text(self.agent.chat.cut(found, room), info)
        return text

    def _commands(self, info: Info) -> str:
        """Return the admissible commands if the recipe shows them, within the token limit of an observation."""
        section = self.agent.section
        text = admissible_text(info) if section.show_admissible else ""
        if not text or section.max_observation_tokens is None:
            return text
        return "\n" + self.agent.chat.cut(text, section.max_observation_tokens)

    def _length(self, text: str) -> int:
        return len(self.agent.chat.reply(text)) - 1  # without the end of the turn

    def wrote(self, ids: list[int], action: str) -> None:
        """Add the text that the policy wrote after the last prompt."""
        self._past.append((self._seen, action))
        self._closed = bool(ids) and ids[-1] == self.agent.chat.end_of_turn
