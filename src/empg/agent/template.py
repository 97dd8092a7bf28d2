"""A tokenizer's chat template, rendered with the run's date and arguments, and within bounds."""

from __future__ import annotations

import datetime
import os
import re
import select
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from empg.errors import UserError

Messages = Sequence[Mapping[str, str]]

_TRIAL_SECONDS = 2  # of processor time; a template takes milliseconds
_TRIAL_WAIT = 60.0  # seconds on the clock, for a machine that is busy
_TRIAL_MEMORY = 1 << 30  # bytes beyond what the process already uses
_LONGEST_RENDERING = 1_000_000  # characters around texts of a few words
_RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "tokenize", "conversation", "chat_template")
_DATE = re.compile(r"""strftime_now\(\s*(?:"([^"{}]*)"|'([^'{}]*)')\s*\)""")


class ChatTemplate:
    """Renders messages as text. The date that the template prints, if any, is fixed.

    Args:
        tokenizer: has the template.
        arguments: variables of the template, e.g. `enable_thinking`.
        date: the date that the template prints; None is today.
    """

    def __init__(
        self, tokenizer: Any, arguments: Mapping[str, Any] | None = None, date: datetime.date | None = None
    ) -> None:
        self._tokenizer = tokenizer
        self._arguments = dict(arguments or {})
        self._source = _with_date(template_source(tokenizer), date or datetime.date.today())
        for name in self._arguments:
            if name in _RESERVED or not re.search(rf"\b{re.escape(name)}\b", self._source):
                raise UserError(
                    f"agent.template_arguments: the chat template of {tokenizer.name_or_path!r} has no argument "
                    f"{name!r}. Remove it or correct its name"
                )

    def render(self, messages: Messages) -> str:
        """The conversation as text, the opening of the assistant's next message included."""
        text = self._tokenizer.apply_chat_template(
            list(messages),
            chat_template=self._source,
            tokenize=False,
            add_generation_prompt=True,
            **self._arguments,
        )
        return str(text)

    def try_out(self, conversations: Sequence[Messages]) -> str | None:
        """Render in a process of its own, with limits on time and memory; returns what is wrong, None if nothing.

        A template is a program from somewhere else: it can run forever, or write gigabytes in one expression.
        Errors that it raises are not reported: rendering it here raises them again.
        """
        key = (self._source, repr(sorted(self._arguments.items())), repr(conversations))
        if key not in _TRIED:
            _TRIED[key] = _limited(lambda: sum(len(self.render(messages)) for messages in conversations))
        return _TRIED[key]


_TRIED: dict[tuple[str, str, str], str | None] = {}  # a run makes its agent anew for every rollout


def template_source(tokenizer: Any) -> str:
    """The text of the template that conversations without tools are written with.

    Raises:
        UserError: there is none.
    """
    name = tokenizer.name_or_path
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"tokenizer {name!r} has no chat template; use an instruction-tuned model")
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:  # several templates, none of which is the default one
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"the chat template of {name!r} cannot be rendered ({reason}); use another model") from None


def prints_date(tokenizer: Any) -> bool:
    """Whether the chat template asks for the present date (Llama 3.2, SmolLM3, gpt-oss)."""
    return "strftime_now" in template_source(tokenizer)


def _with_date(source: str, date: datetime.date) -> str:
    """The template with every `strftime_now("...")` replaced by what it returns on that day."""
    day = datetime.datetime.combine(date, datetime.time())

    def formatted(match: re.Match[str]) -> str:
        return repr(day.strftime(match[1] if match[1] is not None else match[2]))

    return _DATE.sub(formatted, source)


def _limited(work: Callable[[], int]) -> str | None:
    """What stops `work`, which returns the size of what it made, from ending soon and small; None if nothing does."""
    if not hasattr(os, "fork"):
        return None
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of a fork beside threads: the child only renders
        child = os.fork()
    if child == 0:
        _work_as_child(work, writing)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], _TRIAL_WAIT)
        verdict = os.read(reading, 1) if ready else b""
    finally:
        os.close(reading)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return {b"k": None, b"m": "takes too much memory", b"l": "writes too much text"}.get(verdict, "does not end")


def _work_as_child(work: Callable[[], int], writing: int) -> None:
    verdict = b"k"
    try:
        _lower_limits()
        if work() > _LONGEST_RENDERING:
            verdict = b"l"
    except MemoryError:
        verdict = b"m"
    except BaseException:  # raised again, and told, where the parent renders
        verdict = b"k"
    finally:
        os.write(writing, verdict)
        os._exit(0)  # no clean-up of the parent's


def _lower_limits() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (_TRIAL_SECONDS, _TRIAL_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = _address_space()
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + _TRIAL_MEMORY, size + _TRIAL_MEMORY))


def _address_space() -> int:
    """Bytes of this process's address space; 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
