"""End child processes when their parent ends."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Exit silently when the parent process exits, even by kill -9 and whatever this process is doing.

    Call it once in every process that `multiprocessing` started. In any other process it has no effect.
    """
    if multiprocessing.parent_process() is not None:
        threading.Thread(target=_wait_and_end, name="end-with-parent", daemon=True).start()


def parent_is_gone(within: float) -> bool:
    """Return whether the parent has ended, or ends within this many seconds."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return False
    parent.join(timeout=within)
    return not parent.is_alive()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # waits for a pipe that the parent keeps open while it runs: portable, without polling
    os._exit(1)
