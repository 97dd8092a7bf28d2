"""Success on a whole panel, with its interval."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from empg.environments.panels import Panel, make_panel
from empg.learner.columns import episode_rows
from empg.learner.workers import Workers
from empg.policy.model import Policy
from empg.recipe import Recipe
from empg.report.statistics import wilson_interval
from empg.rollout.collector import Request
from empg.rollout.worlds import make_environment
from empg.session import EVALUATION_KEY, play


def panel_of(recipe: Recipe, split: str) -> Panel:
    """The recipe's panel for a split: the same tasks, in the same order, for every policy."""
    return make_panel(make_environment(recipe.environment, split), recipe.evaluation.episodes, name=f"{recipe.environment.id}-{split}")


def evaluate_policy(
    recipe: Recipe,
    policy: Policy,
    split: str,
    decoding: str,
    iteration: int,
    workers: Workers,
    done: Callable[[int], None] | None = None,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Play a whole panel once; returns the metrics record and one row per episode, on every worker alike.

    Sampling is keyed by the task's place in the panel, so two policies meet the same tasks with the same dice.
    """
    began = time.perf_counter()
    panel = panel_of(recipe, split)
    requests = [
        Request(task, group, (recipe.seed, EVALUATION_KEY, group)) for group, task in enumerate(panel.tasks)
    ]
    policy.model.eval()
    episodes = play(
        recipe, policy, split, requests, workers,
        greedy=decoding == "greedy", temperature=recipe.evaluation.temperature, done=done,
    )
    shares = workers.gather([(e.group, row) for e, row in zip(episodes, episode_rows(episodes), strict=True)])
    rows = [row for _, row in sorted((item for share in shares for item in share), key=lambda item: item[0])]
    record = {
        "kind": "eval", "iteration": iteration, "split": split, "decoding": decoding,
        "temperature": recipe.evaluation.temperature if decoding == "sampled" else 0.0,
        "panel": panel.name, "panel_sha256": panel.sha256, **_success(rows),
        "score": sum(r["score"] for r in rows) / len(rows), "turns": sum(r["turns"] for r in rows) / len(rows),
        "by_type": {
            kind: _success([r for r in rows if r["task_type"] == kind]) for kind in sorted({r["task_type"] for r in rows})
        },
        "time": time.perf_counter() - began,
    }
    return record, rows


def _success(rows: list[dict[str, Any]]) -> dict[str, Any]:
    wins = sum(bool(r["success"]) for r in rows)
    low, high = wilson_interval(wins, len(rows))
    return {"n": len(rows), "successes": wins, "success": wins / len(rows), "low": low, "high": high}
