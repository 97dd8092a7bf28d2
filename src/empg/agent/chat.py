"""A tokenizer's chat template, taken apart once so that a conversation can grow by token ids alone.

Rendering the whole conversation again at every turn would re-tokenise what the policy sampled. Instead the template is
rendered with a marker in place of the text; what stands around the marker opens and closes a user message.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

CUT = " [cut]"  # stands at the end of a text that was longer
_MARK = "\u2063empg\u2063"  # invisible separators: no template changes or strips them


class ChatFormat:
    """How one tokenizer writes a conversation.

    Attributes:
        end_of_turn: id of the token with which an assistant message ends.
        stop_ids: ids that end the sampling of a turn (`end_of_turn` and the tokenizer's own end of sequence).
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            name = tokenizer.name_or_path
            raise ValueError(f"tokenizer {name!r} has no chat template; use an instruction-tuned model")
        self.tokenizer = tokenizer
        # Some tokenizers (Llama 3) name only a few of their control tokens; the rest are marked among the added ones.
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        special = {*map(str, tokenizer.all_special_tokens), *added}
        self._special = sorted(special, key=lambda token: (-len(token), token))
        user, assistant = {"role": "user", "content": "u"}, {"role": "assistant", "content": _MARK}
        closed = self._render([user, assistant], False)
        tail = closed[closed.index(_MARK) + len(_MARK) :]
        ids = self._ids(tail)
        if not ids:
            raise ValueError(f"the chat template of {tokenizer.name_or_path!r} does not end an assistant message")
        self.end_of_turn = ids[0]
        end_of_sequence = tokenizer.eos_token_id
        self.stop_ids = sorted({self.end_of_turn, self.end_of_turn if end_of_sequence is None else end_of_sequence})
        after_end = tail[len(tokenizer.decode([self.end_of_turn])) :]
        grown = self._render([user, assistant, {"role": "user", "content": _MARK + "2"}], True)
        before, after = grown[len(closed) :].split(_MARK + "2")
        self._later = (after_end + before, after)
        self._first = self._opening(None)
        self._encode = functools.lru_cache(maxsize=65536)(self._ids)

    def first(self, text: str, system: str | None = None) -> list[int]:
        """Ids of a conversation that opens with `text` from the user and waits for the assistant.

        `system` is the system message; where the template has none, it opens the user's message.
        """
        before, after = self._first if system is None else self._opening(system)
        return list(self._encode(before + self._safe(text) + after))

    def later(self, text: str, *, closed: bool) -> list[int]:
        """Ids that follow the assistant's sampled ids: `text` from the user, then the assistant's opening.

        `closed` says whether the assistant sampled its end-of-turn token; if not (it was cut), the token is put in
        here.
        """
        before, after = self._later
        ids = list(self._encode(before + self._safe(text) + after))
        return ids if closed else [self.end_of_turn, *ids]

    def reply(self, text: str) -> list[int]:
        """Ids of a whole assistant message, its end-of-turn token among them (for supervised training)."""
        return [*self._encode(self._safe(text)), self.end_of_turn]

    def text(self, ids: list[int]) -> str:
        """What the sampled ids say, without the tokenizer's control tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def cut(self, text: str, limit: int) -> str:
        """The text if it has at most `limit` tokens; else its beginning and the mark `[cut]`, within the limit."""
        text = text.strip()
        if self._count(text) <= limit:
            return text
        ends: Sequence[int] = [word.end() for word in re.finditer(r"\S+", text)]
        if self._count(text[: ends[0]] + CUT) > limit:
            ends = range(ends[0])  # a word that is too long is cut anywhere
        fits, too_long = 0, len(ends)
        while too_long - fits > 1:  # places in `ends`; whatever the tokenizer does, what is kept was counted
            middle = (fits + too_long) // 2
            if self._count(text[: ends[middle]] + CUT) <= limit:
                fits = middle
            else:
                too_long = middle
        return text[: ends[fits]] + CUT

    def _count(self, text: str) -> int:
        return len(self._ids(self._safe(text)))

    def _opening(self, system: str | None) -> tuple[str, str]:
        user = {"role": "user", "content": _MARK}
        if system is None:
            rendered = self._render([user], True)
        else:
            try:
                rendered = self._render([{"role": "system", "content": system}, user], True)
            except TemplateError:
                rendered = ""
            if system.strip() not in rendered:  # a template that knows no system role refuses it (Gemma) or drops it
                rendered = self._render([{"role": "user", "content": f"{system}\n\n{_MARK}"}], True)
        before, after = rendered.split(_MARK)
        return before, after

    def _safe(self, text: str) -> str:
        # A page or a product must not be able to end the turn: control tokens inside text are broken up.
        for token in self._special:
            if token in text:
                text = text.replace(token, token[0] + "\u200b" + token[1:])
        return text

    def _render(self, messages: list[dict[str, str]], generate: bool) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))
