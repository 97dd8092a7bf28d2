"""The winning conditions of each task type."""

from __future__ import annotations

from dataclasses import replace

import pytest

from empg.environments.alfworld.progress import progress
from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.world import TaskType
from tests.environments.alfworld.rooms import bedroom, kitchen

WINS = {
    TaskType.PICK: [],
    TaskType.CLEAN: ["go to sinkbasin 1", "clean mug 1 with sinkbasin 1"],
    TaskType.HEAT: ["go to microwave 1", "heat mug 1 with microwave 1"],
    TaskType.COOL: ["go to fridge 1", "cool mug 1 with fridge 1"],
}
TAKE = ["go to countertop 1", "take mug 1 from countertop 1"]
PUT = ["go to cabinet 1", "open cabinet 1", "move mug 1 to cabinet 1"]


def _progress_after_each(game, commands: list[str]) -> list[float]:
    engine = Engine(game)
    state = engine.start()
    found = [progress(engine, state)]
    for command in commands:
        assert engine.step(state, command)[1], command
        found.append(progress(engine, state))
    return found


def _won_after_each(game, commands: list[str]) -> list[bool]:
    engine = Engine(game)
    state = engine.start()
    won = []
    for command in commands:
        assert engine.step(state, command)[1], command
        won.append(state.won)
    return won


@pytest.mark.parametrize("task_type", list(WINS))
def test_delivering_a_treated_mug_wins(task_type: TaskType):
    won = _won_after_each(kitchen(task_type), [*TAKE, *WINS[task_type], *PUT])
    assert won == [False] * (len(won) - 1) + [True]


@pytest.mark.parametrize("task_type", [TaskType.CLEAN, TaskType.HEAT, TaskType.COOL])
def test_delivering_an_untreated_mug_does_not_win(task_type: TaskType):
    assert not any(_won_after_each(kitchen(task_type), [*TAKE, *PUT]))


@pytest.mark.parametrize(
    ("task_type", "commands", "wanted"),
    [
        (TaskType.PICK, [*TAKE, *PUT], [0, 0, 1 / 2, 1 / 2, 1 / 2, 1]),
        (TaskType.CLEAN, [*TAKE, *WINS[TaskType.CLEAN], *PUT], [0, 0, 1 / 3, 1 / 3, 2 / 3, 2 / 3, 2 / 3, 1]),
        (TaskType.HEAT, [*TAKE, *PUT], [0, 0, 1 / 3, 1 / 3, 1 / 3, 0]),  # delivered untreated
        (
            TaskType.PICK_TWO,
            [
                *TAKE,
                *PUT,
                "go to sinkbasin 1",
                "take mug 2 from sinkbasin 1",
                "go to cabinet 1",
                PUT[2].replace("1", "2", 1),
            ],
            [0, 0, 1 / 4, 1 / 4, 1 / 4, 2 / 4, 2 / 4, 3 / 4, 3 / 4, 1],
        ),
    ],
)
def test_progress_is_the_share_of_the_subgoals_that_hold(task_type: TaskType, commands: list[str], wanted: list[float]):
    assert _progress_after_each(kitchen(task_type), commands) == pytest.approx(wanted)


def test_progress_of_look_is_the_object_the_lamp_and_both_at_one_place():
    commands = ["go to desk 1", "use desklamp 1", "take pencil 1 from drawer 1", "go to shelf 1"]
    assert _progress_after_each(bedroom(), commands) == pytest.approx([0, 0, 1 / 3, 1, 2 / 3])


def test_a_mug_heated_and_then_cooled_is_not_hot():
    cooled = [*WINS[TaskType.HEAT], *WINS[TaskType.COOL]]
    assert not any(_won_after_each(kitchen(TaskType.HEAT), [*TAKE, *cooled, *PUT]))


def test_two_mugs_must_share_one_cabinet():
    second = ["go to sinkbasin 1", "take mug 2 from sinkbasin 1"]
    into_2 = ["go to cabinet 2", "open cabinet 2", "move mug 2 to cabinet 2"]
    into_1 = ["take mug 2 from cabinet 2", "go to cabinet 1", "move mug 2 to cabinet 1"]
    won = _won_after_each(kitchen(TaskType.PICK_TWO), [*TAKE, *PUT, *second, *into_2, *into_1])
    assert won == [False] * 12 + [True]


def test_look_is_won_at_a_lit_lamp_with_the_object_in_hand():
    # The lamp may be lit first. The episode is won when the agent is at the lamp with the pencil in hand.
    commands = ["go to desk 1", "use desklamp 1", "take pencil 1 from drawer 1"]
    assert _won_after_each(bedroom(), commands) == [False, False, True]


def test_look_is_not_won_away_from_the_lamp():
    commands = ["go to desk 1", "take pencil 1 from drawer 1", "go to shelf 1", "go to desk 1", "use desklamp 1"]
    assert _won_after_each(bedroom(), [*commands, "go to shelf 1"]) == [False] * 4 + [True, False]


def test_an_object_without_the_affordance_of_the_task_does_not_win():
    game = kitchen(TaskType.HEAT)
    items = tuple(
        replace(item, heatable=False, initially=frozenset({"hot"})) if item.type == "Mug" else item
        for item in game.items
    )
    assert not any(_won_after_each(replace(game, items=items), [*TAKE, *PUT]))
