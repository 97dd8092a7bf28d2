"""The expert, word for word: what it holds, what it wants, and what it sees."""

from __future__ import annotations

from dataclasses import replace

from empg.environments.alfworld.expert import HouseholdExpert
from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.world import Game, Goal, TaskType
from tests.environments.alfworld.rooms import bedroom, build, kitchen, place, thing


def play(game: Game, interruptions: dict[int, str] | None = None) -> list[str]:
    """Every turn of the expert as "thought > action"; before some turns something else is done."""
    engine = Engine(game)
    state = engine.start()
    expert = HouseholdExpert(engine, state)
    observation, said = engine.opening(state), []
    while not state.won:
        assert len(said) < 20, said
        if command := (interruptions or {}).get(len(said)):
            observation, _ = engine.step(state, command)
        decision = expert.act(observation, {})
        said.append(f"{decision['thought']} > {decision['action']}")
        observation, _ = engine.step(state, decision["action"])
    return said


def test_it_looks_where_mugs_are_kept_heats_what_it_found_and_puts_it_away() -> None:
    assert play(kitchen(TaskType.HEAT)) == [
        "I hold nothing. I want mug and see nothing. > go to cabinet 2",
        "I hold nothing. I want mug and see nothing. > open cabinet 2",
        "I hold nothing. I want mug and see nothing. > go to cabinet 1",
        "I hold nothing. I want mug and see nothing. > open cabinet 1",
        "I hold nothing. I want mug and see nothing. > go to sinkbasin 1",
        "I hold nothing. I want mug and see mug 2. > take mug 2 from sinkbasin 1",
        "I hold mug 2. Heat it. > go to microwave 1",
        "I hold mug 2. Heat it. > heat mug 2 with microwave 1",
        "I hold hot mug 2. Put it in cabinet. > go to cabinet 1",
        "I hold hot mug 2. Put it in cabinet. > move mug 2 to cabinet 1",
    ]


def test_what_it_sees_is_the_last_thing_listed_if_what_it_wants_is_not_there() -> None:
    game = replace(kitchen(), goal=Goal(TaskType.PICK, "Egg", "SinkBasin"))
    assert play(game, {0: "go to countertop 1"})[0] == "I hold nothing. I want egg and see mug 1. > go to fridge 1"


def test_before_it_reaches_for_what_the_last_observation_does_not_show_it_looks_again() -> None:
    assert play(bedroom())[2:] == [
        "I hold pencil 1. I want desklamp and see nothing. > examine desk 1",
        "I hold pencil 1. I want desklamp and see desklamp 1. > use desklamp 1",
    ]


def test_it_uses_a_lamp_behind_a_door_that_was_closed_again() -> None:
    lamp = thing("DeskLamp", 1, "Drawer_bar_1", pickupable=False, toggleable=True)
    goal = Goal(TaskType.LOOK, "Pencil", None, "DeskLamp")
    places = [place("Drawer", 1, openable=True, is_open=True)]
    game = build(goal, "look at pencil under the desklamp", places, [lamp, thing("Pencil", 1, "Drawer_bar_1")], {})
    assert play(game, {2: "close drawer 1"}) == [
        "I hold nothing. I want pencil and see nothing. > go to drawer 1",
        "I hold nothing. I want pencil and see pencil 1. > take pencil 1 from drawer 1",
        "I hold pencil 1. I want desklamp and see nothing. > use desklamp 1",
    ]


def test_after_a_mishap_it_goes_on_from_where_it_stands() -> None:
    assert play(kitchen(TaskType.HEAT), {6: "move mug 2 to sinkbasin 1"})[6:8] == [
        "I hold nothing. I want mug and see mug 2. > take mug 2 from sinkbasin 1",
        "I hold mug 2. Heat it. > go to microwave 1",
    ]


def hasty_play(game: Game, from_turn: int) -> tuple[list[str], bool]:
    """What it says if it is in early_stop in one turn; and whether it won."""
    engine = Engine(game)
    state = engine.start()
    expert = HouseholdExpert(engine, state)
    observation, said = engine.opening(state), []
    while not state.won and not expert.satisfied:
        decision = expert.act(observation, {})
        if len(said) == from_turn:
            decision = expert.conclude(observation, {}) or decision
        said.append(f"{decision['thought']} > {decision['action']}")
        observation, _ = engine.step(state, decision["action"])
    return said, state.won


def test_in_haste_it_puts_the_mug_away_as_it_is_and_thinks_that_it_is_done() -> None:
    patient, _ = hasty_play(kitchen(TaskType.HEAT), from_turn=99)
    said, won = hasty_play(kitchen(TaskType.HEAT), from_turn=6)
    assert said[:6] == patient[:6]
    assert said[6:] == [
        "I hold mug 2. Put it in cabinet. > go to cabinet 1",
        "I hold mug 2. Put it in cabinet. > move mug 2 to cabinet 1",
    ]
    assert not won


def test_there_is_no_haste_where_nothing_can_be_left_out() -> None:
    for game in (kitchen(TaskType.HEAT), bedroom()):
        patient, _ = hasty_play(game, from_turn=99)
        assert hasty_play(game, from_turn=0) == (patient, True)  # empty hands
        assert hasty_play(game, from_turn=len(patient) - 1) == (patient, True)  # hot already, or only to be held
