"""A model that judges answers, behind an OpenAI-compatible `POST /chat/completions`.

The prompt is judge.txt. A verdict is one of two words and nothing else; whatever else the judge says gets a reminder,
and if that does not help the answer does not count as right, and its turn counts as one that failed. Verdicts are kept
on disk, so that a run can be repeated without asking again; what could not be had or read is never kept.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from empg.environments.deepsearch.options import KEY_VARIABLE
from empg.environments.deepsearch.retrieval.cache import DiskCache
from empg.environments.deepsearch.retrieval.query import clean_text
from empg.environments.deepsearch.retrieval.transport import HttpClient, RequestPolicy, read_variable
from empg.environments.deepsearch.world import NoVerdict, Question, RetrievalError
from empg.errors import UserError

REQUEST_POLICY = RequestPolicy(timeout=60.0)  # judges are slower than searches
MAX_ANSWER = 2_000  # characters of a given answer; the rest is cut
MAX_GOLDS = 50  # right answers that the judge is shown
_MAX_ECHO = 500  # characters of an unreadable verdict that the reminder repeats
_REMINDER = "That was not one of the two words. Reply with exactly one word: CORRECT or INCORRECT."
_BREAKS = re.compile("[\x7f-\x9f\u2028\u2029]")  # what JSON leaves as it is, though it can look like a new line
_VERDICT = re.compile(r"\s*(CORRECT|INCORRECT)\.?\s*", re.IGNORECASE)


@dataclass(slots=True)
class JudgeReport:
    """How the answers were judged: by `asked` requests, from `cached` verdicts, or not at all (`unreadable`)."""

    asked: int = 0
    cached: int = 0
    unreadable: int = 0


class Judge:
    """A judge of answers; safe to use from several threads.

    Args:
        url: of the API, as `https://HOST/v1`, with or without `/chat/completions`.
        model: its name there.
        key_variable: the environment variable that holds the key; None sends none, as for a server of one's own.
        cache: a folder that keeps verdicts by model, prompt, question, answer and right answers; None asks every time.
        request_policy: time-outs, attempts and rate. By default a minute an attempt.
        max_tokens: of a verdict; more for a model that thinks first.

    Attributes:
        report: what was done so far.

    Raises:
        UserError: the url is none of http or https, the model has no name, or the variable is not set.
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
        if not url.startswith(("http://", "https://")):
            raise UserError(f"{url!r} is no address of a judge: give https://HOST/v1")
        if not model:
            raise UserError("the judge's model is not named")
        self.report = JudgeReport()
        path = "/chat/completions"
        self._url = url if url.endswith(path) else url.rstrip("/") + path
        self._model, self._max_tokens = model, max_tokens
        self._headers = {}
        if key_variable is not None:
            key = read_variable(key_variable, "the judge needs its key there, or key_variable=None")
            self._headers["Authorization"] = f"Bearer {key}"
        self._prompt = resources.files(__package__).joinpath("judge.txt").read_text(encoding="utf-8")
        self._prompt_hash = hashlib.sha256(f"{self._prompt}\n{_REMINDER}".encode()).hexdigest()
        self._cache = None if cache is None else DiskCache(cache)
        self._http = HttpClient(request_policy)
        self._counting = threading.Lock()

    def __call__(self, question: Question, answer: str) -> float:
        """1.0 if the judge holds the answer to be right, else 0.0: a score of `sources.Source`.

        Raises:
            NoVerdict: its verdict cannot be read.
            RetrievalError: see `judge`.
        """
        verdict = self.judge(question.text, question.answers, answer)
        if verdict is None:
            raise NoVerdict("the judge said neither CORRECT nor INCORRECT")
        return float(verdict)

    def judge(self, question: str, answers: Sequence[str], answer: str) -> bool | None:
        """Whether an answer is right, which an empty one is not; None where the verdict cannot be read.

        Raises:
            RetrievalError: the judge cannot be had, refuses the request, or answers something else than a chat.
        """
        question, given = clean_text(question), clean_text(answer.strip()[:MAX_ANSWER])
        golds = [clean_text(gold) for gold in answers[:MAX_GOLDS]]
        if not given or not golds:
            return False
        key = (self._model, self._prompt_hash, question, given, *golds)
        known = None if self._cache is None else self._cache.get(*key)
        if isinstance(known, bool):
            self._count(cached=1)
            return known
        verdict = self._ask(self._filled(question, golds, given))
        if verdict is None:
            self._count(unreadable=1)
            return None
        if self._cache is not None:
            self._cache.put(verdict, *key)
        return verdict

    def _filled(self, question: str, golds: list[str], given: str) -> str:
        """The prompt. As JSON nothing that was said can look like a part of it."""
        shown = {"question": question, "golds": golds, "answer": given}
        return self._prompt.format(**{name: _on_one_line(value) for name, value in shown.items()})

    def _ask(self, prompt: str) -> bool | None:
        messages = [{"role": "user", "content": prompt}]
        for _ in range(2):
            self._count(asked=1)
            payload = {"model": self._model, "messages": messages, "temperature": 0, "max_tokens": self._max_tokens}
            said = read_reply(self._http.json("POST", self._url, headers=self._headers, payload=payload))
            verdict = read_verdict(said)
            if verdict is not None:
                return verdict
            echo = {"role": "assistant", "content": clean_text(said[:_MAX_ECHO]) or "(nothing)"}
            messages = [messages[0], echo, {"role": "user", "content": _REMINDER}]
        return None

    def _count(self, asked: int = 0, cached: int = 0, unreadable: int = 0) -> None:
        with self._counting:
            self.report.asked += asked
            self.report.cached += cached
            self.report.unreadable += unreadable


def read_verdict(said: str) -> bool | None:
    """True for CORRECT, False for INCORRECT, in any case and with a full stop at most; None for anything else."""
    match = _VERDICT.fullmatch(said)
    return None if match is None else match[1].upper() == "CORRECT"


def read_reply(answer: Any) -> str:
    """The text of a chat completion; "" where the model said nothing.

    Raises:
        RetrievalError: it is no chat completion.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    content = message.get("content") if isinstance(message, dict) else 0
    if content is None:
        return ""  # refused, or ran out of tokens while thinking
    if not isinstance(content, str):
        raise RetrievalError("the judge answered something else than a chat completion")
    return content


def _on_one_line(value: Any) -> str:
    """As JSON without anything that a model may take for the end of a line."""
    return _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
