"""Progress of work that is done once: an index of a corpus."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class IndexingBar:
    """A progress bar on standard error that appears when there is progress to show."""

    def __init__(self, what: str, total: int | None = None) -> None:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._progress = Progress(*columns, console=Console(stderr=True))
        self._total = total
        self._task: TaskID | None = None

    def __enter__(self) -> IndexingBar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._task is not None:
            self._progress.stop()

    def show(self, done: int) -> None:
        """So many documents are done."""
        if self._task is None:
            self._progress.start()
            self._task = self._progress.add_task("", total=self._total)
        if done % 1_000 == 0 or done == self._total:
            self._progress.update(self._task, completed=done)
