"""A run of the queue: its state, read from its folder or its results, and its process."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from empg.errors import UserError
from empg.record.durable import write_file
from empg.record.errors import os_errors_as
from empg.record.records import EvalRecord, Record, eval_records, own_evaluations, train_records
from empg.record.runfolder import RunFolder
from empg.run.resume import changes_of, like_the_run
from empg.study.plan import PlannedRun, RunKey, measured_by
from empg.study.process import last_line, train_in_process
from empg.study.results import FAILURE
from empg.system.signals import stop_signals_blocked

WAITING, RUNNING, FINISHED, FAILED = "waiting", "running", "finished", "failed"


@dataclass(slots=True)
class Job:
    """A run of the queue.

    Attributes:
        planned: what is to be run.
        folder: the run folder.
        summary: the folder of its results. A run that is finished there is not run again, even without a run folder.
        state: `waiting`, `running`, `finished` or `failed`.
        iteration: finished iterations.
        success: success of the newest evaluation of the first panel; None without one.
        seconds: time that its records account for.
        message: why it failed.
    """

    planned: PlannedRun
    folder: Path
    summary: Path
    state: str = WAITING
    iteration: int = 0
    success: float | None = None
    seconds: float = 0.0
    message: str = ""
    process: BaseProcess | None = None
    _logged: int = 0  # bytes of the log that earlier tries wrote

    @property
    def key(self) -> RunKey:
        """The key of the run."""
        return self.planned.key

    @property
    def log(self) -> Path:
        """The file with the output of the run."""
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def begun(self) -> bool:
        """Whether the run has a folder with a recipe."""
        return RunFolder(self.folder).exists

    @property
    def failed_before(self) -> bool:
        """Whether the last try failed; the queue tries again."""
        return self.state == WAITING and (self.summary / FAILURE).is_file()

    @property
    def _recorded(self) -> list[RunFolder]:
        """The folders that may say how far the run is: its results, which come from another machine, and its own."""
        return [folder for folder in map(RunFolder, (self.summary, self.folder)) if folder.exists]

    @property
    def _records(self) -> list[Record]:
        """The records of the results if the run is finished there, else those of the run folder."""
        records: list[Record] = []
        for place in self._recorded:
            records = place.read_metrics()
            if self._is_complete(records):
                break
        return records

    def refresh(self) -> None:
        """Read how far the run is."""
        records = self._records
        self.iteration = _finished_iterations(records)
        first = self.planned.recipe.evaluation.panels[:1]
        found = [r["success"] for r in self._own_evaluations(records) if [r["split"]] == first]
        self.success = found[-1] if found else None
        self.seconds = measured_seconds(records)
        if self.state == WAITING and self._is_complete(records):
            self.state = FINISHED

    def _is_complete(self, records: Sequence[Record]) -> bool:
        """Whether every panel is evaluated after the last iteration, which is the end of a run."""
        recipe = self.planned.recipe
        wanted = {(s, d) for s in recipe.evaluation.panels for d in recipe.evaluation.decoding}
        evaluated = self._own_evaluations(records)
        done = {(r["split"], r["decoding"]) for r in evaluated if r["iteration"] == recipe.iterations}
        return _finished_iterations(records) == recipe.iterations and wanted <= done

    def _own_evaluations(self, records: Sequence[Record]) -> list[EvalRecord]:
        """Return the evaluations of the study; `empg evaluate` may have added others to the run."""
        return own_evaluations(records, self.planned.recipe.model_dump(mode="json"))

    def check(self) -> None:
        """Check that the run that is recorded is the one that is planned.

        Raises:
            UserError: it has another recipe, or one that was evaluated in another way.
        """
        remedy = f"remove {' and '.join(str(place.path) for place in self._recorded)}, or rename the study"
        for recorded in self._recorded:
            folder = RunFolder.open(recorded.path)
            try:
                recipe = like_the_run(self.planned.recipe, folder)
            except UserError as error:
                raise UserError(f"{error}; or {remedy}") from None
            for key, (before, after) in changes_of(folder, recipe).items():
                if key in measured_by(self.planned.recipe):
                    raise UserError(
                        f"{recorded.path} has {key}={before}, this study {after}: a study compares runs that were "
                        f"evaluated alike. Set it to {before}, {remedy}"
                    )

    def keep_results(self) -> None:
        """Keep the results of a run that ended here: those of a finished run, or why it failed.

        Results that are complete stay as they are.

        Raises:
            UserError: a file cannot be read or written.
        """
        failure = self.summary / FAILURE
        if self.state == FAILED:
            write_file(failure, f"iteration {self.iteration}: {self.message}\n")
        elif self.state == FINISHED:
            with os_errors_as(f"cannot remove {failure}"):
                failure.unlink(missing_ok=True)
        if self.state == FINISHED and self.begun:
            summary = RunFolder(self.summary)
            if not (summary.exists and self._is_complete(summary.read_metrics())):
                RunFolder.open(self.folder).copy_summary(self.summary)

    def start(self) -> None:
        """Start the process of the run: a new run, one that continues, or one that restarts before its checkpoint."""
        arguments = [*self.planned.arguments, "--run", str(self.folder)]
        if self.begun:
            folder = RunFolder(self.folder)
            kept = folder.start.exists() or any(folder.checkpoints.glob("iter-*"))
            arguments.append("--resume" if kept else "--force")
        self._logged = self.log.stat().st_size if self.log.exists() else 0
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=train_in_process, args=(arguments, self.log), name=self.key.name)
        with stop_signals_blocked():  # until `empg train` takes them
            self.process.start()
        self.state = RUNNING

    def end(self) -> None:
        """Take the result of a process that has ended."""
        assert self.process is not None
        self.process.join()
        code, self.process, self.state = self.process.exitcode, None, WAITING
        self.refresh()
        if code or self.state != FINISHED:
            self.state = FAILED
            self.message = _reason(code, last_line(self.log, self._logged))


def _reason(code: int | None, said: str) -> str:
    """Return why a process with this exit code failed, which `said` this at last."""
    if code is None or code >= 0:
        return said or f"exit code {code}"
    hint = " (the system does so when memory runs out)" if code == -signal.SIGKILL else ""
    return f"ended by {signal.Signals(-code).name}{hint}" + (f" after: {said}" if said else "")


def _finished_iterations(records: Sequence[Record]) -> int:
    return max((r["iteration"] for r in train_records(records)), default=0)


def measured_seconds(records: Sequence[Record]) -> float:
    """Return the seconds that the records of a run account for: warm start, iterations and evaluations."""
    warm = max((float(r.get("time") or 0) for r in records if r.get("kind") == "warm_start"), default=0.0)
    return (
        warm
        + sum(float(r.get("time/total") or 0) for r in train_records(records))
        + sum(float(r.get("time") or 0) for r in eval_records(records))
    )
