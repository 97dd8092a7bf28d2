"""The queue of a study: start the runs that are missing, resume those that were interrupted, skip what is finished.

The state of a run is read from its folder, or from its results where these alone are left. So a study can be stopped in
any way, even by kill -9, and started again, also on another machine that has the results of the finished runs. The
processes of its runs end with it.
"""

from __future__ import annotations

import multiprocessing.connection
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from signal import Signals

from empg.errors import UserError
from empg.record.lock import locked
from empg.study.job import FAILED, WAITING, Job
from empg.study.plan import PlannedRun
from empg.study.progress import StudyProgress
from empg.study.results import keep_study
from empg.system.signals import StopSignals

_POLL = 1.0  # seconds between two looks at the metrics of the runs


def make_jobs(planned: Sequence[PlannedRun], folder: Path, results: Path) -> list[Job]:
    """Return the jobs of a study with runs in `folder` and results in `results`, with the state of each.

    Raises:
        UserError: a folder has a run with another recipe.
    """
    jobs = [Job(run, folder / run.key.name, results / run.key.name) for run in planned]
    for job in jobs:
        job.check()
        job.refresh()
    return jobs


def run_queue(
    source: Path, planned: Sequence[PlannedRun], folder: Path, results: Path, parallel: int, progress: StudyProgress
) -> list[Job]:
    """Run what is missing, `parallel` runs at a time, and return all jobs; those that failed are among them.

    The file `source` of the study is copied into `results`, and the results of a run as soon as it has ended.

    Raises:
        Stopped: a signal asked the study to stop; its runs were asked as well, and can be resumed.
        UserError: another process runs a study in this folder, a run has another recipe, the results are those of
            another study, or cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error.strerror or error}") from None
    busy = f"{folder} is in use by another empg study; wait until it has ended, or stop it"
    with locked(folder / ".lock", wait=2.0, busy=busy), StopSignals() as signals, ExitStack() as held:
        jobs = make_jobs(planned, folder, results)
        keep_study(source, results)
        for known in jobs:
            known.keep_results()
        held.callback(_end_all, jobs)
        held.enter_context(progress)
        progress.begin(jobs)
        asked = False
        while (running := [job for job in jobs if job.process]) or (not signals.number and _next(jobs)):
            while not signals.number and len(running) < parallel and (job := _next(jobs)):
                progress.say(f"{job.key.name}: {'resumed' if job.begun else 'started'}")
                job.start()
                running.append(job)
            if signals.number and not asked:
                progress.say("stopping: each run writes a checkpoint first")
                asked = True
                for job in running:
                    if job.process is not None:
                        job.process.terminate()
            multiprocessing.connection.wait([job.process.sentinel for job in running if job.process], timeout=_POLL)
            for job in running:
                _look(job, progress, asked)
        if signals.number:
            raise Stopped(signals.number)
    return jobs


class Stopped(Exception):
    """A signal stopped the study; `signal` is its number."""

    def __init__(self, signal: int) -> None:
        super().__init__(f"stopped by {Signals(signal).name}")
        self.signal = signal


def _next(jobs: Sequence[Job]) -> Job | None:
    """Return the next run to start: if possible one whose warm start no running one computes at this moment."""
    waiting = [job for job in jobs if job.state == WAITING]
    active = {(job.key.recipe, job.key.seed) for job in jobs if job.process is not None}
    return next((j for j in waiting if (j.key.recipe, j.key.seed) not in active), waiting[0] if waiting else None)


def _look(job: Job, progress: StudyProgress, asked: bool) -> None:
    assert job.process is not None
    if job.process.is_alive():
        job.refresh()
        return
    job.end()
    if asked and job.state == FAILED:
        job.state = WAITING
        return
    job.keep_results()
    progress.ended(job)


def _end_all(jobs: Sequence[Job]) -> None:
    """End the processes that an error left behind."""
    for job in jobs:
        if job.process is not None:
            job.process.kill()
            job.process.join()
