"""A tokenizer's chat template, split once into pieces, so that a conversation can grow by token ids alone.

Rendering the whole conversation again at every turn would re-tokenise what the policy sampled. Instead the template is
rendered once with marks in place of the texts. The pieces between the marks close one message and open the next. A
template may render an earlier message differently from the last one (Qwen 3 removes its thoughts). The pieces are
taken from a conversation that continues, and the text of the policy stays unchanged.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from empg.errors import UserError

CUT = " [cut]"  # the end of a text that was cut
_SEPARATOR = "\u2063"  # invisible; templates do not change or strip it
_MARK = f"{_SEPARATOR}empg{_SEPARATOR}"


class ChatFormat:
    """The form of a conversation for one tokenizer.

    Attributes:
        end_of_turn: id of the token that ends an assistant message.
        stop_ids: ids that end the sampling of a turn (`end_of_turn` and the tokenizer's own end of sequence).
    """

    def __init__(self, tokenizer: Any) -> None:
        if not getattr(tokenizer, "chat_template", None):
            name = tokenizer.name_or_path
            raise UserError(f"tokenizer {name!r} has no chat template: use an instruction-tuned model")
        self.tokenizer = tokenizer
        # Some tokenizers (Llama 3) list only a few of their control tokens; the others are marked among the added
        # tokens.
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        special = {*map(str, tokenizer.all_special_tokens), *added}
        self._special = sorted(special, key=lambda token: (-len(token), token))
        self._later, self.end_of_turn = self._split_template()
        end_of_sequence = tokenizer.eos_token_id
        self.stop_ids = sorted({self.end_of_turn, self.end_of_turn if end_of_sequence is None else end_of_sequence})
        self._first = self._opening(None)
        self._encode = functools.lru_cache(maxsize=65536)(self._ids)

    def first(self, text: str, system: str | None = None) -> list[int]:
        """Return the ids of a conversation that starts with `text` from the user and waits for the assistant.

        `system` is the system message. If the template does not support one, it is put before the user's message.
        """
        before, after = self._first if system is None else self._opening(system)
        return list(self._encode(before + self._safe(text) + after))

    def later(self, text: str, *, closed: bool) -> list[int]:
        """Return the ids that follow the assistant's sampled ids: `text` from the user, then the assistant's opening.

        `closed` says whether the assistant sampled its end-of-turn token. If not, because the turn was cut, the token
        is inserted here.
        """
        before, after = self._later
        ids = list(self._encode(before + self._safe(text) + after))
        return ids if closed else [self.end_of_turn, *ids]

    def reply(self, text: str) -> list[int]:
        """Return the ids of a whole assistant message, including its end-of-turn token (for supervised training)."""
        return [*self._encode(self._safe(text)), self.end_of_turn]

    def text(self, ids: list[int]) -> str:
        """Decode sampled ids without the tokenizer's control tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True))

    def cut(self, text: str, limit: int) -> str:
        """Return the text, or its beginning and the mark `[cut]` if it has more than `limit` tokens."""
        text = text.strip()
        if self._count(text) <= limit:
            return text
        ends: Sequence[int] = [word.end() for word in re.finditer(r"\S+", text)]
        if self._count(text[: ends[0]] + CUT) > limit:
            ends = range(ends[0])  # a word that is too long is cut at any character
        fits, too_long = 0, len(ends)
        while too_long - fits > 1:  # indices into `ends`; the kept text was counted, whatever the tokenizer does
            middle = (fits + too_long) // 2
            if self._count(text[: ends[middle]] + CUT) <= limit:
                fits = middle
            else:
                too_long = middle
        return text[: ends[fits]] + CUT

    def _count(self, text: str) -> int:
        return len(self._ids(self._safe(text)))

    def _split_template(self) -> tuple[tuple[str, str], int]:
        """Return the text before and after a later user message, and the id that ends the preceding assistant message.

        Raises:
            UserError: the template cannot be split: it changes or reorders texts, an assistant message does not end
                with a control token, or the template renders turns differently.
        """
        roles = ("user", "assistant", "user", "assistant", "user")
        marks = [f"{_SEPARATOR}{role}{number}{_SEPARATOR}" for number, role in enumerate(roles)]
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        short = self._between(messages[:3], marks[:3])
        long = self._between(messages, marks)
        if not short[2] == long[2] == long[4] or not short[3] == long[5] or not short[:2] == long[:2]:
            raise self._refusal("does not render all turns in the same way")
        if self._opening(None)[0] != short[0]:
            raise self._refusal("starts a conversation in a way that depends on later messages")
        own = {*self.tokenizer.added_tokens_decoder, *self.tokenizer.all_special_ids}
        ends = [token for token in self._ids(short[2]) if token in own]
        end = self.tokenizer.decode(ends[:1])
        blank, _, opening = short[2].partition(end) if end else (short[2], "", "")
        if not end or blank.strip():  # without one, only the token limit would end a turn
            raise self._refusal("does not end an assistant message with a control token")
        return (opening, short[3]), ends[0]

    def _opening(self, system: str | None) -> tuple[str, str]:
        user = {"role": "user", "content": _MARK}
        if system is not None:
            try:
                rendered = self._rendered([{"role": "system", "content": system}, user])
            except TemplateError:
                rendered = ""
            if system.strip() in rendered:
                before, after = self._cut(rendered, [_MARK])
                return before, after
            # A template without a system role raises an error (Gemma) or drops the message.
            user = {"role": "user", "content": f"{system}\n\n{_MARK}"}
        before, after = self._between([user], [_MARK])
        return before, after

    def _safe(self, text: str) -> str:
        # A page or a product must not be able to end the turn, so control tokens inside text are split.
        for token in self._special:
            if token in text:
                text = text.replace(token, token[0] + "\u200b" + token[1:])
        return text

    def _between(self, messages: list[dict[str, str]], marks: list[str]) -> tuple[str, ...]:
        """Return the template's text around the marks: one piece more than the number of marks."""
        try:
            rendered = self._rendered(messages)
        except (TemplateError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise self._refusal(f"cannot be rendered ({reason})") from None
        return self._cut(rendered, marks)

    def _cut(self, rendered: str, marks: list[str]) -> tuple[str, ...]:
        places = [rendered.find(mark) for mark in marks]
        if any(rendered.count(mark) != 1 for mark in marks) or places != sorted(places):
            raise self._refusal("drops, repeats or reorders messages")
        pieces = []
        for mark in marks:
            piece, _, rendered = rendered.partition(mark)
            pieces.append(piece)
        return (*pieces, rendered)

    def _refusal(self, reason: str) -> UserError:
        name = self.tokenizer.name_or_path
        return UserError(f"the chat template of {name!r} {reason}: use another model or template")

    def _rendered(self, messages: list[dict[str, str]]) -> str:
        return str(self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))
