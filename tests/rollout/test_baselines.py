"""The expert and the random policy on a panel of each environment."""

from __future__ import annotations

import pytest

from empg.environments.registry import make
from empg.errors import UserError
from empg.rollout.baselines import expert_episode, random_episode
from empg.rollout.types import EndReason
from tests.lamps import Lamps

ENVIRONMENTS = [
    ("alfworld", "valid_seen", {"rooms": "small"}),
    ("webshop", "dev", {"products": 200}),
    ("deepsearch", "valid_id", {}),
]


@pytest.mark.parametrize(("id_", "split", "options"), ENVIRONMENTS)
def test_the_expert_wins_and_the_random_policy_is_repeatable(id_: str, split: str, options: dict[str, object]) -> None:
    environment = make(id_, split, options)
    for task in range(3):
        best = expert_episode(environment, task, place=task)
        assert (best.success, best.score, best.end) == (True, 1.0, EndReason.WON)
        drawn = random_episode(environment, task, place=task)
        assert drawn == random_episode(environment, task, place=task)
        assert (drawn.task_id, drawn.task_index, drawn.split) == (best.task_id, task, split)
        assert drawn.turns != random_episode(environment, task, place=task + 1).turns
        assert not any(turn.action in ("search[<your query>]", "answer[<your answer>]") for turn in drawn.turns)


def test_an_environment_without_an_expert_or_a_list_of_commands() -> None:
    class Silent(Lamps):
        def _info(self, *, won: bool, valid: bool):
            return {**super()._info(won=won, valid=valid), "admissible": None}

        def expert(self):
            raise UserError("no expert")

    with pytest.raises(UserError, match="no expert"):
        expert_episode(Silent("press:1"), 0, 0)
    with pytest.raises(UserError, match="does not list its commands"):
        random_episode(Silent("press:1"), 0, 0)
