"""A tokenizer's chat template, split once into pieces, so that a conversation can grow by token ids alone.

Rendering the whole conversation again at every turn would re-tokenise what the policy sampled. Instead the template is
rendered once with marks in place of the texts. The pieces between the marks close one message and open the next. A
template may render an earlier message differently from the last one (Qwen 3 removes its thoughts). The pieces are
taken from a conversation that continues, and the text of the policy stays unchanged.

Each piece is encoded together with the text before it, and its ids are cut from the result. Encoded alone, it could get
a word mark at its beginning (SentencePiece), or keep a space that the preceding token absorbs.
"""

from __future__ import annotations

import datetime
import functools
import re
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from empg.agent.parsing import TAGS
from empg.agent.template import ChatTemplate, Messages
from empg.agent.wording import cut_text
from empg.errors import UserError, message_of

_SEPARATOR = "\u2063"  # invisible; templates do not change or strip it
_MARK = f"{_SEPARATOR}empg{_SEPARATOR}"
# Characters of the longest text whose ids are remembered. Observations and first prompts recur among the episodes of a
# group; a long prompt has a history, which does not recur. With 4 bytes per id, all remembered texts take about 40 MB.
_LONG = 4_000
# What a generation prompt may end with: a thought that it opens, or opens and closes.
_OPENED_THOUGHT = re.compile(r"<think>\s*(?:</think>\s*)?$")


class ChatFormat:
    """The form of a conversation for one tokenizer.

    Args:
        tokenizer: a tokenizer with a chat template.
        ends: additional ids that end a turn (those of the model's generation configuration).
        arguments: template arguments, e.g. `{"enable_thinking": False}`.
        date: the date that the template prints; None is today.

    Attributes:
        end_of_turn: id of the token that ends an assistant message.
        stop_ids: ids that end the sampling of a turn: `end_of_turn`, the tokenizer's own end of sequence, and `ends`.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        ends: Iterable[int] = (),
        arguments: Mapping[str, Any] | None = None,
        date: datetime.date | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer, arguments, date)
        self._remembered = functools.lru_cache(maxsize=4096)(self._packed)
        self._opening = functools.lru_cache(maxsize=64)(self._opening_with)
        self.token_text = functools.lru_cache(maxsize=65536)(self._token_text)
        self._later, self.end_of_turn, self._margins = self._split_template()
        control = self._control_tokens()
        self._control_ids = set(control.values())
        broken = {token: self._split_token(token, index) for token, index in control.items()}
        self._special = sorted(broken.items(), key=lambda item: (-len(item[0]), item[0]))
        own = tokenizer.eos_token_id
        self.stop_ids = sorted({self.end_of_turn, *([] if own is None else [own]), *ends})

    def first(self, text: str, system: str | None = None) -> list[int]:
        """Return the ids of a conversation that starts with `text` from the user and waits for the assistant.

        `system` is the system message. If the template does not support one, it is put before the user's message.
        """
        before, after = self._opening(system)
        return self._encode("", before + self._safe(text) + after)

    def later(self, text: str, *, closed: bool, system: str | None = None) -> list[int]:
        """Return the ids that follow the assistant's sampled ids: `text` from the user, then the assistant's opening.

        `closed` says whether the assistant sampled its end-of-turn token. If not, because the turn was cut, the token
        is inserted here. `system` is the system message of the conversation; in some templates the assistant's opening
        depends on it.
        """
        before, after = self._later
        after = after if system is None or self._opening(None)[1] == (new := self._opening(system)[1]) else new
        ids = self._encode(self._end, before + self._safe(text) + after)
        return ids if closed else [self.end_of_turn, *ids]

    def reply(self, text: str, system: str | None = None) -> list[int]:
        """Return the ids of a whole assistant message, including its end-of-turn token (for supervised training)."""
        before, after = self._margins
        return [*self._encode(self._opening(system)[1], before + self._safe(text) + after), self.end_of_turn]

    def opened(self, system: str | None = None) -> str:
        """Return the thought that the generation prompt opens: `<think>`, with or without `</think>`, or nothing.

        The white space after it is included. It counts as part of the assistant's turn.
        """
        found = _OPENED_THOUGHT.search(self._opening(system)[1])
        return found[0] if found else ""

    def text(self, ids: Sequence[int]) -> str:
        """Decode sampled ids without the tokenizer's control tokens."""
        return self.raw_text([index for index in ids if index not in self._control_ids])

    def raw_text(self, ids: Sequence[int]) -> str:
        """Decode sampled ids with the tokenizer's control tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def _token_text(self, index: int) -> str:
        """Decode one id."""
        return self.raw_text([index])

    def length(self, text: str) -> int:
        """Count the tokens of a text inside a message."""
        return len(self._ids(self._safe(text)))

    def cut(self, text: str, limit: int) -> str:
        """Return the text, or its beginning and the mark `[cut]` if it has more than `limit` tokens."""
        return cut_text(text, limit, self.length)

    def _split_template(self) -> tuple[tuple[str, str], int, tuple[str, str]]:
        """Split the template into the pieces around the messages.

        Returns:
            The text before and after a later user message, the id that ends the preceding assistant message, and the
            white space before and after the text of an assistant message.

        Raises:
            UserError: the template cannot be split: it changes or reorders texts, an assistant message does not end
                with a control token, or the template renders turns differently.
        """
        roles = ("user", "assistant", "user", "assistant", "user")
        marks = [f"{_SEPARATOR}{role}{number}{_SEPARATOR}" for number, role in enumerate(roles)]
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        wrong = self._template.try_out([messages[:1], messages[:3], messages])
        if wrong:
            raise self._refusal(wrong)
        short = self._between(messages[:3], marks[:3])
        long = self._between(messages, marks)
        if not short[2] == long[2] == long[4] or not short[3] == long[5] or not short[:2] == long[:2]:
            raise self._refusal("does not render all turns in the same way")
        if self._opening(None)[0] != short[0]:
            raise self._refusal("starts a conversation in a way that depends on later messages")
        own = {*self.tokenizer.added_tokens_decoder, *self.tokenizer.all_special_ids}
        ends = [token for token in self._ids(short[2]) if token in own]
        self._end = str(self.tokenizer.decode(ends[:1]))
        blank, _, opening = short[2].partition(self._end) if self._end else (short[2], "", "")
        if not self._end or blank.strip():  # without one, only the token limit would end a turn
            raise self._refusal("does not end an assistant message with a control token")
        lead = short[1].removeprefix(short[3])
        return (opening, short[3]), ends[0], ("" if lead.strip() or lead == short[1] else lead, blank)

    def _control_tokens(self) -> dict[str, int]:
        """Return the tokens that a text must not contain, with their ids.

        These are the special tokens and all other added tokens that the template itself writes. Some tokenizers (Llama
        3) list only a few of their control tokens and mark the others among the added tokens; some (R1-Distill) do not
        mark those that open a turn. The policy reads and writes the tags of a turn, even if they are special tokens.
        """
        pieces = (*self._opening(None), *self._opening("system"), *self._later, *self._margins)
        written = {index for piece in pieces for index in self._ids(piece)}
        control = {
            token.content: index
            for index, token in self.tokenizer.added_tokens_decoder.items()
            if token.special or (index in written and token.content.strip())  # some add runs of spaces or line ends
        }
        for named in map(str, self.tokenizer.all_special_tokens):
            control[named] = self.tokenizer.convert_tokens_to_ids(named)
        return {token: index for token, index in control.items() if token not in TAGS}

    def _opening_with(self, system: str | None) -> tuple[str, str]:
        """Return the text before and after the first user message."""
        user = {"role": "user", "content": _MARK}
        if system is not None:
            conversation = [{"role": "system", "content": system}, user]
            if wrong := self._template.try_out([conversation]):
                raise self._refusal(wrong)
            try:
                rendered = self._template.render(conversation)
            except Exception:  # of any class: a template is a program
                rendered = ""
            if rendered and system.strip() in rendered:
                before, after = self._cut(rendered, [_MARK])
                return before, after
            # A template without a system role raises an error (Gemma) or drops the message.
            user = {"role": "user", "content": f"{system}\n\n{_MARK}"}
        before, after = self._between([user], [_MARK])
        return before, after

    def _safe(self, text: str) -> str:
        # A page or a product must not be able to end the turn, so control tokens inside text are split.
        for token, broken in self._special:
            if token in text:
                text = text.replace(token, broken)
        return text

    def _split_token(self, token: str, index: int) -> str:
        """Split a control token with an invisible space, or with a plain one if the tokenizer removes that."""
        broken = token[0] + "\u200b" + token[1:]
        return broken if index not in self._ids(broken) else f"{token[0]} {token[1:]}"

    def _between(self, messages: Messages, marks: list[str]) -> tuple[str, ...]:
        """Return the template's text around the marks: one piece more than the number of marks."""
        try:
            rendered = self._template.render(messages)
        except Exception as error:  # of any class: a template is a program
            reason = message_of(error)
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

    def _encode(self, before: str, text: str) -> list[int]:
        """Return the ids of `text` after `before`, remembered if the text is short."""
        return self._following(before, text) if len(text) > _LONG else list(self._remembered(before, text))

    def _packed(self, before: str, text: str) -> array[int]:
        return array("i", self._following(before, text))

    def _following(self, before: str, text: str) -> list[int]:
        """Return the ids of `text` after `before`."""
        if not before:
            return self._ids(text)
        context, whole = self._ids(before), self._ids(before + text)
        if whole[: len(context)] == context:
            return whole[len(context) :]
        # A token crosses the boundary. The policy has read all of `before`, so it cannot write that token.
        return self._ids(text)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))
