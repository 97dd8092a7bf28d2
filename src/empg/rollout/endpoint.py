"""A chat model behind an OpenAI-compatible `POST /chat/completions`: a provider's API, or a server such as vLLM's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from empg.errors import UserError
from empg.policy.decode import Sampling
from empg.web.chat import NoCompletionError, completions_url, read_message
from empg.web.client import Answer, HttpClient, RequestPolicy, read_variable
from empg.web.text import clean_text

PREFIX = "openai:"
# A model writes for minutes, a rate limit lasts for one. The circuit of a server never opens, because the evaluation
# stops at the first request that fails for good.
REQUEST_POLICY = RequestPolicy(
    timeout=300.0, attempts=7, backoff=1.0, longest_wait=120.0, failure_threshold=1 << 30, max_bytes=4 << 20
)
MAX_TEXT = 100_000  # characters of a reply that are kept
_UNREADABLE_ATTEMPTS = 3  # a reply with status 200 that is not a completion, e.g. of an overloaded proxy
_MAX_REASON = 200  # characters of a server's error message that are shown
_FULL_CODES = frozenset({"context_length_exceeded", "exceed_context_size_error"})  # of OpenAI, of llama.cpp


class EndpointError(UserError):
    """The endpoint rejects requests, or does not return completions."""


class ContextFullError(Exception):
    """The conversation exceeds the context of the model."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One reply.

    `reasoning` is what a server returns as the model's thought in a field of its own. `metered` says whether the server
    counted tokens; if not, both counts are 0.
    """

    text: str
    reasoning: str
    prompt_tokens: int
    completion_tokens: int
    metered: bool


def is_endpoint(name: str) -> bool:
    """Return whether a model name means an endpoint."""
    return name.startswith(PREFIX)


def split_name(name: str) -> tuple[str, str]:
    """Return the URL and the model of a name `openai:URL#MODEL`.

    Raises:
        UserError: the name has another form, or its URL contains a user, a password or a query, which may be secret.
    """
    address, _, model = name.removeprefix(PREFIX).partition("#")
    try:
        url = httpx.URL(address)
        valid = url.scheme in ("http", "https") and bool(url.host) and not url.userinfo and not url.query
    except (httpx.InvalidURL, UnicodeError, ValueError):
        valid = False
    if not valid or not model.strip():
        raise UserError(
            "invalid model name: expected openai:https://HOST/v1#MODEL, without a user, a password or a query in the "
            "address. Name the variable that holds the key with --key-variable"
        )
    return completions_url(address), model


class Endpoint:
    """Asks a chat model; safe to use from several threads.

    Args:
        name: `openai:URL#MODEL`, such as `openai:https://HOST/v1#MODEL`.
        sampling: temperature, top-p, and the token limit of a turn.
        key_variable: environment variable with the API key; None sends no key.
        request_policy: timeout, attempts and size limit.
        template_arguments: arguments of the chat template, sent as `chat_template_kwargs`, an extension that vLLM,
            SGLang and llama.cpp read; without any, nothing is sent.

    Raises:
        UserError: the name is invalid, or the variable is not set.
    """

    def __init__(
        self,
        name: str,
        sampling: Sampling,
        key_variable: str | None = None,
        request_policy: RequestPolicy = REQUEST_POLICY,
        *,
        template_arguments: Mapping[str, Any] | None = None,
    ) -> None:
        self._url, self._model = split_name(name)
        self._sampling, self._template_arguments = sampling, template_arguments
        self._key = ""
        if key_variable is not None:
            self._key = read_variable(key_variable, "the endpoint needs an API key. Set the variable")
        self._http = HttpClient(request_policy)
        # What a server may not know; its answer says so, and the request is sent again without it.
        self._limit_field, self._sends_top_p = "max_tokens", not sampling.greedy

    def __call__(self, messages: Sequence[Mapping[str, str]]) -> Completion:
        """Return the model's reply.

        Raises:
            ContextFullError: the messages exceed the model's context.
            EndpointError: the endpoint rejects the request, or does not return completions.
            ServiceError: the endpoint is unavailable after all attempts.
        """
        problem = ""
        for _ in range(_UNREADABLE_ATTEMPTS):
            try:
                return read_completion(self._ask(messages))
            except NoCompletionError as error:
                problem = str(error)
        raise EndpointError(f"{self._host}: {problem}. Check the address")

    def _ask(self, messages: Sequence[Mapping[str, str]]) -> Any:
        """Return the JSON of a response with status 200."""
        limit, sends_top_p = self._limit_field, self._sends_top_p  # other threads change them
        answer = self._send(messages, limit, sends_top_p)
        if answer.status == 400 and b"max_completion_tokens" in answer.body and limit == "max_tokens":
            self._limit_field = limit = "max_completion_tokens"  # the name of the limit for newer models of OpenAI
            answer = self._send(messages, limit, sends_top_p)
        if answer.status == 400 and b"top_p" in answer.body and sends_top_p and self._sampling.top_p == 1.0:
            self._sends_top_p = False  # it changes nothing, unless the server has another default
            answer = self._send(messages, limit, sends_top_p=False)
        if answer.status in (401, 403):
            raise EndpointError(f"{self._host} answered {answer.status}. Check the API key and --key-variable")
        if answer.status != 200:
            reason = _reason(answer)
            if _is_context_full(answer):
                raise ContextFullError
            if self._key:  # before the text is cut, which may cut the key
                reason = reason.replace(self._key, "[key]")
            shown = f": {reason[:_MAX_REASON]}" if reason else ""
            raise EndpointError(f"{self._host} answered {answer.status}{shown}")
        if answer.cut:
            raise EndpointError(f"{self._host} sent more than {self._http.request_policy.max_bytes:,} bytes")
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise NoCompletionError("the response is not JSON") from error

    def _send(self, messages: Sequence[Mapping[str, str]], limit_field: str, sends_top_p: bool) -> Answer:
        sampling = self._sampling
        payload: dict[str, Any] = {
            "model": self._model,
            "messages": list(messages),
            "temperature": 0.0 if sampling.greedy else sampling.temperature,
            limit_field: sampling.max_turn_tokens,
        }
        if sends_top_p:  # also 1: vLLM takes what it is not told from the `generation_config.json` of the model
            payload["top_p"] = sampling.top_p
        if self._template_arguments:
            payload["chat_template_kwargs"] = self._template_arguments
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        return self._http.request("POST", self._url, headers=headers, payload=payload, is_final=_is_context_full)

    @property
    def _host(self) -> str:
        return httpx.URL(self._url).netloc.decode("ascii", "replace")


def read_completion(answer: Any) -> Completion:
    """Return the completion in a response.

    Half a pair of surrogates, such as a token that is a part of an emoji, becomes a question mark.

    Raises:
        NoCompletionError: the response is not a chat completion.
    """
    content, message = read_message(answer)
    thought = message.get("reasoning_content") or message.get("reasoning")
    usage = answer.get("usage")
    counts = [_count(usage.get(name)) if isinstance(usage, dict) else None for name in _COUNTS]
    prompt_tokens, completion_tokens = (count or 0 for count in counts)
    return Completion(
        text=clean_text(content[:MAX_TEXT]),
        reasoning=clean_text(thought[:MAX_TEXT]) if isinstance(thought, str) else "",
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        metered=None not in counts,
    )


_COUNTS = ("prompt_tokens", "completion_tokens")


def _count(value: Any) -> int | None:
    """Return a number of tokens, or None if it is not plausible."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31 else None


def _is_context_full(answer: Answer) -> bool:
    """Return whether a response says that the messages exceed the context of the model."""
    if answer.status not in (400, 413, 422, 500):
        return False
    if not _FULL_CODES.isdisjoint(_codes(answer)):
        return True
    reason, words = _reason(answer).casefold(), ("length", "window", "size")
    if answer.status == 500:  # llama.cpp; single words of this message could also mean a fault of the server
        return "exceed" in reason and any(f"context {word}" in reason for word in words)
    named = "context" in reason and any(word in reason for word in words)
    return named or "too many tokens" in reason or "prompt is too long" in reason


def _codes(answer: Answer) -> set[str]:
    """Return the type and the code of a response's error, as far as they are texts."""
    found = _json(answer)
    error = found.get("error") if isinstance(found, dict) else None
    parts = [part for part in (found, error) if isinstance(part, dict)]
    return {code for part in parts for key in ("type", "code") if isinstance(code := part.get(key), str)}


def _json(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return None


def _reason(answer: Answer) -> str:
    """Return the error message of a response in one line; empty if it has none."""
    found = _json(answer)
    for key in ("error", "message", "detail"):
        if isinstance(found, dict) and key in found:
            found = found[key]
    return " ".join(clean_text(found).split()) if isinstance(found, str) else ""
