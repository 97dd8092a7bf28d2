"""Evaluate a policy on whole panels."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from empg.environments.panels import Panel, make_panel
from empg.errors import UserError
from empg.learner.checkpoint import CheckpointError, Checkpoints
from empg.policy.model import Policy
from empg.recipe import Recipe
from empg.record.records import EpisodeRow, EvalRecord, SuccessNumbers, eval_records
from empg.record.runfolder import START, RunFolder
from empg.record.statistics import UNKNOWN, wilson_interval
from empg.rollout.collector import Request
from empg.rollout.types import EndReason
from empg.run.build import build_policy, play
from empg.run.columns import episode_rows
from empg.run.display import Stage
from empg.run.recipe import recipe_of
from empg.system.random_keys import Use, random_key
from empg.system.signals import StopRequested
from empg.system.workers import Workers


def panel_of(recipe: Recipe, split: str) -> Panel:
    """Return the recipe's panel of a split: the same tasks, in the same order, for every policy."""
    with closing(recipe.environment.make(split)) as environment:
        return make_panel(environment, recipe.evaluation.episodes, name=f"{recipe.environment.id}-{split}")


def panel_requests(panel: Panel) -> list[Request]:
    """Return the episodes of a panel. The place in it keys the sampling, so every policy gets the same numbers."""
    return [Request(task, place, random_key(Use.EVALUATION, place)) for place, task in enumerate(panel.tasks)]


def recorded_temperature(recipe: Recipe, decoding: str) -> float:
    """Return the temperature that the record of an evaluation has; 0 for greedy decoding."""
    return recipe.evaluation.temperature if decoding == "sampled" else 0.0


def pending_panels(recipe: Recipe, records: Iterable[Mapping[str, Any]], iteration: int) -> list[tuple[str, str]]:
    """Return the split and decoding of each evaluation of an iteration that the records of a run do not have.

    A run that was stopped between two evaluations has the first. One of other tasks or at another temperature does not
    count.
    """
    evaluated = [r for r in eval_records(records) if r["iteration"] == iteration]

    def has_record(split: str, decoding: str) -> bool:
        wanted = (split, decoding, recorded_temperature(recipe, decoding))
        same = [r for r in evaluated if (r["split"], r["decoding"], r.get("temperature")) == wanted]
        return bool(same) and panel_of(recipe, split).sha256 in {r["panel_sha256"] for r in same}

    panels = [(split, decoding) for split in recipe.evaluation.panels for decoding in recipe.evaluation.decoding]
    return [panel for panel in panels if not has_record(*panel)]


def evaluated_splits(recipe: Recipe, run: Path) -> list[str]:
    """Return the splits that the recipe of a run evaluates; at least one.

    Raises:
        UserError: it evaluates none.
    """
    if not recipe.evaluation.panels:
        raise UserError(f"{run}: evaluation.splits of its recipe is empty: expected a split. Choose one with --split")
    return recipe.evaluation.panels


def evaluate_policy(
    recipe: Recipe,
    policy: Policy,
    panel: Panel,
    *,
    decoding: str,
    iteration: int,
    workers: Workers,
    done: Callable[[int], None] | None = None,
) -> tuple[EvalRecord, list[EpisodeRow]]:
    """Play a whole panel once; return the metrics record and one row per episode, the same on every worker.

    Raises:
        StopRequested: `done` raised it on some worker; now every worker raises it.
    """
    began = time.perf_counter()
    share = panel_requests(panel)[workers.rank :: workers.size]
    policy.model.eval()
    played: list[tuple[int, EpisodeRow]] | None = None
    with suppress(StopRequested):
        episodes = play(
            recipe,
            policy,
            panel.split,
            share,
            greedy=decoding == "greedy",
            temperature=recipe.evaluation.temperature,
            done=done,
        )
        played = [(e.group, row) for e, row in zip(episodes, episode_rows(episodes), strict=True)]
    shares = workers.gather(played)
    if any(share is None for share in shares):
        raise StopRequested
    rows = [row for _, row in sorted((item for share in shares for item in share), key=lambda item: item[0])]
    seconds = time.perf_counter() - began
    return summarise(recipe, panel, rows, decoding=decoding, iteration=iteration, seconds=seconds), rows


def summarise(
    recipe: Recipe, panel: Panel, rows: list[EpisodeRow], *, decoding: str, iteration: int, seconds: float
) -> EvalRecord:
    """Return the metrics record of a whole panel; `rows` are its episodes, in the panel's order."""
    kinds = sorted({row["task_type"] or UNKNOWN for row in rows})
    return {
        "kind": "eval",
        "iteration": iteration,
        "split": panel.split,
        "decoding": decoding,
        "temperature": recorded_temperature(recipe, decoding),
        "panel": panel.name,
        "panel_sha256": panel.sha256,
        **_success(rows),
        "score": sum(r["score"] for r in rows) / len(rows),
        "metrics": _means([r["metrics"] for r in rows]),
        "turns": sum(r["turns"] for r in rows) / len(rows),
        "failed_turns": sum(r["failed_turns"] for r in rows),
        "env_errors": sum(r["end"] == EndReason.ENV_ERROR.value for r in rows),
        "by_type": {kind: _success([r for r in rows if (r["task_type"] or UNKNOWN) == kind]) for kind in kinds},
        "time": seconds,
    }


def evaluate_run(
    run: Path,
    checkpoint: str | None = None,
    splits: Sequence[str] | None = None,
    episodes: int | None = None,
    decoding: str = "sampled",
    temperature: float | None = None,
    stage: Stage | None = None,
) -> list[EvalRecord]:
    """Evaluate a run's policy on panels and write the results into the run folder, where `compare` finds them.

    Args:
        run: the run folder.
        checkpoint: `iter-000040`, or `start` for the policy before reinforcement learning; None uses the latest.
        splits: splits to evaluate; None uses those of the recipe.
        episodes: tasks per panel; None uses the recipe's.
        decoding: `sampled` or `greedy`.
        temperature: sampling temperature; None uses the recipe's.
        stage: called with the name and the length of each panel; returns the function to call with the number of
            finished episodes.

    Raises:
        RunFolderError: the run does not exist, is damaged or cannot be written.
        CheckpointError: the checkpoint does not exist or is damaged.
        UserError: there is no split to evaluate or one is given twice, or the temperature is not finite, so that its
            record could not be read back.
    """
    if temperature is not None and not math.isfinite(temperature):
        raise UserError(f"temperature: expected a finite number, got {temperature}. Choose another --temperature")
    folder = RunFolder.open(run)
    recipe = recipe_of(folder)
    splits = splits or evaluated_splits(recipe, folder.path)
    if len(set(splits)) < len(splits):
        raise UserError(f"splits: expected each split once, got {', '.join(splits)}. Remove the repeated --split")
    changes = {"evaluation.episodes": episodes, "evaluation.temperature": temperature}
    recipe = recipe.replaced({key: value for key, value in changes.items() if value is not None})
    checkpoints = Checkpoints(folder.checkpoints)
    if checkpoint is None:
        checkpoint, problems = checkpoints.newest_intact()
        if checkpoint is None:
            raise CheckpointError("; ".join(problems) or f"{folder.checkpoints} does not contain a checkpoint yet")
    checkpoints.require(checkpoint)
    state = checkpoints.verify(checkpoint)
    folder.require_evaluable()
    policy = build_policy(recipe, folder.checkpoints / checkpoint)
    records = []
    for split in splits:
        panel = panel_of(recipe, split)
        done = stage(f"evaluate {split} ({decoding})", len(panel.tasks)) if stage is not None else None
        iteration = 0 if checkpoint == START else state["iteration"]
        record, rows = evaluate_policy(
            recipe, policy, panel, decoding=decoding, iteration=iteration, workers=Workers(), done=done
        )
        folder.write_evaluation(record, rows)
        folder.append_metrics(record)
        records.append(record)
    return records


def _means(measured: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each metric over all episodes; one without it (it ended before a turn) counts as 0."""
    names = dict.fromkeys(name for metrics in measured for name in metrics)
    return {name: sum(metrics.get(name, 0.0) for metrics in measured) / len(measured) for name in names}


def _success(rows: list[EpisodeRow]) -> SuccessNumbers:
    wins = sum(bool(r["success"]) for r in rows)
    low, high = wilson_interval(wins, len(rows))
    return {"n": len(rows), "successes": wins, "success": wins / len(rows), "low": low, "high": high}
