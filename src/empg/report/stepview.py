"""The step view of the page: a few episodes with what was read and written, and the credit of each step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from empg.record.fields import finite
from empg.record.loading import LoadedRun, grouped
from empg.record.runfolder import RunFolder
from empg.report.markup import extent, short
from empg.report.turns import Row, end_name, shown_turn

MAX_TEXT = 1_200  # characters of an observation, thought or action that the page shows
WINS, LOSSES = 3, 3  # episodes of an iteration that the page shows

_NUMBERS = {
    "entropy": "entropy", "scale": "g", "clarity": "f", "advantage": "advantage", "reward": "reward",
    "process_reward": "process",
}  # fmt: skip


def step_view(run: RunFolder) -> list[dict[str, Any]]:
    """Return a few episodes of the last, the first and a middle iteration, in this order, as plain data.

    If the file of an iteration cannot be read or has wrong columns, `problem` has the reason.
    """
    kept = run.episode_iterations()
    chosen = list(dict.fromkeys([kept[-1], kept[0], kept[len(kept) // 2]])) if kept else []
    return [_iteration(run, iteration) for iteration in chosen]


def _iteration(run: RunFolder, iteration: int) -> dict[str, Any]:
    loaded = LoadedRun(run)
    episodes = grouped(loaded.steps_of(iteration).to_pylist())
    if loaded.problems:
        return {"iteration": iteration, "problem": "; ".join(loaded.problems), "episodes": [], "total": 0}
    shown = [_episode(turns) for turns in handful(episodes)]
    turns = [turn for episode in shown for turn in episode["turns"]]
    return {
        "iteration": iteration,
        "total": len(episodes),
        # The bars of one iteration share a scale, so that its episodes can be compared.
        "largest": {
            "entropy": _largest([t["entropy"] for t in turns]),
            "advantage": _largest([t["advantage"] for t in turns]),
            "scaling": _largest([t["g"] - 1 for t in turns if t["g"] is not None]),
        },
        "episodes": shown,
    }


def handful(episodes: Sequence[list[Row]]) -> list[list[Row]]:
    """Choose up to three successful and three failed episodes, preferably of one task: the most even group first."""
    groups: dict[int, list[list[Row]]] = {}
    for turns in episodes:
        groups.setdefault(turns[0]["group"], []).append(turns)

    def unevenness(group: list[list[Row]]) -> float:
        return abs(sum(bool(turns[0]["success"]) for turns in group) / len(group) - 0.5)

    ordered = [turns for group in sorted(groups.values(), key=unevenness) for turns in group]
    won = [turns for turns in ordered if turns[0]["success"]]
    lost = [turns for turns in ordered if not turns[0]["success"]]
    shown = [*won[: max(WINS, WINS + LOSSES - len(lost))], *lost[: max(LOSSES, WINS + LOSSES - len(won))]]
    return sorted(shown, key=ordered.index)


def _episode(turns: list[Row]) -> dict[str, Any]:
    first = turns[0]
    return {
        "task": short(first["task"] or first["task_id"], MAX_TEXT),
        "type": first["task_type"],
        "id": first["task_id"],
        "episode": first["episode"],
        "group": first["group"],
        "won": bool(first["success"]),
        "end": end_name(first["end"]),
        "score": _rounded(first["score"]),
        "outcome": [_rounded(end) for end in extent(turn["advantage_outcome"] for turn in turns)],
        "turns": [
            {
                **shown_turn(turn, MAX_TEXT),
                **{symbol: _rounded(turn[name]) for name, symbol in _NUMBERS.items()},
            }
            for turn in turns
        ],
    }


def _largest(values: Sequence[float | None]) -> float:
    return max((abs(v) for v in values if v is not None), default=0.0)


def _rounded(value: float | None) -> float | None:
    number = finite(value)
    return None if number is None else round(number, 6)
