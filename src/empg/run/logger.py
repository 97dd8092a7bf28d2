"""The logger of a run: metrics, episodes, the recipe's loggers, live display. Only the first worker writes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from types import TracebackType
from typing import Any

import torch

import empg
from empg.environments.panels import Panel
from empg.learner.assign import Assigned
from empg.learner.update import UpdateStats
from empg.policy.device import gpu_name
from empg.recipe import Recipe
from empg.record.records import (
    AnyRecord,
    EpisodeRow,
    EvalRecord,
    Provenance,
    ResumeRecord,
    RunRecord,
    TrainNumbers,
    TrainRecord,
    WarmStartRecord,
)
from empg.record.runfolder import RunFolder
from empg.rollout.types import Episode
from empg.run.alarms import Alarms
from empg.run.columns import (
    Columns,
    credit_numbers,
    episode_rows,
    join_columns,
    policy_numbers,
    rollout_numbers,
    turn_columns,
)
from empg.run.display import Progress
from empg.run.metric_loggers import MetricLoggers
from empg.system.machine import commit, processor
from empg.system.workers import Workers

Done = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTimes:
    """The seconds that the phases of an iteration took."""

    rollout: float
    credit: float
    update: float


@dataclass(frozen=True, slots=True, kw_only=True)
class IterationShare:
    """What one worker has of an iteration; `zero_variance_groups` of its `trained_groups` have equal returns."""

    columns: Columns
    rows: list[EpisodeRow]
    dropped_steps: int
    zero_variance_groups: int
    trained_groups: int
    played_groups: int


class RunLogger:
    """Gathers the results of all workers and writes them; on any worker but the first it only gathers.

    A run that continues after `resumed_at` iterations (-1: from its start; None: it begins) replaces what TensorBoard
    has of later ones.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe, workers: Workers, resumed_at: int | None = None) -> None:
        self.folder, self.recipe, self.workers = folder, recipe, workers
        self.alarms = Alarms(recipe.rollout.max_turn_tokens, recipe.credit.estimator.compares_within_group)
        # Of the first worker; that of another is never shown.
        self.progress = Progress(recipe.iterations, every=recipe.evaluation.every)
        self._loggers = MetricLoggers(folder, recipe, resumed_at, self.say)
        asked = recipe.record_token_entropies
        self._records_tokens = recipe.policy.model == "tiny" if asked == "auto" else asked

    def __enter__(self) -> RunLogger:
        if self.workers.first:
            self.progress.__enter__()
            if self.folder.read_metrics():  # else `begin` starts them, after the first record
                self._loggers.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.workers.first:
            self.progress.__exit__(kind, error, trace)
            self._loggers.close(failed=error is not None)

    def begin(self, command: str) -> None:
        """Write the first record of a run, and start its loggers."""
        if self.workers.first:
            made = _provenance(self.recipe)
            record: RunRecord = {"kind": "run", "command": command, "seed": self.recipe.seed, **made}
            self._write(record)
            self._loggers.start()

    def say(self, line: str) -> None:
        """Print a line."""
        if self.workers.first:
            self.progress.say(line)

    def stage(self, name: str, total: int | None = None) -> Done:
        """Begin a stage of work; the returned function takes the number of finished items.

        It raises `StopRequested` if the run was asked to stop, so only work that can be abandoned calls it.
        """
        if self.workers.first:
            self.progress.stage(name, total)

        def done(count: int) -> None:
            self.workers.check_stop()
            if self.workers.first:
                self.progress.done(count)

        return done

    def rollout_progress(self, episodes: int) -> Done:
        """Begin a rollout of this many episodes (on this worker)."""
        return self.stage("rollout", episodes)

    def evaluation_progress(self, panel: Panel, decoding: str) -> Done:
        """Begin the evaluation of a panel, of which every worker plays its share."""
        return self.stage(f"evaluate {panel.split} ({decoding})", -(-len(panel.tasks) // self.workers.size))

    def warm_start(self, record: WarmStartRecord) -> None:
        """Write the record of one step of the warm start; before its end there is nothing to resume from."""
        self._write(record)
        if self.workers.first:
            self.workers.check_stop()

    def iteration(
        self,
        iteration: int,
        episodes: Sequence[Episode],
        assigned: Assigned,
        stats: UpdateStats,
        times: PhaseTimes,
    ) -> None:
        """Write everything about one iteration, from all workers."""
        share = IterationShare(
            columns=turn_columns(iteration, assigned, token_entropies=self._records_tokens),
            rows=episode_rows(episodes),
            dropped_steps=assigned.dropped_steps,
            zero_variance_groups=assigned.zero_variance_groups,
            trained_groups=assigned.groups,
            played_groups=len({episode.group for episode in episodes}),
        )
        shares: list[IterationShare] = self.workers.gather(share)
        if not self.workers.first:
            return
        columns = join_columns([share.columns for share in shares])
        rows = [row for share in shares for row in share.rows]
        without, groups = sum(s.zero_variance_groups for s in shares), sum(s.trained_groups for s in shares)
        numbers: TrainNumbers = {
            "kind": "train",
            "iteration": iteration,
            **rollout_numbers(rows),
            "rollout/groups": sum(share.played_groups for share in shares),
            **credit_numbers(columns),
            "credit/zero_variance_groups": without / max(1, groups),
            **policy_numbers(stats),
            "guard/dropped_steps": sum(share.dropped_steps for share in shares),
            "guard/skipped_updates": stats.skipped,
            "tokens/trained": stats.tokens,
            "time/rollout": times.rollout,
            "time/credit": times.credit,
            "time/update": times.update,
            "time/total": times.rollout + times.credit + times.update,
        }
        record: TrainRecord = {**numbers, "alarms": self.alarms.check(numbers)}
        if columns:
            self.folder.write_episodes(iteration, columns)
        self._write(record)

    def evaluation(self, record: EvalRecord, rows: list[EpisodeRow]) -> None:
        """Write the record and the episodes of an evaluation."""
        if self.workers.first:
            self.folder.write_evaluation(record, rows)
            self._write(record)

    def finish(self) -> None:
        """Write the report and print where it is."""
        if self.workers.first:
            from empg.report.page import build_page

            report = build_page(self.folder)
            self.progress.finish(self.folder.read_metrics(), report, self.folder.recipe_values())

    def _write(self, record: AnyRecord) -> None:
        """Write a record, show it, and give its numbers to the loggers; on the first worker only."""
        if not self.workers.first:
            return
        self.folder.append_metrics(record)
        self.progress.record(record)
        if record["kind"] == "train" or record["kind"] == "eval":
            prefix = "" if record["kind"] == "train" else f"eval/{record['split']}/{record['decoding']}/"
            values = {key: value for key, value in record.items() if key != "iteration"}
            self._loggers.log(dict(_numbers(values, prefix)), record["iteration"])


def _numbers(values: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """Yield the numbers of a record; those inside a mapping, such as `by_type`, have its key before their own."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}/")
        elif isinstance(value, int | float):
            yield prefix + key, value


def resume_record(
    command: str,
    recipe: Recipe,
    iteration: int,
    changes: Mapping[str, tuple[object, object]],
    forked_from: str | None,
) -> ResumeRecord:
    """Return the record of a run that continues after `iteration` iterations; `changes` are (before, now) by key."""
    changed = {key: list(values) for key, values in changes.items()}
    return {
        "kind": "resume",
        "from_iteration": iteration,
        "changes": changed,
        "forked_from": forked_from,
        "command": command,
        **_provenance(recipe),
    }


def _provenance(recipe: Recipe) -> Provenance:
    return {
        "version": empg.__version__,
        "commit": commit(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "processor": processor(),
        "gpu": gpu_name(recipe.policy.device),
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
