"""Progress bars for indexing."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from empg.system.terminal import open_console

Done = Callable[[int], None]
"""Receives the amount of work that is done so far."""
Stage = Callable[[str, int | None], Done]
"""Starts a stage with a name and a total amount of work, or None if the total is known only at the end."""

_REFRESH_INTERVAL = 0.1  # seconds between updates, because documents are indexed faster than a terminal can draw


class IndexingBars:
    """Progress bars on standard error, one per stage. Nothing is shown unless a stage begins.

    Args:
        title: printed above the bars.
    """

    def __init__(self, title: str) -> None:
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._progress = Progress(*columns, console=open_console(stderr=True))
        self._title = title
        self._done: dict[int, int] = {}  # per task
        self._drawn = 0.0

    def __enter__(self) -> IndexingBars:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if not self._progress.tasks:
            return
        for task in self._progress.tasks:
            done = self._done[task.id]
            # After an exception the bar stays incomplete.
            self._progress.update(task.id, completed=done, total=done if kind is None else task.total)
        self._progress.stop()

    def stage(self, name: str, total: int | None = None) -> Done:
        """Begin a stage and show its bar. Implements `Stage`."""
        if not self._progress.tasks:
            self._progress.console.print(self._title, soft_wrap=True)
            self._progress.start()
        task = self._progress.add_task(name, total=total)
        self._done[task] = 0

        def done(amount: int) -> None:
            self._done[task] = amount
            now = time.monotonic()
            if now - self._drawn >= _REFRESH_INTERVAL:
                self._drawn = now
                self._progress.update(task, completed=amount)

        return done


def no_bars(name: str, total: int | None = None) -> Done:
    """Begin a stage that is not shown. Implements `Stage`."""
    return lambda done: None
