"""A circuit breaker: after repeated failures, requests to a server fail at once for a while instead of timing out."""

from __future__ import annotations

import threading
import time

_MAX_HOSTS = 1_000  # tracked servers; web pages are on many


class Breaker:
    """A thread-safe circuit breaker per server.

    The circuit opens after `failure_threshold` consecutive failures, for `cool_down` seconds.
    """

    def __init__(self, failure_threshold: int, cool_down: float) -> None:
        self._failure_threshold, self._cool_down = failure_threshold, cool_down
        self._failures: dict[str, int] = {}
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def refuses(self, host: str) -> bool:
        """Return whether the circuit is open. After the cool-down, one request is let through to test the server."""
        with self._lock:
            until = self._until.get(host)
            if until is None:
                return False
            now = time.monotonic()
            if now >= until:
                self._until[host] = now + self._cool_down
            return now < until

    def failed(self, host: str) -> bool:
        """Count a failed attempt. Return True if the circuit is open from now on."""
        with self._lock:
            if len(self._failures) >= _MAX_HOSTS and host not in self._failures:
                oldest = next(iter(self._failures))
                del self._failures[oldest]
                self._until.pop(oldest, None)
            self._failures[host] = self._failures.get(host, 0) + 1
            if self._failures[host] < self._failure_threshold:
                return False
            self._until[host] = time.monotonic() + self._cool_down
            return True

    def answered(self, host: str) -> None:
        """Reset the failures of a server after any response that is not retried, even a damaged one."""
        with self._lock:
            self._failures.pop(host, None)
            self._until.pop(host, None)
