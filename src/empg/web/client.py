"""HTTP client with deadline, retries, rate limit, circuit breaker and size bounds. Every failure is one line.

Failed connections, timeouts and the statuses in `_RETRIED` (such as 429 and 503) are retried after jittered waits that
double. A Retry-After header is respected if its wait is short. All other failures are final. After many consecutive
failures of a server, its circuit opens and requests fail at once for a while, so that a run does not wait for timeouts
of a dead server.
"""

from __future__ import annotations

import json
import os
import random
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from empg.errors import UserError
from empg.web.addresses import Deadline, Transport, public_addresses
from empg.web.breaker import Breaker
from empg.web.errors import ServiceError
from empg.web.unpacking import ACCEPTED, PackedError, unpack_body

_RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
_USER_AGENT = "empg (research agent)"


def read_variable(name: str, needed: str) -> str:
    """Return the value of an environment variable for another machine, such as an API key.

    Args:
        name: name of the variable.
        needed: why it is needed and what to do, for the message.

    Raises:
        UserError: it is not set, or contains characters that are invalid in a header.
    """
    value = os.environ.get(name, "").strip()
    if not value or not value.isascii() or not value.isprintable():
        problem = "is not set" if not value else "contains characters that are invalid in a header"
        raise UserError(f"{name or 'the variable without a name'} {problem}: {needed}")
    return value


@dataclass(frozen=True, slots=True)
class RequestPolicy:
    """Limits of requests to other machines.

    Attributes:
        timeout: seconds per attempt, from the connection to the last byte.
        attempts: maximal number of attempts.
        backoff: seconds before the second attempt, doubled for each further one; the actual wait is 50% to 100% of it.
        longest_wait: seconds; if a longer wait is required, the request fails.
        per_second: maximal number of requests per second in this process; None means no limit.
        failure_threshold: consecutive failed attempts, over all threads, that open the circuit of a server.
        cool_down: seconds for which the circuit stays open; then one attempt tests the server.
        max_bytes: maximal size of a decompressed response.
        allow_private: whether the server may have a private address; web pages may not.
        seed: seed of the jitter.
    """

    timeout: float = 10.0
    attempts: int = 3
    backoff: float = 0.5
    longest_wait: float = 30.0
    per_second: float | None = None
    failure_threshold: int = 6
    cool_down: float = 30.0
    max_bytes: int = 16 << 20
    allow_private: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.timeout <= 0 or self.attempts < 1 or self.failure_threshold < 1 or self.max_bytes < 1:
            raise UserError("timeout, attempts, failure_threshold and max_bytes must be positive")
        if self.backoff < 0 or self.cool_down < 0:
            raise UserError("backoff and cool_down must not be negative")
        if self.per_second is not None and self.per_second <= 0:
            raise UserError(f"per_second={self.per_second}: expected a positive number, or None for no limit")


@dataclass(frozen=True, slots=True)
class Answer:
    """A response. `body` has at most `max_bytes` bytes; `cut` is whether there were more."""

    url: str
    status: int
    content_type: str
    charset: str | None
    location: str | None
    body: bytes
    cut: bool


class _TransientError(Exception):
    """A failure that may not occur again at the next attempt. `wait` is the server's requested wait in seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class HttpClient:
    """Sends requests under one `RequestPolicy`; safe to use from several threads."""

    def __init__(self, request_policy: RequestPolicy) -> None:
        self.request_policy = request_policy
        self._deadline = Deadline()
        self._proxies = getproxies()
        self._clients: dict[str | None, httpx.Client] = {None: self._client(None)}
        for proxy in {self._proxies.get(scheme) or self._proxies.get("all") for scheme in ("http", "https")}:
            if proxy:
                self._clients[proxy] = self._client(proxy)
        self._breaker = Breaker(request_policy.failure_threshold, request_policy.cool_down)
        self._jitter = random.Random(request_policy.seed)
        self._turn = threading.Lock()
        self._next = 0.0

    def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str | int] | None = None,
        payload: Any = None,
        is_final: Callable[[Answer], bool] | None = None,
    ) -> Answer:
        """Return the response with any status that is not retried. Redirects are not followed.

        Args:
            method: `GET` or `POST`.
            url: address of the server.
            headers: additional headers.
            params: added to the query of the URL.
            payload: sent as JSON. Lone surrogates in it, which cannot be encoded, become question marks.
            is_final: returns whether a response is returned although its status is one of those that are retried.

        Raises:
            ServiceError: no attempt succeeded, or the circuit is open (`RequestPolicy.failure_threshold`). The
                message contains the host, but neither key nor query.
            PrivateAddressError: the host's address is private and the policy does not allow this.
        """
        host, request_policy = _host(url), self.request_policy
        content, headers = None, dict(headers or {})
        if payload is not None:
            text = json.dumps(payload, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
            content, headers["Content-Type"] = text.encode("utf-8", "replace"), "application/json"
        for attempt in range(1, request_policy.attempts + 1):
            if self._breaker.refuses(host):
                raise ServiceError(
                    f"{host}: circuit open after {request_policy.failure_threshold} consecutive failures"
                )
            self._take_turn()
            try:
                answer = self._attempt(method, url, headers, params, content, is_final)
                self._breaker.answered(host)
                return answer
            except PackedError as error:
                self._breaker.answered(host)  # the server works, so this probe closes an open circuit
                raise ServiceError("the response cannot be unpacked") from error
            except _TransientError as problem:
                circuit_open = self._breaker.failed(host)
                wait = request_policy.backoff * 2 ** (attempt - 1) * self._jitter.uniform(0.5, 1.0)
                if problem.wait is not None:
                    wait = max(wait, problem.wait)
                if attempt == request_policy.attempts or circuit_open or wait > request_policy.longest_wait:
                    tries = "1 attempt" if attempt == 1 else f"{attempt} attempts"
                    raise ServiceError(f"{host} {problem} ({tries})") from problem
                time.sleep(wait)
        raise AssertionError("unreachable")

    def json(self, method: str, url: str, **request: Any) -> Any:
        """Return the JSON of a 200 response; see `request`.

        Raises:
            ServiceError: no attempt succeeded, the status is not 200, or the body is too long or not JSON.
        """
        answer, host = self.request(method, url, **request), _host(url)
        if answer.status in (401, 403):
            raise ServiceError(f"{host} rejected the request with status {answer.status}. Check its API key")
        if answer.status != 200:
            raise ServiceError(f"{host} answered {answer.status}")
        if answer.cut:
            raise ServiceError(f"{host} sent more than {self.request_policy.max_bytes:,} bytes")
        try:
            return json.loads(answer.body)
        except (ValueError, RecursionError) as error:
            raise ServiceError(f"{host} did not return JSON") from error

    def _attempt(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        params: Mapping[str, str | int] | None,
        content: bytes | None,
        is_final: Callable[[Answer], bool] | None,
    ) -> Answer:
        self._deadline.at = time.monotonic() + self.request_policy.timeout
        with _translated_errors(self.request_policy.timeout):
            proxy = self._proxy_of(url)
            if proxy is not None and not self.request_policy.allow_private:
                self._check_as_named(url)
            target = httpx.URL(url)
            if params:
                target = target.copy_merge_params(params)  # because httpx itself would replace the query
            with self._clients[proxy].stream(method, target, headers=headers, content=content) as response:
                if response.status_code not in _RETRIED:
                    return self._read(response)
                if is_final is not None:
                    with suppress(PackedError):
                        if is_final(answer := self._read(response)):
                            return answer
                retry_after = _retry_after(response.headers.get("Retry-After"))
                raise _TransientError(f"answered {response.status_code}", retry_after)

    def _read(self, response: httpx.Response) -> Answer:
        packed = response.headers.get("Content-Encoding", "")
        body, cut = unpack_body(response.iter_raw(), packed, self.request_policy.max_bytes)
        return Answer(
            url=str(response.url),
            status=response.status_code,
            content_type=response.headers.get("Content-Type", "").partition(";")[0].strip().lower(),
            charset=response.charset_encoding,
            location=response.headers.get("Location"),
            body=body,
            cut=cut,
        )

    def _client(self, proxy: str | None) -> httpx.Client:
        client = httpx.Client(
            timeout=self.request_policy.timeout,
            transport=Transport(self._deadline, self.request_policy.allow_private, proxy),
            headers={"User-Agent": _USER_AGENT, "Accept-Encoding": ACCEPTED},
            follow_redirects=False,
            trust_env=False,
        )
        weakref.finalize(self, client.close)  # environments do not close their retrievers
        return client

    def _proxy_of(self, url: str) -> str | None:
        """Return the proxy for a URL from the environment variables; None if there is none or `no_proxy` applies."""
        target = httpx.URL(url)
        proxy = self._proxies.get(target.scheme) or self._proxies.get("all")
        return None if not proxy or proxy_bypass(target.host) else proxy

    def _check_as_named(self, url: str) -> None:
        """Reject hosts that this machine resolves to a private address. Names it cannot resolve go to the proxy."""
        target = httpx.URL(url)
        with suppress(OSError, UnicodeError):
            public_addresses(target.host, target.port or 443, self._deadline.cut(None))

    def _take_turn(self) -> None:
        if self.request_policy.per_second is None:
            return
        with self._turn:
            at = max(self._next, time.monotonic())
            self._next = at + 1 / self.request_policy.per_second
        time.sleep(max(0.0, at - time.monotonic()))


def _host(url: str) -> str:
    """Return the host of a URL, for messages.

    Raises:
        ServiceError: the URL is invalid.
    """
    try:
        return httpx.URL(url).netloc.decode("ascii", "replace")
    except (httpx.InvalidURL, UnicodeError, ValueError) as error:
        raise ServiceError("invalid web address: expected http:// or https:// and a host") from error


@contextmanager
def _translated_errors(timeout: float) -> Iterator[None]:
    """Translate exceptions of httpx and httpcore to ours. Protocol errors count as transient, as of a dying server."""
    try:
        yield
    except (httpx.TimeoutException, httpcore.TimeoutException) as error:
        raise _TransientError(f"did not answer within {timeout:g} s") from error
    except (httpx.ConnectError, httpcore.ConnectError) as error:
        raise _TransientError("cannot be reached") from error
    except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpcore.UnsupportedProtocol, UnicodeError) as error:
        raise ServiceError("invalid web address: expected http:// or https:// and a host") from error
    except (httpx.HTTPError, httpcore.ProtocolError, httpcore.NetworkError, httpcore.ProxyError) as error:
        raise _TransientError("closed the connection early") from error


def _retry_after(value: str | None) -> float | None:
    """Return the seconds of a Retry-After header, which is a number or a date; None if it is missing or invalid."""
    if value is None:
        return None
    if value.strip().isdecimal() and len(value) < 10:
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return None
