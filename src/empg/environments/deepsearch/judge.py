"""A model that judges answers, behind an OpenAI-compatible `POST /chat/completions`.

The prompt is judge.txt. A verdict is exactly one of two words. Any other reply gets one reminder; if the next reply is
not a verdict either, the answer counts as wrong and the turn is reported as failed. Verdicts are cached on disk, so
that a run can be repeated without new requests. Failures are never cached.
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from empg.environments.deepsearch.world import NoVerdict, Question
from empg.web.cache import DiskCache
from empg.web.chat import REQUEST_POLICY, ChatModel, on_one_line
from empg.web.client import RequestPolicy
from empg.web.errors import ServiceError
from empg.web.options import KEY_VARIABLE
from empg.web.text import clean_text

MAX_ANSWER = 2_000  # characters of a given answer; the rest is cut
MAX_GOLDS = 50  # correct answers in the prompt
_REMINDER = "That was not one of the two words. Reply with exactly one word: CORRECT or INCORRECT."
_VERDICT = re.compile(r"\s*(CORRECT|INCORRECT)\.?\s*", re.IGNORECASE)


@dataclass(slots=True)
class JudgeReport:
    """Counts of `asked` requests, of `cached` verdicts and of `unreadable` replies."""

    asked: int = 0
    cached: int = 0
    unreadable: int = 0


class Judge:
    """A judge of answers; safe to use from several threads.

    Args:
        url: URL of the API, such as `https://HOST/v1`, with or without `/chat/completions` and a query.
        model: name of the model in the API.
        key_variable: environment variable of the API key; None sends no key, for example to a local server.
        cache: folder for verdicts by URL, model, prompt, question, answer and correct answers; None disables the cache.
        request_policy: timeout, attempts and rate. The default timeout is one minute per attempt.
        max_tokens: token limit of a verdict; increase it for a reasoning model.

    Attributes:
        report: counts of requests so far.

    Raises:
        UserError: the URL is not http or https, the model is empty, or the variable is not set.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        key_variable: str | None = KEY_VARIABLE,
        cache: Path | None = None,
        request_policy: RequestPolicy = REQUEST_POLICY,
        max_tokens: int = 16,
    ) -> None:
        self._chat = ChatModel(
            url, model, key_variable=key_variable, request_policy=request_policy, max_tokens=max_tokens
        )
        self.report = JudgeReport()
        self._model = model
        self._prompt = resources.files(__package__).joinpath("judge.txt").read_text(encoding="utf-8")
        self._prompt_hash = hashlib.sha256(f"{self._prompt}\n{_REMINDER}".encode()).hexdigest()
        self._cache = None if cache is None else DiskCache(cache)
        self._counting = threading.Lock()

    def __call__(self, question: Question, answer: str) -> float:
        """Return 1.0 if the judge accepts the answer, else 0.0. Implements `sources.Score`.

        Raises:
            NoVerdict: the reply of the judge is not a verdict.
            ServiceError: see `judge`.
        """
        try:
            verdict = self.judge(question.text, question.answers, answer)
        except ServiceError as error:
            raise ServiceError(f"the judge gave no verdict: {error}") from error
        if verdict is None:
            raise NoVerdict("the judge replied neither CORRECT nor INCORRECT")
        return float(verdict)

    def judge(self, question: str, answers: Sequence[str], answer: str) -> bool | None:
        """Return whether an answer is correct, or None if the judge gave no verdict. An empty answer is never correct.

        Raises:
            ServiceError: the judge is unavailable, rejects the request, or does not return a chat completion.
        """
        question, given = clean_text(question), clean_text(answer.strip()[:MAX_ANSWER])
        golds = [clean_text(gold) for gold in answers[:MAX_GOLDS]]
        if not given or not golds:
            return False
        key = (self._chat.server, self._model, self._prompt_hash, question, given, *golds)
        cached = None if self._cache is None else self._cache.get(*key)
        if isinstance(cached, bool):
            self._count(cached=1)
            return cached
        prompt = self._filled(question, golds, given)
        verdict = self._chat.ask(prompt, read_verdict, _REMINDER, lambda: self._count(asked=1))
        if verdict is None:
            self._count(unreadable=1)
            return None
        if self._cache is not None:
            self._cache.put(verdict, *key)
        return verdict

    def _filled(self, question: str, golds: list[str], given: str) -> str:
        """Fill the prompt. Values are JSON, so that no text in them can look like a part of the prompt."""
        shown = {"question": question, "golds": golds, "answer": given}
        return self._prompt.format(**{name: on_one_line(value) for name, value in shown.items()})

    def _count(self, asked: int = 0, cached: int = 0, unreadable: int = 0) -> None:
        with self._counting:
            self.report.asked += asked
            self.report.cached += cached
            self.report.unreadable += unreadable


def read_verdict(reply: str) -> bool | None:
    """Return True for CORRECT and False for INCORRECT (any case, optional full stop); None for anything else."""
    match = _VERDICT.fullmatch(reply)
    return None if match is None else match[1].upper() == "CORRECT"
