"""A run as tidy tables: one row per iteration, evaluation, episode, step or token, as pyarrow tables.

`pyarrow.Table.to_pandas()` and `polars.from_arrow` make frames of them. The columns keep the names and descriptions of
the files, which docs/runs.md explains.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from empg.errors import message_of
from empg.record.fields import finite_ones, is_number
from empg.record.records import Record, eval_records, train_records
from empg.record.runfolder import RunFolder
from empg.record.tables import EPISODES, TableError

_OF_EPISODE = ("group", "task_index", "task_id", "task_type", "split", "task", "success", "score", "end")
_EVALUATION = pa.schema(
    [
        ("iteration", pa.int64()),
        *((name, pa.string()) for name in ("split", "decoding")),
        ("temperature", pa.float64()),
        *((name, pa.string()) for name in ("panel", "panel_sha256", "task_type")),
        *((name, pa.int64()) for name in ("n", "successes")),
        *((name, pa.float64()) for name in ("success", "low", "high")),
    ]
)


@dataclass(frozen=True)
class LoadedRun:
    """The tables of a run; each is read from the files when it is used first.

    Attributes:
        folder: the run.
        problems: what could not be read, in words, as far as tables have been used; empty if the files are complete.
    """

    folder: RunFolder
    problems: list[str] = field(default_factory=list)

    @cached_property
    def metrics(self) -> pa.Table:
        """One row per iteration with every number of the `train` records; null where a record lacks a field."""
        records = train_records(self._records)
        names = dict.fromkeys(key for record in records for key in record if key not in ("kind", "alarms", "nonfinite"))
        return pa.table({name: _numbers(records, name) for name in names})

    @cached_property
    def evaluations(self) -> pa.Table:
        """One row per evaluation and task type; the row of all types together has the task type null."""
        rows = []
        for record in eval_records(self._records):
            rows.append({**record, "task_type": None})
            rows += [{**record, **rate, "task_type": name} for name, rate in record.get("by_type", {}).items()]
        return pa.table([[_storable(row.get(f.name)) for row in rows] for f in _EVALUATION], schema=_EVALUATION)

    @cached_property
    def steps(self) -> pa.Table:
        """One row per step of the kept episodes of all iterations, in time order; the columns of `tables.EPISODES`."""
        return pa.concat_tables(
            [self.steps_of(i) for i in self.folder.episode_iterations()] or [EPISODES.empty_table()]
        )

    def steps_of(self, iteration: int) -> pa.Table:
        """Return the steps of one iteration; none if its file is missing or damaged, and `problems` says why."""
        try:
            columns = self.folder.read_episodes(iteration)
        except TableError as error:
            self._note(str(error))
            return EPISODES.empty_table()
        try:
            found = pa.table([columns.get(f.name, [None] * len(columns["turn"])) for f in EPISODES], schema=EPISODES)
            found.validate(full=True)
            if missing := [f.name for f in EPISODES if not f.nullable and found[f.name].null_count]:
                raise TypeError(f"{missing[0]}: expected a value in each row")
            return found
        except (pa.ArrowException, KeyError, TypeError, ValueError, OverflowError) as error:
            self._note(f"{self.folder.episodes_path(iteration)} has wrong columns: {message_of(error)}")
            return EPISODES.empty_table()

    @cached_property
    def episodes(self) -> pa.Table:
        """One row per kept episode; see `episodes_of`."""
        return episodes_of(self.steps)

    @cached_property
    def tokens(self) -> pa.Table:
        """One row per sampled token: its place, its id and, if the run recorded it, its entropy in nats."""
        return tokens_of(self.steps)

    @cached_property
    def _records(self) -> list[Record]:
        records, problems = self.folder.read_metrics_and_problems()
        for problem in problems:
            self._note(problem)
        return records

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)


def load(run: str | Path | RunFolder) -> LoadedRun:
    """Open a run for analysis.

    Args:
        run: the folder of a run, also while it trains.

    Raises:
        RunFolderError: it is not a run folder; later, when `metrics` is used: a record is damaged.
    """
    return LoadedRun(run if isinstance(run, RunFolder) else RunFolder.open(run))


def episodes_of(steps: pa.Table) -> pa.Table:
    """Return one row per episode of a table of steps, in the same order.

    `turns` counts steps, `invalid_turns` those that are not valid, `reward` is the sum of the environment's rewards,
    `tokens` of the written tokens. `entropy` is the mean step entropy in nats. `advantage_outcome` is that of the first
    step; `advantage_outcome_min` and `advantage_outcome_max` are those of all steps. `spread` is the largest minus the
    smallest final advantage, and `largest` the largest absolute one; both are null if no step counts.
    """
    rows: list[dict[str, Any]] = []
    for turns in grouped(steps.drop_columns(["observation", "text", "thought", "action_ids"]).to_pylist()):
        first = turns[0]
        advantages = finite_ones(t["advantage"] for t in turns)
        entropies = finite_ones(t["entropy"] for t in turns)
        bases = finite_ones(t["advantage_outcome"] for t in turns)
        rows.append(
            {
                "iteration": first["iteration"],
                "episode": first["episode"],
                **{name: first[name] for name in _OF_EPISODE},
                "turns": len(turns),
                "invalid_turns": sum(t["valid"] is False for t in turns),
                "reward": sum(finite_ones(t["reward"] for t in turns)),
                "tokens": sum(t["num_action_tokens"] or 0 for t in turns),
                "entropy": sum(entropies) / len(entropies) if entropies else None,
                "advantage_outcome": first["advantage_outcome"],
                "advantage_outcome_min": min(bases, default=None),
                "advantage_outcome_max": max(bases, default=None),
                "spread": max(advantages) - min(advantages) if advantages else None,
                "largest": max(map(abs, advantages)) if advantages else None,
            }
        )
    return pa.Table.from_pylist(rows, schema=_EPISODE)


def tokens_of(steps: pa.Table) -> pa.Table:
    """Return one row per token of a table of steps: its place (`position` counts in the step), id and entropy."""
    ids = steps["action_ids"].combine_chunks()
    parents = pc.list_parent_indices(ids)
    places = [i for row in ids for i in range(len(row.values) if row.is_valid else 0)]
    entropies = _entropies(steps, ids)
    columns = {name: steps[name].take(parents) for name in ("iteration", "episode", "turn")}
    return pa.table(
        {**columns, "position": pa.array(places, pa.int32()), "token_id": pc.list_flatten(ids), "entropy": entropies}
    )


def grouped(rows: Iterable[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Collect rows of steps by iteration and episode, in order of first appearance."""
    found: dict[tuple[int, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["iteration"], row["episode"]), []).append(row)
    return list(found.values())


def finished_before(iteration: int, recipe: Mapping[str, Any]) -> float:
    """Return the share of the iterations of a recipe that were finished when this one was credited; 0 if unknown."""
    planned = recipe.get("iterations")
    return min(1.0, (iteration - 1) / planned) if type(planned) is int and planned > 0 else 0.0


_EPISODE = pa.schema(
    [
        *(EPISODES.field(name) for name in ("iteration", "episode", *_OF_EPISODE)),
        *(pa.field(name, pa.int32()) for name in ("turns", "invalid_turns")),
        pa.field("reward", pa.float64()),
        pa.field("tokens", pa.int64()),
        *(pa.field(name, pa.float64()) for name in ("entropy", "advantage_outcome")),
        *(pa.field(f"advantage_outcome_{end}", pa.float64()) for end in ("min", "max")),
        *(pa.field(name, pa.float64()) for name in ("spread", "largest")),
    ]
)


def _entropies(steps: pa.Table, ids: pa.Array) -> pa.Array:
    """Return the recorded entropy of each token; null where the run recorded none, or not as many as tokens."""
    recorded = steps["token_entropies"].to_pylist() if "token_entropies" in steps.column_names else [None] * len(steps)
    values: list[float | None] = []
    for row, found in zip(ids, recorded, strict=True):
        size = len(row.values) if row.is_valid else 0
        values += found if found is not None and len(found) == size else [None] * size
    return pa.array(values, pa.float32())


def _numbers(records: Sequence[Mapping[str, Any]], name: str) -> pa.Array:
    """Return a column of numbers; what is not a number that fits it is null."""
    kept = [v if is_number(v) else None for v in (record.get(name) for record in records)]
    if all(type(v) is int for v in kept if v is not None):
        return pa.array(kept, pa.int64())
    return pa.array([None if v is None else float(v) for v in kept], pa.float64())


def _storable(value: Any) -> Any:
    """Return a value that Arrow can store: a lone surrogate, which UTF-8 cannot encode, is replaced."""
    return value.encode("utf-8", "replace").decode("utf-8") if isinstance(value, str) else value
