"""The results of an iteration: one row per turn for the Parquet file, and the numbers of the metrics record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np

from empg.learner.assign import Assigned
from empg.learner.update import UpdateStats
from empg.record.fields import finite
from empg.record.records import CreditNumbers, EndShares, EpisodeRow, PolicyNumbers, RolloutNumbers
from empg.rollout.types import EndReason, Episode

Columns = dict[str, list[Any]]


def turn_columns(iteration: int, assigned: Assigned, *, token_entropies: bool = False) -> Columns:
    """Return one row per turn, in time order, with all terms of its credit; None for a step that is not counted.

    With `token_entropies`, a row also has the entropy of each of its tokens, rounded to 0.001 nats: the file then needs
    a third of the space.
    """
    counted, usable = assigned.counted.tolist(), assigned.finite.tolist()
    values = _intermediates(assigned)
    advantage = assigned.advantages.tolist()
    base, process_reward = assigned.base_advantages.tolist(), assigned.process_reward.tolist()
    signal = assigned.signal.tolist()
    rows: list[dict[str, Any]] = []
    for number, episode in enumerate(assigned.episodes):
        whole = {
            "iteration": iteration,
            "episode": number,
            "group": episode.group,
            "task_index": episode.task_index,
            "task_id": episode.task_id,
            "task_type": episode.task_type,
            "split": episode.split,
            "task": episode.task,
            "success": episode.success,
            "score": episode.score,
            "end": episode.end.value,
        }
        for index, turn in enumerate(episode.turns):
            step = len(rows)
            rows.append(
                {
                    **whole,
                    "turn": index,
                    "observation": turn.observation,
                    "text": turn.text,
                    "action_ids": turn.action_ids,
                    "token_entropies": [round(e, 3) for e in turn.entropies] if token_entropies else None,
                    "thought": turn.thought,
                    "action": turn.action,
                    "valid": turn.valid,
                    "rejected": turn.rejected,
                    "reward": turn.reward,
                    "process_reward": process_reward[step],
                    "entropy": finite(turn.entropy) if turn.action_ids else None,
                    "action_entropy": finite(turn.action_entropy) if turn.action_ids else None,
                    **{name: column[step] for name, column in values.items()},
                    "advantage_outcome": base[step],
                    "advantage": advantage[step] if counted[step] else None,
                    "num_prompt_tokens": len(turn.prompt_ids),
                    "num_action_tokens": len(turn.action_ids),
                    "dropped": signal[number] and not usable[step],
                }
            )
    names = rows[0].keys() if rows else ()
    return {name: [row[name] for row in rows] for name in names}


def _intermediates(assigned: Assigned) -> Columns:
    """Return what the modulation has computed on the way to the advantage; None for a step that is not counted."""
    counted = assigned.counted.tolist()
    values: dict[str, list[Any]] = {}
    for name, key in (
        ("entropy_normalised", "normalised_entropy"),
        ("scale", "scale"),
        ("clarity", "clarity"),
        ("advantage_modulated", "modulated"),
    ):
        found = getattr(assigned.credit, key)
        if found is None:  # the rule has no such intermediate
            continue
        numbers = iter(found.tolist())
        values[name] = [next(numbers) if c else None for c in counted]
    return values


def join_columns(shares: Sequence[Columns]) -> Columns:
    """Concatenate the rows of all workers and number their episodes consecutively."""
    joined: Columns = {}
    episodes = 0
    for share in shares:
        if not share:
            continue
        numbers = share["episode"]
        for name, column in share.items():
            moved = [n + episodes for n in numbers] if name == "episode" else column
            joined.setdefault(name, []).extend(moved)
        episodes += max(numbers) + 1
    return joined


def episode_rows(episodes: Sequence[Episode]) -> list[EpisodeRow]:
    """Return one row per episode, for the file of an evaluation and for the numbers of a rollout."""
    return [
        {
            "task_id": e.task_id,
            "task_index": e.task_index,
            "task_type": e.task_type,
            "success": e.success,
            "score": e.score,
            "metrics": e.metrics,
            "reward": e.reward,
            "turns": len(e.turns),
            "action_tokens": e.num_action_tokens,
            "tokens": e.num_action_tokens + sum(len(t.prompt_ids) for t in e.turns),
            "valid_turns": sum(t.valid for t in e.turns),
            "failed_turns": sum(bool(t.failure) for t in e.turns),
            "end": e.end.value,
        }
        for e in episodes
    ]


def rollout_numbers(rows: Sequence[EpisodeRow]) -> RolloutNumbers:
    """Return the numbers of the rollout of an iteration."""
    played = [r for r in rows if r["end"] != EndReason.ENV_ERROR.value]
    turns = sum(r["turns"] for r in played)
    ends = Counter(r["end"] for r in rows)

    def mean(values: Iterable[float]) -> float:
        return sum(map(float, values)) / max(1, len(played))

    return {
        "rollout/episodes": len(rows),
        "rollout/success": mean(r["success"] for r in played),
        "rollout/reward": mean(r["reward"] for r in played),
        "rollout/score": mean(r["score"] for r in played),
        "rollout/turns": turns / max(1, len(played)),
        "rollout/turn_tokens": sum(r["action_tokens"] for r in played) / max(1, turns),
        "rollout/episode_tokens": mean(r["tokens"] for r in played),
        "rollout/valid_actions": sum(r["valid_turns"] for r in played) / max(1, turns),
        "rollout/failed_turns": sum(r["failed_turns"] for r in played) / max(1, turns),
        "tokens/sampled": sum(r["action_tokens"] for r in rows),
        **cast(EndShares, {f"rollout/end/{e.value}": ends[e.value] / max(1, len(rows)) for e in EndReason}),
    }


def credit_numbers(columns: Columns) -> CreditNumbers:
    """Return the gauges of the method: step entropy (nats) and the spread of the credit."""
    numbers: CreditNumbers = {}
    entropy = _present(columns.get("entropy"))
    if len(entropy):
        low, p05, p50, p95, high = np.quantile(entropy, [0.0, 0.05, 0.5, 0.95, 1.0])
        numbers["entropy/step_mean"] = float(entropy.mean())
        numbers["entropy/step_min"] = float(low)
        numbers["entropy/step_p05"] = float(p05)
        numbers["entropy/step_p50"] = float(p50)
        numbers["entropy/step_p95"] = float(p95)
        numbers["entropy/step_max"] = float(high)
    scale, clarity = _present(columns.get("scale")), _present(columns.get("clarity"))
    if len(scale):
        numbers["credit/scale_min"] = float(scale.min())
        numbers["credit/scale_max"] = float(scale.max())
        numbers["credit/scale_std"] = float(scale.std())
    if len(clarity):
        numbers["credit/clarity_mean"] = float(clarity.mean())
    advantage = _present(columns.get("advantage"))
    if len(advantage):
        numbers["credit/advantage_abs_mean"] = float(np.abs(advantage).mean())
    return numbers


def policy_numbers(stats: UpdateStats) -> PolicyNumbers:
    """Return the numbers of the update: each statistic of the loss under its own name, then those of the optimizer."""
    numbers = {f"policy/{name}": value for name, value in stats.loss.items()}
    numbers |= {"policy/grad_norm": stats.grad_norm, "policy/lr": stats.lr, "policy/mismatch": stats.mismatch}
    return cast(PolicyNumbers, numbers)


def _present(column: list[Any] | None) -> np.ndarray:
    return np.array([v for v in column or () if v is not None], dtype=np.float64)
