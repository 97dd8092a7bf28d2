"""A progress bar for indexing a corpus."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_REFRESH_INTERVAL = 0.1  # seconds between updates, because documents are indexed faster than a terminal can draw


class IndexingBar:
    """A progress bar on standard error. It appears with the first update.

    Args:
        label: text before the bar.
        total: number of documents; None if it is known only at the end.
    """

    def __init__(self, label: str, total: int | None = None) -> None:
        columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._total = total
        self._task: TaskID | None = None
        self._done, self._drawn = 0, 0.0

    def __enter__(self) -> IndexingBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._task is None:
            return
        total = self._done if kind is None else self._total  # after an exception the bar stays incomplete
        self._progress.update(self._task, completed=self._done, total=total)
        self._progress.stop()

    def show(self, done: int) -> None:
        """Set the number of finished documents."""
        self._done = done
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("", total=self._total)
        now = time.monotonic()
        if now - self._drawn >= _REFRESH_INTERVAL:
            self._drawn = now
            self._progress.update(self._task, completed=done)
