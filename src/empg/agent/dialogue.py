"""The conversation of one episode in token ids, turn by turn."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from empg.agent.chat import ChatFormat
from empg.agent.parsing import FORMS, ParsedTurn
from empg.agent.wording import Wording, parse_text, system_message
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
        return system_message(self.prompt_spec, self.section)

    def parse(self, ids: Sequence[int], admissible: Sequence[str] = ()) -> ParsedTurn:
        """Parse sampled ids as a turn. A thought that the prompt opened counts as opened."""
        return parse_text(self.section, "".join(self._read(ids)), admissible)

    def action_start(self, ids: Sequence[int], parsed: ParsedTurn) -> int:
        """Return the index of the token with which the action begins, tag included, of sampled ids and what they say.

        It is 0, so that the whole turn counts, without an action and without a thought before it.
        """
        if not parsed.thought or not parsed.action:
            return 0
        place = parsed.action_at - len(self._read(ids)[0])
        return bisect_right(range(1, len(ids) + 1), place, key=lambda count: len(self.chat.text(ids[:count])))

    def _read(self, ids: Sequence[int]) -> tuple[str, str]:
        """Return the thought that the prompt opened, unless the turn opens it again as some models do, and the turn."""
        text = self.chat.text(ids)
        return "" if text.lstrip().startswith("<think>") else self.chat.opened(self.system), text

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

    def first_turn(self, ids: list[int]) -> list[int]:
        """Return sampled ids up to the token or text that ends the turn; all of them if nothing does."""
        return next((ids[:end] for end in range(1, len(ids)) if self.ends_turn(ids[:end])), ids)

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


class Dialogue:
    """The conversation of one episode in ids: call `read`, let the policy write, call `wrote`, and repeat.

    `merged`: the history is append-only and every id is read once. `per_turn`: each turn has its own prompt.
    """

    def __init__(self, agent: Agent) -> None:
        self.agent = agent
        self._wording = Wording(agent.prompt_spec, agent.section, agent.chat)
        self._closed = True

    def read(self, observation: str, info: Info) -> Prompt:
        """Return the ids of the next prompt."""
        chat, system = self.agent.chat, self.agent.system
        fresh = self._wording.starts_conversation
        text = self._wording.read(observation, info)
        ids = chat.first(text, system) if fresh else chat.later(text, closed=self._closed, system=system)
        return Prompt(ids, fresh=fresh)

    def parse(self, ids: Sequence[int]) -> ParsedTurn:
        """Parse the ids that the policy sampled after the last prompt."""
        return self.agent.parse(ids, self._wording.admissible)

    def wrote(self, ids: list[int], action: str) -> None:
        """Add the text that the policy wrote after the last prompt."""
        self._wording.acted(action)
        self._closed = bool(ids) and ids[-1] == self.agent.chat.end_of_turn
