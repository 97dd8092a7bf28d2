"""The conversation of one episode in chat messages, for a model behind an API that applies its own chat template.

The texts are those of a local model with the same recipe. Only lengths differ: the tokenizer of the model is unknown
here, so limits in tokens count four bytes as one token.
"""

from __future__ import annotations

from empg.agent.parsing import FORMS, ParsedTurn
from empg.agent.wording import Wording, cut_text, parse_text, system_message
from empg.environments.base import Info, PromptSpec
from empg.recipe import AgentSection

Message = dict[str, str]
"""`role` (system, user or assistant) and `content`."""

BYTES_PER_TOKEN = 4
_NOTHING = "(no answer)"  # APIs reject an empty assistant message


class ByteMeasure:
    """Estimates the tokens of a text from its bytes; see `wording.Measure`."""

    def length(self, text: str) -> int:
        """Return the estimated number of tokens, rounded up."""
        return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)

    def cut(self, text: str, limit: int) -> str:
        """Return the text, or its beginning and the mark `[cut]` if it has more than `limit` tokens."""
        return cut_text(text, limit, self.length)


class Conversation:
    """The messages of one episode: call `read`, let the model write, call `wrote`, and repeat."""

    def __init__(self, prompt_spec: PromptSpec, section: AgentSection) -> None:
        self._wording = Wording(prompt_spec, section, ByteMeasure())
        self._system, self._section = system_message(prompt_spec, section), section
        self._messages: list[Message] = []

    def read(self, observation: str, info: Info) -> list[Message]:
        """Return all messages to send before the next turn."""
        if self._wording.starts_conversation:
            self._messages = [] if self._system is None else [{"role": "system", "content": self._system}]
        self._messages.append({"role": "user", "content": self._wording.read(observation, info)})
        return list(self._messages)

    def parse(self, text: str) -> ParsedTurn:
        """Parse what the model wrote after the last message."""
        return parse_text(self._section, text, self._wording.admissible)

    def wrote(self, text: str, action: str) -> None:
        """Add what the model wrote, up to the text that ends a turn of the form."""
        for stop in FORMS[self._section.form].stops:
            before, found, _ = text.partition(stop)
            text = before + found
        self._messages.append({"role": "assistant", "content": text.strip() or _NOTHING})
        self._wording.acted(action)
