"""A tokenizer's chat template, taken apart once so that a conversation can grow by token ids alone.

Rendering the whole conversation again at every turn would re-tokenise what the policy sampled. Instead the template is
rendered with marks in place of the texts; what stands between the marks closes one message and opens the next. A
template may write an earlier message otherwise than the last one (Qwen 3 takes the thoughts out of it): the pieces are
taken where a conversation continues, and what the policy wrote stays unchanged.

Each piece is encoded with the text before it and cut from the result. Encoded alone, it could get a word mark at its
beginning (SentencePiece) or keep a space that the token before it takes, which the template as a whole has not.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from empg.agent.parsing import TAGS
from empg.agent.template import ChatTemplate, Messages
from empg.errors import UserError

CUT = " [cut]"  # stands at the end of a text that was longer
_SEPARATOR = "\u2063"  # invisible: no template changes or strips it
_MARK = f"{_SEPARATOR}empg{_SEPARATOR}"
# What a generation prompt may end with: a thought that it opens, or opens and closes.
_OPENED_THOUGHT = re.compile(r"<think>\s*(?:</think>\s*)?$")


class ChatFormat:
    """How one tokenizer writes a conversation.

    Args:
        tokenizer: has the chat template.
        ends: further ids that end a turn (those of the model's generation configuration).
        arguments: of the template, e.g. `{"enable_thinking": False}`.
        date: the date that the template prints; None is today.

    Attributes:
        end_of_turn: id of the token with which an assistant message ends.
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
        # Some tokenizers (Llama 3) name only a few of their control tokens; the rest are marked among the added ones.
        added = {token.content: index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
        named = {str(token): tokenizer.convert_tokens_to_ids(str(token)) for token in tokenizer.all_special_tokens}
        # The tags of a turn are read and written by the policy, even where the tokenizer calls them special.
        control = {token: index for token, index in {**added, **named}.items() if token not in TAGS}
        self._control_ids = set(control.values())
        broken = {token: self._broken_up(token, index) for token, index in control.items()}
        self._special = sorted(broken.items(), key=lambda item: (-len(item[0]), item[0]))
        self._encode = functools.lru_cache(maxsize=65536)(self._following)
        self._opening = functools.lru_cache(maxsize=64)(self._opening_with)
        self._later, self.end_of_turn, self._margins = self._taken_apart()
        own = tokenizer.eos_token_id
        self.stop_ids = sorted({self.end_of_turn, *([] if own is None else [own]), *ends})

    def first(self, text: str, system: str | None = None) -> list[int]:
        """Ids of a conversation that opens with `text` from the user and waits for the assistant.

        `system` is the system message; where the template has none, it opens the user's message.
        """
        before, after = self._opening(system)
        return list(self._encode("", before + self._safe(text) + after))

    def later(self, text: str, *, closed: bool, system: str | None = None) -> list[int]:
        """Ids that follow the assistant's sampled ids: `text` from the user, then the assistant's opening.

        `closed` says whether the assistant sampled its end-of-turn token; if not (it was cut), the token is put in
        here. `system` is the conversation's system message: some templates open the assistant's message as it says.
        """
        before, after = self._later
        after = after if system is None or self._opening(None)[1] == (new := self._opening(system)[1]) else new
        ids = list(self._encode(self._end, before + self._safe(text) + after))
        return ids if closed else [self.end_of_turn, *ids]

    def reply(self, text: str, system: str | None = None) -> list[int]:
        """Ids of a whole assistant message, its end-of-turn token among them (for supervised training)."""
        before, after = self._margins
        return [*self._encode(self._opening(system)[1], before + self._safe(text) + after), self.end_of_turn]

    def opened(self, system: str | None = None) -> str:
        """The thought that the template opens before the assistant writes: `<think>` with or without `</think>`.

        White space after it is included; it is empty where the template opens none. It belongs to the assistant's turn.
        """
        found = _OPENED_THOUGHT.search(self._opening(system)[1])
        return found[0] if found else ""

    def text(self, ids: Sequence[int]) -> str:
        """What the sampled ids say, without the tokenizer's control tokens."""
        return self.raw_text([index for index in ids if index not in self._control_ids])

    def raw_text(self, ids: Sequence[int]) -> str:
        """What the sampled ids say, control tokens included."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))

    def length(self, text: str) -> int:
        """Tokens of a text inside a message."""
        return len(self._ids(self._safe(text)))

    def cut(self, text: str, limit: int) -> str:
        """The text if it has at most `limit` tokens; else its beginning and the mark `[cut]`, within the limit."""
        text = text.strip()
        if self.length(text) <= limit:
            return text
        ends: Sequence[int] = [word.end() for word in re.finditer(r"\S+", text)]
        if self.length(text[: ends[0]] + CUT) > limit:
            ends = range(ends[0])  # a word that is too long is cut anywhere
        fits, too_long = 0, len(ends)
        while too_long - fits > 1:  # places in `ends`; whatever the tokenizer does, what is kept was counted
            middle = (fits + too_long) // 2
            if self.length(text[: ends[middle]] + CUT) <= limit:
                fits = middle
            else:
                too_long = middle
        return text[: ends[fits]] + CUT

    def _taken_apart(self) -> tuple[tuple[str, str], int, tuple[str, str]]:
        """The parts of the template that surround what is said.

        Returns:
            What stands before and after a later user message, the id that ends the assistant's message before it, and
            the white space with which the template surrounds what the assistant says.

        Raises:
            UserError: the template cannot be cut: texts do not come through whole and in order, a message of the
                assistant does not end with a control token, or turns are not all written alike.
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
            raise self._refusal("does not write all turns alike")
        if self._opening(None)[0] != short[0]:
            raise self._refusal("opens a conversation in a way that depends on what follows")
        own = {*self.tokenizer.added_tokens_decoder, *self.tokenizer.all_special_ids}
        ends = [token for token in self._ids(short[2]) if token in own]
        self._end = str(self.tokenizer.decode(ends[:1]))
        blank, _, opening = short[2].partition(self._end) if self._end else (short[2], "", "")
        if not self._end or blank.strip():  # without one, nothing but a limit would end a turn
            raise self._refusal("does not end an assistant message with a control token")
        lead = short[1].removeprefix(short[3])
        return (opening, short[3]), ends[0], ("" if lead.strip() or lead == short[1] else lead, blank)

    def _opening_with(self, system: str | None) -> tuple[str, str]:
        """What stands before and after the first user message."""
        user = {"role": "user", "content": _MARK}
        if system is not None:
            try:
                rendered = self._template.render([{"role": "system", "content": system}, user])
            except TemplateError:
                rendered = ""
            if system.strip() in rendered:
                before, after = self._cut(rendered, [_MARK])
                return before, after
            # A template that knows no system role refuses it (Gemma) or drops it.
            user = {"role": "user", "content": f"{system}\n\n{_MARK}"}
        before, after = self._between([user], [_MARK])
        return before, after

    def _safe(self, text: str) -> str:
        # A page or a product must not be able to end the turn: control tokens inside text are broken up.
        for token, broken in self._special:
            if token in text:
                text = text.replace(token, broken)
        return text

    def _broken_up(self, token: str, index: int) -> str:
        """A control token as ordinary text: with an invisible space in it, or a plain one if that is removed."""
        broken = token[0] + "\u200b" + token[1:]
        return broken if index not in self._ids(broken) else f"{token[0]} {token[1:]}"

    def _between(self, messages: Messages, marks: list[str]) -> tuple[str, ...]:
        """What the template writes around the marks: one piece more than there are marks."""
        try:
            rendered = self._template.render(messages)
        except (TemplateError, ValueError, TypeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise self._refusal(f"cannot be rendered ({reason})") from None
        return self._cut(rendered, marks)

    def _cut(self, rendered: str, marks: list[str]) -> tuple[str, ...]:
        places = [rendered.find(mark) for mark in marks]
        if any(rendered.count(mark) != 1 for mark in marks) or places != sorted(places):
            raise self._refusal("leaves out, repeats or reorders what was said")
        pieces = []
        for mark in marks:
            piece, _, rendered = rendered.partition(mark)
            pieces.append(piece)
        return (*pieces, rendered)

    def _refusal(self, reason: str) -> UserError:
        name = self.tokenizer.name_or_path
        return UserError(f"the chat template of {name!r} {reason}; use another model or template")

    def _following(self, before: str, text: str) -> list[int]:
        """Ids of `text` where it follows `before`."""
        if not before:
            return self._ids(text)
        context, whole = self._ids(before), self._ids(before + text)
        if whole[: len(context)] == context:
            return whole[len(context) :]
        # A token reaches over the border. The policy, which has read `before` to its end, cannot write that token.
        return self._ids(text)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))
