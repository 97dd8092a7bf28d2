"""Progress of work that is done once: an index of a corpus."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_PAUSE = 0.1  # seconds between two looks: documents can be done faster than a terminal draws


class IndexingBar:
    """A progress bar on standard error that appears when there is progress to show.

    Args:
        what: stands before it.
        total: documents; None where that shows at the end.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._total = total
        self._task: TaskID | None = None
        self._done, self._drawn = 0, 0.0

    def __enter__(self) -> IndexingBar:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._task is None:
            return
        whole = self._done if kind is None else self._total  # what was broken off is not whole
        self._progress.update(self._task, completed=self._done, total=whole)
        self._progress.stop()

    def show(self, done: int) -> None:
        """So many documents are done."""
        self._done = done
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("", total=self._total)
        now = time.monotonic()
        if now - self._drawn >= _PAUSE:
            self._drawn = now
            self._progress.update(self._task, completed=done)
