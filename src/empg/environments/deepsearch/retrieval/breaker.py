"""A circuit breaker: a server that fails and fails is left alone for a while, instead of being waited for each time."""

from __future__ import annotations

import threading
import time

_MOST = 1_000  # servers remembered: pages of the web are on many


class Breaker:
    """A thread-safe circuit breaker: a server that fails `failure_threshold` times in a row is skipped for a while."""

    def __init__(self, failure_threshold: int, cool_down: float) -> None:
        self._failure_threshold, self._cool_down = failure_threshold, cool_down
        self._failures: dict[str, int] = {}
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def refuses(self, host: str) -> bool:
        """Whether a server must not be asked now. After its pause one may ask; the rest wait for what that finds."""
        with self._lock:
            until = self._until.get(host)
            if until is None:
                return False
            now = time.monotonic()
            if now >= until:
                self._until[host] = now + self._cool_down
            return now < until

    def failed(self, host: str) -> bool:
        """Count an attempt that failed; True if the server is left alone from now on."""
        with self._lock:
            if len(self._failures) >= _MOST and host not in self._failures:
                forgotten = next(iter(self._failures))
                del self._failures[forgotten]
                self._until.pop(forgotten, None)
            self._failures[host] = self._failures.get(host, 0) + 1
            if self._failures[host] < self._failure_threshold:
                return False
            self._until[host] = time.monotonic() + self._cool_down
            return True

    def answered(self, host: str) -> None:
        """Forget the failures of a server that answers."""
        with self._lock:
            self._failures.pop(host, None)
            self._until.pop(host, None)
