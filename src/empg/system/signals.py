"""SIGINT, SIGTERM and SIGHUP as requests to stop at the next safe point; a second signal ends the process at once.

The operating system writes the number of a signal into a pipe, and a thread reads it. So a signal is seen even while
the main thread waits in a call that Python cannot interrupt, such as a collective.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from types import TracebackType
from typing import Any

STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_ONE_REQUEST = 0.3  # seconds in which signals are one request: a shell and a wrapper may both pass one on


class StopRequested(Exception):
    """Work was abandoned at a safe point, because a signal asked the run to stop."""


class StopSignals:
    """Takes the signals during a block, in the main thread; elsewhere it does nothing. Ignored signals stay ignored.

    Attributes:
        number: the signal that asked to stop; 0 if none did.
        announce: called with the name of that signal, in a thread.
    """

    def __init__(self, announce: Callable[[str], None] | None = None, *, second_ends: bool = True) -> None:
        self.number = 0
        self.announce = announce
        self._second_ends = second_ends
        self._before: dict[int, Any] = {}
        self._terminals: list[int] = []
        self._writing: socket.socket | None = None

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._reading, self._writing = socket.socketpair()
        self._writing.setblocking(False)  # a handler must not wait
        self._terminals = [descriptor for descriptor in (0, 1, 2) if _is_terminal(descriptor)]
        self._wakeup_before = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
        for number in STOP_SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, or a job in the background
                self._before[number] = signal.signal(number, _take)
        threading.Thread(target=self._listen, name="stop-signals", daemon=True).start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)  # blocked by `stop_signals_blocked`
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writing is None:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._writing.close()  # the thread reads the end of the stream

    def _listen(self) -> None:
        asked = 0.0
        with self._reading:
            while number := int.from_bytes(self._reading.recv(1), "big"):
                if number not in self._before:
                    continue
                if number == getattr(signal, "SIGHUP", None):
                    self._leave_terminal()
                if not self.number:
                    self.number, asked = number, time.monotonic()
                    if self.announce is not None:
                        self.announce(signal.Signals(number).name)
                # A terminal that is closed sends SIGHUP more than once.
                elif number != getattr(signal, "SIGHUP", None) and time.monotonic() - asked > _ONE_REQUEST:
                    self._end(number)

    def _end(self, number: int) -> None:
        if not self._second_ends:
            return
        if 1 in self._terminals:
            os.write(1, b"\x1b[?25h\n")  # a live display hides the cursor
        os._exit(128 + number)

    def _leave_terminal(self) -> None:
        """Send what would be printed to the null device: a closed terminal turns every print into an error."""
        for descriptor in self._terminals:
            discard(descriptor)


def discard(descriptor: int) -> None:
    """Send what is written to a file descriptor to the null device from now on."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Processes that are started in this block take no stop signal until they enter a `StopSignals`."""
    resource_tracker.ensure_running()  # otherwise the first start unblocks them
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_interrupts_to_parent() -> None:
    """Ignore SIGINT in a process that was started under `stop_signals_blocked`, and take the other signals again.

    Ctrl-C reaches every process of a terminal. Such a process ends when its parent does.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _take(number: int, frame: Any) -> None:
    """Do nothing: the pipe has the number already."""


def _is_terminal(descriptor: int) -> bool:
    try:
        return os.isatty(descriptor)
    except OSError:
        return False
