"""The records of `metrics.jsonl`, one type per `kind`, with all their fields.

docs/runs.md says what each field means. Units: entropies and KL in nats, times in seconds, rates and shares from 0 to
1. The types say what is written. In a record that was read back, a number that was not finite is None, and a run of an
earlier version may lack a field; `fields.py` says which of them readers require.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypedDict, cast

Record = dict[str, Any]
"""A line of `metrics.jsonl` as it was read, of any kind."""


class Provenance(TypedDict):
    """What wrote the records that follow, and since when."""

    version: str
    commit: str
    python: str
    torch: str
    processor: str
    gpu: str
    started: str


class RunRecord(Provenance):
    """Written once, when a run begins."""

    kind: Literal["run"]
    command: str
    seed: int


class ResumeRecord(Provenance):
    """Written each time a run continues from a checkpoint."""

    kind: Literal["resume"]
    from_iteration: int
    changes: dict[str, list[Any]]
    forked_from: str | None
    command: str


class WarmStartRecord(TypedDict):
    """Written once per optimizer step of a warm start."""

    kind: Literal["warm_start"]
    step: int
    steps: int
    loss: float
    token_accuracy: float
    lr: float
    time: float


EndShares = TypedDict(
    "EndShares",
    {
        "rollout/end/won": float,
        "rollout/end/lost": float,
        "rollout/end/step_limit": float,
        "rollout/end/token_limit": float,
        "rollout/end/malformed": float,
        "rollout/end/env_error": float,
    },
)
"""The share of the episodes that ended for each `EndReason`."""

_Rollout = TypedDict(
    "_Rollout",
    {
        "rollout/episodes": int,
        "rollout/success": float,
        "rollout/reward": float,
        "rollout/score": float,
        "rollout/turns": float,
        "rollout/turn_tokens": float,
        "rollout/episode_tokens": float,
        "rollout/valid_actions": float,
        "rollout/failed_turns": float,
        "tokens/sampled": int,
    },
)


class RolloutNumbers(_Rollout, EndShares):
    """The rollout of one iteration."""


CreditNumbers = TypedDict(
    "CreditNumbers",
    {
        "entropy/step_mean": float,
        "entropy/step_min": float,
        "entropy/step_p05": float,
        "entropy/step_p50": float,
        "entropy/step_p95": float,
        "entropy/step_max": float,
        "credit/scale_min": float,
        "credit/scale_max": float,
        "credit/scale_std": float,
        "credit/clarity_mean": float,
        "credit/advantage_abs_mean": float,
    },
    total=False,
)
"""Step entropies and credit of one iteration; a number that has no step to be taken over is absent."""

PolicyNumbers = TypedDict(
    "PolicyNumbers",
    {
        "policy/loss": float,
        "policy/surrogate": float,
        "policy/entropy": float,
        "policy/kl_old": float,
        "policy/kl_reference": float,
        "policy/clip_low": float,
        "policy/clip_high": float,
        "policy/dual_clip": float,
        "policy/max_ratio": float,
        "policy/grad_norm": float,
        "policy/lr": float,
        "policy/mismatch": float,
    },
)
"""The update of one iteration. A field of `LossStats` is written as `policy/<field>` whether it is listed or not."""

_Update = TypedDict(
    "_Update",
    {
        "rollout/groups": int,
        "credit/zero_variance_groups": float,
        "guard/dropped_steps": int,
        "guard/skipped_updates": int,
        "tokens/trained": int,
        "time/rollout": float,
        "time/credit": float,
        "time/update": float,
        "time/total": float,
    },
)


class TrainNumbers(RolloutNumbers, CreditNumbers, PolicyNumbers, _Update):
    """Everything about one iteration except its alarms, which are derived from it."""

    kind: Literal["train"]
    iteration: int


class TrainRecord(TrainNumbers):
    """Written once per iteration."""

    alarms: list[str]


class SuccessNumbers(TypedDict):
    """A success rate with its 95% Wilson interval."""

    n: int
    successes: int
    success: float
    low: float
    high: float


class EvalRecord(SuccessNumbers):
    """Written once per evaluation of a panel."""

    kind: Literal["eval"]
    iteration: int
    split: str
    decoding: str
    temperature: float
    panel: str
    panel_sha256: str
    score: float
    metrics: dict[str, float]
    turns: float
    failed_turns: int
    env_errors: int
    by_type: dict[str, SuccessNumbers]
    time: float


class EpisodeRow(TypedDict):
    """One episode: a row of `evaluations/*.parquet`, and what the numbers of a rollout are computed from."""

    task_id: str
    task_index: int
    task_type: str
    success: bool
    score: float
    metrics: dict[str, float]
    reward: float
    turns: int
    action_tokens: int
    tokens: int
    valid_turns: int
    failed_turns: int
    end: str


AnyRecord = RunRecord | ResumeRecord | WarmStartRecord | TrainRecord | EvalRecord


def train_records(records: Iterable[Record]) -> list[TrainRecord]:
    """Return the records of iterations."""
    return [cast(TrainRecord, record) for record in records if record.get("kind") == "train"]


def eval_records(records: Iterable[Mapping[str, Any]]) -> list[EvalRecord]:
    """Return the records of evaluations."""
    return [cast(EvalRecord, record) for record in records if record.get("kind") == "eval"]


def own_evaluations(records: Iterable[Mapping[str, Any]], recipe: Mapping[str, Any] | None = None) -> list[EvalRecord]:
    """Return the evaluations with the settings of the run itself, of several at one iteration the newest.

    `empg evaluate` may have added others. With the recipe of the run (`RunFolder.recipe_values`), its own evaluations
    are those at the temperature of the recipe, on the largest panel of each split that has at most
    `evaluation.episodes` tasks. Without a recipe, or if panels are equally large, they are those with the most frequent
    panel and temperature; if these are equally frequent, those that came first.
    """
    found = eval_records(records)
    planned = _planned(recipe)
    if planned is not None:
        found = [r for r in found if r["n"] <= planned[1] and _is_at(planned[0], r)]
    settings = Counter(map(_settings, found))  # in the order of their first evaluation, which `max` prefers
    tasks = {_settings(r): r["n"] if planned else 0 for r in found}
    own: dict[tuple[str, ...], tuple[str, ...]] = {}
    for place in dict.fromkeys(s[:2] for s in settings):
        own[place] = max((s for s in settings if s[:2] == place), key=lambda s: (tasks[s], settings[s]))
    latest = {(_settings(r), str(r.get("iteration"))): r for r in found}
    return [r for (chosen, _), r in latest.items() if own[chosen[:2]] == chosen]


def _planned(recipe: Mapping[str, Any] | None) -> tuple[float, int] | None:
    """Return the temperature and the tasks per panel of a recipe; None if it does not have them."""
    evaluation = (recipe or {}).get("evaluation")
    if not isinstance(evaluation, dict):
        return None
    temperature, episodes = evaluation.get("temperature"), evaluation.get("episodes")
    if not isinstance(temperature, int | float) or not isinstance(episodes, int):
        return None
    return temperature, episodes


def _is_at(temperature: float, record: EvalRecord) -> bool:
    wanted = 0.0 if record["decoding"] == "greedy" else temperature
    return record.get("temperature", wanted) == wanted  # a run of an earlier version may lack it


def _settings(record: EvalRecord) -> tuple[str, ...]:
    return tuple(str(record.get(key)) for key in ("split", "decoding", "panel_sha256", "temperature"))


def warm_start_records(records: Iterable[Record]) -> list[WarmStartRecord]:
    """Return the records of a warm start."""
    return [cast(WarmStartRecord, record) for record in records if record.get("kind") == "warm_start"]
