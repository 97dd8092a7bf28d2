"""A process that this package starts does not outlive the one that started it."""

from __future__ import annotations

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """End this process, without a word, as soon as its parent has ended, even by kill -9 and whatever is going on here.

    To be called once in every process that `multiprocessing` started; in any other it does nothing.
    """
    if multiprocessing.parent_process() is not None:
        threading.Thread(target=_wait_and_end, name="end-with-parent", daemon=True).start()


def parent_is_gone(within: float) -> bool:
    """Whether the parent has ended, or does so within so many seconds."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return False
    parent.join(timeout=within)
    return not parent.is_alive()


def _wait_and_end() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()  # on a pipe that the parent holds open as long as it lives: portable, and no polling
    os._exit(1)
