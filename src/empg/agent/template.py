"""Rendering a tokenizer's chat template with the run's date and arguments, within limits of time and memory."""

from __future__ import annotations

import datetime
import os
import re
import select
import signal
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from empg.errors import UserError, message_of

Messages = Sequence[Mapping[str, str]]

_TRIAL_SECONDS = 2  # CPU time; a normal template takes milliseconds
_TRIAL_WAIT = 60.0  # seconds of wall time, in case the machine is busy
_TRIAL_MEMORY = 1 << 30  # bytes beyond what the process already uses
_LONGEST_RENDERING = 1_000_000  # characters; the rendered messages are a few words long
_RESERVED = ("messages", "tools", "documents", "add_generation_prompt", "tokenize", "conversation", "chat_template")
_DATE = re.compile(r"""strftime_now\(\s*(?:"([^"{}]*)"|'([^'{}]*)')\s*\)""")


class ChatTemplate:
    """A chat template with fixed arguments and a fixed date.

    Args:
        tokenizer: a tokenizer with a chat template.
        arguments: template arguments, e.g. `enable_thinking`.
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
        """Render a conversation as text, including the opening of the assistant's next message."""
        text = self._tokenizer.apply_chat_template(
            list(messages),
            chat_template=self._source,
            tokenize=False,
            add_generation_prompt=True,
            **self._arguments,
        )
        return str(text)

    def try_out(self, conversations: Sequence[Messages]) -> str | None:
        """Render conversations in a separate process with limits on time and memory.

        A template is an untrusted program. It can loop forever, or build gigabytes of text in one expression. Errors
        that it raises are not reported here, because `render` raises them again.

        Returns:
            What is wrong, or None.
        """
        key = (self._source, repr(sorted(self._arguments.items())), repr(conversations))
        if key not in _TRIED:
            _TRIED[key] = _limited(lambda: sum(len(self.render(messages)) for messages in conversations))
        return _TRIED[key]


_TRIED: dict[tuple[str, str, str], str | None] = {}  # a run builds an agent for every rollout


def template_source(tokenizer: Any) -> str:
    """Return the chat template for conversations without tools.

    Raises:
        UserError: the tokenizer has no such template.
    """
    name = tokenizer.name_or_path
    if not getattr(tokenizer, "chat_template", None):
        raise UserError(f"tokenizer {name!r} has no chat template: use an instruction-tuned model")
    try:
        return str(tokenizer.get_chat_template())
    except ValueError as error:  # several templates without a default one
        reason = message_of(error)
        raise UserError(
            f"the chat template of {name!r} cannot be rendered ({reason}): use another model or template"
        ) from None


def prints_date(tokenizer: Any) -> bool:
    """Return whether the chat template prints the current date (Llama 3.2, SmolLM3, gpt-oss)."""
    return "strftime_now" in template_source(tokenizer)


def _with_date(source: str, date: datetime.date) -> str:
    """Replace every `strftime_now("...")` by its value on that date."""
    day = datetime.datetime.combine(date, datetime.time())

    def formatted(match: re.Match[str]) -> str:
        return repr(day.strftime(match[1] if match[1] is not None else match[2]))

    return _DATE.sub(formatted, source)


def _limited(work: Callable[[], int]) -> str | None:
    """Run `work`, which returns the length of its result, in a limited process; returns what is wrong, or None."""
    if not hasattr(os, "fork"):
        return None
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads; the child only renders
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
    except BaseException:  # the parent raises it again when it renders
        verdict = b"k"
    finally:
        os.write(writing, verdict)
        os._exit(0)  # skip the parent's exit handlers


def _lower_limits() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (_TRIAL_SECONDS, _TRIAL_SECONDS + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    size = _address_space()
    if size:
        resource.setrlimit(resource.RLIMIT_AS, (size + _TRIAL_MEMORY, size + _TRIAL_MEMORY))


def _address_space() -> int:
    """Return the size of this process's address space in bytes; 0 if it is unknown."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0
