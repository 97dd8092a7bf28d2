"""The expert and the random policy on a panel of each environment."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from empg.environments.base import Info
from empg.environments.registry import make
from empg.errors import UserError
from empg.recipe import AgentSection
from empg.rollout.baselines import NoBaselineError, expert_episode, random_episode
from empg.rollout.types import EndReason, Episode
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

    with pytest.raises(NoBaselineError, match="no expert"):
        expert_episode(Silent("press:1"), 0, 0)
    with pytest.raises(NoBaselineError, match="does not list its commands"):
        random_episode(Silent("press:1"), 0, 0)


@pytest.mark.parametrize("play", [expert_episode, random_episode])
@pytest.mark.parametrize("turn", [0, 1])
def test_an_environment_that_raises_ends_its_episode(play: Callable[..., Episode], turn: int) -> None:
    episode = play(Lamps(f"raise:{turn}"), 0, 0)
    assert (episode.end, episode.success) == (EndReason.ENV_ERROR, False)
    assert episode.error == f"RuntimeError: the lamps went out at turn {turn}"


def test_a_turn_keeps_what_the_environment_answered() -> None:
    class Failing(Lamps):
        def _info(self, *, won: bool, valid: bool) -> Info:
            info = super()._info(won=won, valid=valid)
            return {**info, "progress": 0.5, "process_reward": 0.25, "failure": "the judge is out", "valid": False}

    episode = expert_episode(Failing("win:1"), 0, 0)
    [turn] = episode.turns
    assert (episode.progress, turn.progress, turn.process_reward) == (0.5, 0.5, 0.25)
    assert (turn.failure, turn.rejected, turn.valid) == ("the judge is out", True, False)


def test_a_random_policy_without_a_command_writes_malformed_turns() -> None:
    class Silenced(Lamps):
        def _commands(self) -> list[str]:
            return [] if self.turns else super()._commands()

    episode = random_episode(Silenced("endless", max_steps=20), 0, 0)
    assert episode.end is EndReason.MALFORMED
    assert [turn.action for turn in episode.turns[1:]] == [""] * AgentSection().max_malformed_turns
