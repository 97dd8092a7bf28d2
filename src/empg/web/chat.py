"""Models behind an OpenAI-compatible `POST /chat/completions`: a judge, asked for replies of a fixed form.

What a response holds is read here for every client of such an API.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from empg.errors import UserError
from empg.web.client import HttpClient, RequestPolicy, read_variable
from empg.web.endpoints import endpoint, server_key
from empg.web.errors import ServiceError
from empg.web.text import clean_text

REQUEST_POLICY = RequestPolicy(timeout=60.0)  # judges are slower than searches
_MAX_ECHO = 500  # characters of an unreadable reply that the reminder repeats
_BREAKS = re.compile("[\x7f-\x9f\u2028\u2029]")  # not escaped by JSON, but may look like line breaks

Read = TypeVar("Read")


class NoCompletionError(ServiceError):
    """A response is not a chat completion."""

    def __init__(self, problem: str) -> None:
        super().__init__(f"the model did not return a chat completion: {problem}")


class ChatModel:
    """A model that judges; safe to use from several threads.

    Args:
        url: URL of the API, such as `https://HOST/v1`, with or without `/chat/completions` and a query.
        model: name of the model in the API.
        key_variable: environment variable of the API key; None sends no key, for example to a local server.
        request_policy: timeout, attempts and rate.
        max_tokens: token limit of a reply; increase it for a reasoning model.

    Attributes:
        server: SHA-256 of the URL, for the key of a cache; the URL itself may contain a password.

    Raises:
        UserError: the URL is not http or https, the model is empty, or the variable is not set.
    """

    def __init__(
        self, url: str, model: str, *, key_variable: str | None, request_policy: RequestPolicy, max_tokens: int
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"invalid judge URL: expected https://HOST/v1, got {url!r}")
        if not model:
            raise UserError("the model of the judge is empty. Set judge.model")
        self._url = completions_url(url)
        self.server = server_key(self._url)
        self._model, self._max_tokens = model, max_tokens
        self._headers = {}
        if key_variable is not None:
            key = read_variable(
                key_variable, "the judge needs an API key. Set the variable, or set key_variable to null"
            )
            self._headers["Authorization"] = f"Bearer {key}"
        self._http = HttpClient(request_policy)

    def ask(
        self,
        prompt: str,
        read: Callable[[str], Read | None],
        reminder: str,
        asking: Callable[[], object] = lambda: None,
    ) -> Read | None:
        """Return what `read` makes of the reply to a prompt; None if a reply after a reminder is unreadable as well.

        `asking` is called before each request.

        Raises:
            ServiceError: the model is unavailable, rejects the request, or does not return a chat completion.
        """
        messages = [{"role": "user", "content": prompt}]
        for _ in range(2):
            asking()
            payload = {"model": self._model, "messages": messages, "temperature": 0, "max_tokens": self._max_tokens}
            reply, _ = read_message(self._http.json("POST", self._url, headers=self._headers, payload=payload))
            found = read(reply)
            if found is not None:
                return found
            echo = {"role": "assistant", "content": clean_text(reply[:_MAX_ECHO]) or "(nothing)"}
            messages = [messages[0], echo, {"role": "user", "content": reminder}]
        return None


def completions_url(url: str) -> str:
    """Return the address of the completions of an API such as `https://HOST/v1`; see `endpoint`."""
    return endpoint(url, "/chat/completions")


def read_message(answer: Any) -> tuple[str, Mapping[str, Any]]:
    """Return the text of a chat completion, and the message that has it.

    A missing content is an empty text: the model refused, or reached its token limit while it reasoned.

    Raises:
        NoCompletionError: the response is not a chat completion.
    """
    choices = answer.get("choices") if isinstance(answer, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    message = first.get("message") if isinstance(first, dict) else None
    if not isinstance(message, dict):
        raise NoCompletionError("it has no choices with a message")
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise NoCompletionError("the content is not text")
    return content or "", message


def on_one_line(value: Any) -> str:
    """Return the value as JSON without characters that a model may read as a line break."""
    return _BREAKS.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(value, ensure_ascii=False))
