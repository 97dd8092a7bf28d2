"""The display of a study: a live table on a terminal, one line per event anywhere else; and its list of runs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from empg.plain_text import visible
from empg.run.display import aligned, duration
from empg.study.job import FAILED, FINISHED, RUNNING, WAITING, Job
from empg.study.plan import Study
from empg.system.terminal import open_console

_STYLES = {RUNNING: "cyan", FAILED: "bold red"}


class StudyProgress(AbstractContextManager["StudyProgress"]):
    """The display of the runs of one study; a context manager."""

    def __init__(self, study: Study, console: Console | None = None) -> None:
        self.study = study
        self.console = console or open_console()
        self._jobs: Sequence[Job] = ()
        self._live = Live(get_renderable=self._table, console=self.console, refresh_per_second=1, transient=True)

    def begin(self, jobs: Sequence[Job]) -> None:
        """Show the jobs, which the queue changes, from now on."""
        self._jobs = jobs
        done = sum(job.state == FINISHED for job in jobs)
        self.say(f"{self.study.name}: {len(jobs)} runs, {done} of them finished, {self.study.parallel} at a time")
        if self.console.is_terminal:
            self._live.start(refresh=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """Print a permanent line; nothing in it is markup or moves the cursor."""
        self.console.print(Text(visible(line).replace("\n", " ")))

    def ended(self, job: Job) -> None:
        """Print how a run ended."""
        if job.state == FAILED:
            self.say(f"{job.key.name}: failed: {job.message} (log: {job.log})")
            return
        left = seconds_left(self.study, self._jobs)
        rest = "" if left is None or not left else f", left {duration(left)}"
        self.say(f"{job.key.name}: finished in {duration(job.seconds)}, success {_percent(job)}{rest}")

    def _table(self) -> Group:
        table = Table.grid(padding=(0, 2))
        for job in self._jobs:
            if job.state not in (RUNNING, FAILED):  # a study can have more runs than the terminal has lines
                continue
            iterations = f"{job.iteration}/{job.planned.recipe.iterations}"
            state = Text(job.state, style=_STYLES[job.state])
            table.add_row(Text(job.key.name), state, Text(iterations), Text(_percent(job)), duration(job.seconds))
        finished = sum(job.state == FINISHED for job in self._jobs)
        left = seconds_left(self.study, self._jobs)
        time_left = "" if left is None else f", {duration(left)} left"
        return Group(table, Text(f"{finished} of {len(self._jobs)} runs finished{time_left}", style="dim"))


def listed(study: Study, jobs: Sequence[Job]) -> list[str]:
    """Return the runs of a study as lines, with an estimate of what is left to do."""
    rows = [("run", "state", "overrides")]
    for job in jobs:
        state = FAILED if job.failed_before else job.state
        rows.append((job.key.name, state, " ".join(study.variants[job.key.variant])))
    left = [job for job in jobs if job.state != FINISHED]
    lines = aligned(rows)
    summary = f"{len(jobs)} runs, {len(left)} left"
    known = _seconds_left_of(study, jobs, left)
    if known is None:
        return [*lines, f"{summary}; set minutes_per_run for an estimate of the time, or finish a run"]
    cores = sum(s * job.planned.recipe.workers for s, job in zip(known, left, strict=True)) / 3600
    wall = duration(_wall_seconds(study, known))
    shown = f"{cores:.1f}" if cores >= 0.1 or not left else f"{cores:.1g}"
    return [*lines, f"{summary}: about {shown} core-hours, {wall} with {study.parallel} at a time"]


def seconds_left(study: Study, jobs: Sequence[Job]) -> float | None:
    """Estimate the time that the runs which are not finished take; None before anything is known of it."""
    open_ = [job for job in jobs if job.state in (WAITING, RUNNING)]
    known = _seconds_left_of(study, jobs, open_)
    return None if known is None else _wall_seconds(study, known)


def _wall_seconds(study: Study, runs: Sequence[float]) -> float:
    """Return how long runs that take so many seconds take together, `parallel` at a time."""
    return sum(runs) / min(study.parallel, max(1, len(runs)))


def _seconds_left_of(study: Study, jobs: Sequence[Job], open_: Sequence[Job]) -> list[float] | None:
    """Estimate the time that each of these runs still takes; None before anything is known of one."""
    estimates = [_run_seconds(study, jobs, job) for job in open_]
    known = [max(0.0, total - job.seconds) for total, job in zip(estimates, open_, strict=True) if total is not None]
    return None if len(known) < len(open_) else known


def _run_seconds(study: Study, jobs: Sequence[Job], wanted: Job) -> float | None:
    """Return the mean time of the finished runs of the same recipe, else what the study expects."""
    finished = [job.seconds for job in jobs if job.state == FINISHED and job.key.recipe == wanted.key.recipe]
    if finished:
        return sum(finished) / len(finished)
    return None if study.minutes_per_run is None else 60 * study.minutes_per_run


def _percent(job: Job) -> str:
    return "-" if job.success is None else f"{100 * job.success:.1f}%"
