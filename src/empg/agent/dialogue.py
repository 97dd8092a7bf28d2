"""One episode as the model reads it, turn by turn, in token ids."""

from __future__ import annotations

from dataclasses import dataclass, field

from empg.agent.chat import ChatFormat
from empg.agent.parsing import ParsedTurn, parse_turn
from empg.agent.prompts import WORLDS, World, admissible_text, history_text, instructions, observation_text
from empg.environments.base import Info
from empg.recipe import AgentSection


@dataclass(frozen=True, slots=True)
class Prompt:
    """What to read before the next action. `fresh` starts an empty context; otherwise the ids follow what is there."""

    ids: list[int]
    fresh: bool


@dataclass(frozen=True, slots=True)
class Agent:
    """The form of a conversation: the world's words, the recipe's choices, the tokenizer's template."""

    world: World
    section: AgentSection
    chat: ChatFormat

    @staticmethod
    def create(environment: str, section: AgentSection, chat: ChatFormat) -> Agent:
        """The agent for a registered environment."""
        return Agent(WORLDS[environment], section, chat)

    def dialogue(self) -> Dialogue:
        """A fresh conversation."""
        return Dialogue(self)

    def parse(self, ids: list[int]) -> ParsedTurn:
        """Read sampled ids as a turn."""
        return parse_turn(self.chat.text(ids))


@dataclass(slots=True)
class Dialogue:
    """The conversation of one episode: call `read`, let the policy write, call `wrote`, and so on.

    `merged`: the history is append-only and every id is read once. `per_turn`: each turn has its own prompt with the
    task, the last `window` (observation, action) pairs and the current observation.
    """

    agent: Agent
    _past: list[tuple[str, str]] = field(default_factory=list)
    _seen: str = ""
    _closed: bool = True

    def read(self, observation: str, info: Info) -> Prompt:
        """The ids of the next prompt."""
        agent, first = self.agent, not self._past
        section, chat = agent.section, agent.chat
        system = instructions(agent.world) if section.prompt == "instruct" else None
        self._seen = observation_text(agent.world, observation, info, first=first)
        text = self._seen + (admissible_text(info) if section.show_admissible else "")
        if section.history == "merged":
            ids = chat.first(text, system) if first else chat.later(text, closed=self._closed)
            return Prompt(ids, fresh=first)
        shown = self._past[-section.window :] if section.window else []
        return Prompt(chat.first(history_text(shown, len(self._past) - len(shown)) + text, system), fresh=True)

    def wrote(self, ids: list[int], action: str) -> None:
        """Note what the policy wrote in answer to the last prompt."""
        self._past.append((self._seen, action))
        self._closed = bool(ids) and ids[-1] == self.agent.chat.end_of_turn
