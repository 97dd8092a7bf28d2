"""The display of a run: a live table on a terminal, plain lines anywhere else.

Plain lines have no control characters and no time of day, so the logs of two equal runs differ only in durations.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from empg.plain_text import visible
from empg.record.records import AnyRecord, EvalRecord, Record, TrainRecord, WarmStartRecord
from empg.report.before_after import Rate, before_and_after, by_panel
from empg.system.signals import discard
from empg.system.terminal import open_console

FIRST_STAGE = "preparing the policy"
SUCCESS_SHOWN = 60  # iterations in the success curve, and points in that of a warm start
ALARMS_SHOWN = 3
TIMES_AVERAGED = 10  # iterations that the estimate of the remaining time averages
_BLOCKS = "▁▂▃▄▅▆▇█"
Stage = Callable[[str, int], Callable[[int], None]]
"""Called with the name and the length of each part; returns what to call with the number of finished items."""


class Progress:
    """The display of one run of `iterations` iterations; a context manager.

    On a terminal it draws a live panel four times per second in its own thread. Otherwise every method prints at most
    one line, flushed immediately.
    """

    def __init__(
        self,
        iterations: int,
        console: Console | None = None,
        first: str = FIRST_STAGE,
        *,
        every: int = 0,
    ) -> None:
        """`every` is the recipe's `evaluation.every`, for the estimate of the remaining time."""
        self.iterations, self._every = iterations, every
        self.console = console or open_console()
        self._stage, self._total, self._done, self._began = first, 0, 0, time.monotonic()
        self._train: TrainRecord | None = None
        self._warm: WarmStartRecord | None = None
        self._accuracy: deque[float] = deque(maxlen=SUCCESS_SHOWN)
        self._success: deque[float] = deque(maxlen=SUCCESS_SHOWN)
        self._seconds: deque[float] = deque(maxlen=TIMES_AVERAGED)
        self._evaluations: list[EvalRecord] = []
        self._alarms: deque[str] = deque(maxlen=ALARMS_SHOWN)
        self._finished = False
        self._drawn = threading.Lock()  # what the thread of the panel draws changes only under it
        self._live: Live | None = None
        if self.console.is_terminal:
            self._live = Live(get_renderable=self._panel, console=self.console, refresh_per_second=4)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start(refresh=True)
        else:
            self._print(self._stage)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def stage(self, name: str, total: int | None) -> Callable[[int], None]:
        """Begin a stage of work, with `total` items if they can be counted; return `done`."""
        with self._drawn:
            self._stage, self._total, self._done, self._began = name, total or 0, 0, time.monotonic()
        # The line of each iteration includes its rollout.
        if self._live is None and name != "rollout":
            self._print(name)
        return self.done

    def done(self, count: int) -> None:
        """Set the number of finished items of the stage."""
        self._done = count

    def say(self, line: str) -> None:
        """Print a permanent line."""
        self._print(line)

    def record(self, record: AnyRecord) -> None:
        """Show a record of metrics.jsonl when it is written."""
        # With a live panel nothing below prints: that takes the panel's own lock, which its thread holds first.
        with self._drawn:
            if record["kind"] == "warm_start":
                self._show_warm_start(record)
            elif record["kind"] == "train":
                self._show_train(record)
            elif record["kind"] == "eval":
                self._show_evaluation(record)

    def finish(self, records: Sequence[Record], report: Path, recipe: Mapping[str, Any] | None = None) -> None:
        """End the display: print success before and after on every panel, and the path of the report.

        With the recipe of the run, the same evaluations count as in the report.
        """
        self._finished = True
        if self._live is not None:
            self._live.refresh()
            self._live.stop()
        rows = _outcome_rows(by_panel(records, recipe))
        if self._live is not None and rows:
            self.console.print(_outcome_table(rows))
        elif rows:
            for line in aligned([("success (95% Wilson)", "episodes", "before", "after", "difference"), *rows]):
                self._print(line)
        self._print(f"report: {report}")

    # --- records -----------------------------------------------------------------------------------------------------

    def _show_warm_start(self, record: WarmStartRecord) -> None:
        before = self._warm
        self._warm = record
        if self._stage != "warm start":
            self._stage, self._began = "warm start", time.monotonic()
        self._total, self._done = record["steps"], record["step"]
        if record["step"] * SUCCESS_SHOWN // record["steps"] > len(self._accuracy):
            self._accuracy.append(record["token_accuracy"])
        percent = 100 * record["step"] // record["steps"]
        if self._live is None and (before is None or percent > 100 * before["step"] // before["steps"]):
            self._print(f"warm start {percent:3d}%  {_warm_numbers(record)}")

    def _show_train(self, record: TrainRecord) -> None:
        self._train, self._warm = record, None
        self._success.append(float(record["rollout/success"]))
        self._seconds.append(float(record["time/total"]))
        self._stage, self._total = "next iteration", 0
        alarms = [str(alarm) for alarm in record.get("alarms") or ()]
        self._alarms.extend(f"iteration {record['iteration']}: {alarm}" for alarm in alarms)
        if self._live is None:
            numbers = "  ".join(f"{name} {value}" for name, value in _train_numbers(record))
            left = self._left()
            self._print(
                f"iteration {record['iteration']}/{self.iterations}  {numbers}  {_times(record)}"
                + (f"  left {duration(left)}" if left else "")
            )
            for alarm in alarms:
                self._print(f"alarm: {alarm}")

    def _show_evaluation(self, record: EvalRecord) -> None:
        self._evaluations.append(record)
        self._stage, self._total = "evaluated", 0
        if self._live is None:
            self._print(
                f"{record['split']} ({record['decoding']}) at iteration {record['iteration']}: "
                f"success {rate(Rate.of(record))} of {record['n']}"
            )

    def _left(self) -> float:
        """Estimate the remaining seconds from the last iterations and the evaluations so far."""
        if self._train is None:
            return 0.0
        done = int(self._train["iteration"])
        seconds = (self.iterations - done) * sum(self._seconds) / len(self._seconds)
        evaluated = {record["iteration"] for record in self._evaluations}
        if evaluated:
            between = (self.iterations - 1) // self._every - (done - 1) // self._every if self._every else 0
            due = between + 1 - sum(iteration >= done for iteration in evaluated)  # 1: after the last iteration
            seconds += due * sum(float(record["time"]) for record in self._evaluations) / len(evaluated)
        return seconds

    # --- lines -------------------------------------------------------------------------------------------------------

    def _print(self, line: str) -> None:
        """One line: nothing in it is markup, and nothing in it moves the cursor."""
        safe = visible(line).replace("\n", " ")
        if self._live is not None:
            self.console.print(Text(safe))
        else:
            file = self.console.file
            encoding = getattr(file, "encoding", None) or "utf-8"
            try:
                file.write(safe.encode(encoding, errors="replace").decode(encoding) + "\n")
                file.flush()
            except OSError:  # the reader of a pipe has ended, e.g. `tee` by Ctrl-C: a run continues without it
                discard(file.fileno())

    # --- the live panel ----------------------------------------------------------------------------------------------

    def _panel(self) -> Group:
        """Return what is drawn; called in the thread of the panel."""
        with self._drawn:
            return Group(*self._parts())

    def _parts(self) -> list[Any]:
        parts: list[Any] = []
        if self._train is not None:
            parts.append(self._train_table(self._train))
        if self._warm is not None:
            curve = ("".join(_block(accuracy) for accuracy in self._accuracy), "green")
            parts.append(_wrapped(curve, "  ", _warm_numbers(self._warm)))
        for record in self._evaluations[-4:]:
            where = f"{record['split']} ({record['decoding']}) at iteration {record['iteration']}"
            parts.append(_wrapped((f"{where}: {rate(Rate.of(record))}", "cyan")))
        parts += [_wrapped((alarm, "bold yellow")) for alarm in self._alarms]
        if not self._finished:
            parts.append(self._stage_line())
        return parts

    def _train_table(self, record: TrainRecord) -> Table:
        table = Table.grid(padding=(0, 2))
        left = self._left()
        heading = f"iteration {record['iteration']}/{self.iterations}"
        table.add_row(Text(heading, style="bold"), Text("".join(_block(s) for s in self._success), style="green"))
        numbers = Text("  ".join(f"{name} {value}" for name, value in _train_numbers(record)))
        table.add_row(Text(f"{duration(left)} left" if left and not self._finished else "", style="dim"), numbers)
        table.add_row("", Text(_times(record), style="dim"))
        return table

    def _stage_line(self) -> Table:
        line = Table.grid(padding=(0, 2))
        elapsed = time.monotonic() - self._began
        bar = ProgressBar(
            total=self._total or None,
            completed=self._done,
            width=30,
            pulse=not self._total,
            animation_time=time.monotonic(),
        )
        count = f"{self._done}/{self._total}" if self._total else ""
        line.add_row(Text(self._stage), bar, Text(count), Text(duration(elapsed), style="dim"))
        return line


def _wrapped(*parts: str | tuple[str, str]) -> Text:
    """Return a line of the panel that wraps. As an ordinary line of its console it would be cropped."""
    return Text.assemble(*parts, no_wrap=False, overflow="fold")


# --- numbers as text -------------------------------------------------------------------------------------------------


def _train_numbers(record: TrainRecord) -> list[tuple[str, str]]:
    entropy, kl = record.get("entropy/step_mean"), record["policy/kl_old"]
    return [
        ("success", f"{100 * record['rollout/success']:5.1f}%"),
        ("reward", f"{record['rollout/reward']:.3f}"),
        ("entropy", "-" if entropy is None else f"{entropy:.3f}"),
        ("KL", f"{kl:.4f}" if math.isfinite(kl) else "-"),  # another engine may not compute it
    ]


def _times(record: TrainRecord) -> str:
    parts = (
        f"rollout {record['time/rollout']:.1f}, credit {record['time/credit']:.1f}, update {record['time/update']:.1f}"
    )
    return f"{record['time/total']:.1f} s ({parts})"


def _warm_numbers(record: WarmStartRecord) -> str:
    left = record["time"] / record["step"] * (record["steps"] - record["step"])
    tokens = f"token accuracy {100 * record['token_accuracy']:.1f}%"
    return f"loss {record['loss']:.3f}  {tokens}  left {duration(left)}"


def rate(shown: Rate) -> str:
    """Format a success rate and its interval in per cent."""
    return f"{100 * shown.success:.1f}% [{100 * shown.low:.1f}, {100 * shown.high:.1f}]"


def aligned(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Format rows of cells as lines with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def duration(seconds: float) -> str:
    """Format seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _block(share: float) -> str:
    return _BLOCKS[min(len(_BLOCKS) - 1, int(max(0.0, share) * len(_BLOCKS)))]


# --- before and after ------------------------------------------------------------------------------------------------


def _outcome_rows(evaluations: Sequence[Sequence[EvalRecord]]) -> list[tuple[str, str, str, str, str]]:
    """Return (panel, episodes, before, after, difference in points) of every split and decoding."""
    rows = []
    for played in evaluations:
        first, last = before_and_after(played)
        trained, twice = last["iteration"] > 0, first["iteration"] != last["iteration"]
        points = 100 * (last["success"] - first["success"])
        rows.append(
            (
                f"{last['split']} ({last['decoding']})",
                str(last["n"]),
                rate(Rate.of(first)) if twice or not trained else "",
                rate(Rate.of(last)) if trained else "",
                f"{points:+.1f} points" if twice else "",
            )
        )
    return rows


def _outcome_table(rows: Sequence[tuple[str, ...]]) -> Table:
    table = Table(title="success, with 95% Wilson intervals", title_justify="left")
    for heading in ("panel", "episodes", "before", "after", "difference"):
        table.add_column(heading, justify="left" if heading == "panel" else "right")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
