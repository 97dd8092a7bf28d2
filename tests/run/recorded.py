"""Recorded episodes of made-up groups, for the tests of the worth of actions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from empg.record.loading import LoadedRun
from empg.record.runfolder import RunFolder
from empg.run.worth import RecordedSteps, recorded_steps


def turns(*episodes: tuple[str, bool], group: int = 0, iteration: int = 1, start: int = 0) -> list[dict[str, Any]]:
    """Steps of episodes of one group: the letters are actions, and an observation is the number of steps before it."""
    return [
        {
            "iteration": iteration,
            "episode": start + number,
            "group": group,
            "task_index": 0,
            "task_id": "t",
            "task_type": "k",
            "split": "train",
            "turn": turn,
            "observation": str(turn),
            "text": action,
            "action": action,
            "reward": float(won and turn == len(actions) - 1),
            "process_reward": 0.0,
            "entropy": 0.5,
            "action_entropy": 0.5,
            "advantage_outcome": 1.0 if won else -1.0,
            "advantage": 1.0 if won else -1.0,
            "num_prompt_tokens": 10,
            "num_action_tokens": 5,
            "success": won,
            "end": "won" if won else "lost",
        }
        for number, (actions, won) in enumerate(episodes)
        for turn, action in enumerate(actions)
    ]


@pytest.fixture
def written(make_run: Callable[..., RunFolder]) -> Callable[..., RunFolder]:
    """A function that writes a run with these steps."""

    def write(*rows: dict[str, Any], name: str = "run") -> RunFolder:
        run = make_run(name, iterations=4, keep_episodes=())
        for iteration in sorted({row["iteration"] for row in rows}):
            of_it = [row for row in rows if row["iteration"] == iteration]
            run.write_episodes(iteration, {column: [row[column] for row in of_it] for column in of_it[0]})
        return run

    return write


Written = Callable[..., RunFolder]
BRANCHES = turns(("ax", True), ("ay", True), ("b", False), ("bz", True))


def steps_of(run: RunFolder, iteration: int = 1, **recipe: Any) -> RecordedSteps:
    found = recorded_steps(LoadedRun(run).steps_of(iteration), recipe)
    assert found is not None
    return found
