"""The exact thoughts and actions of the household expert."""

from __future__ import annotations

from dataclasses import replace

from empg.environments.alfworld.expert import HouseholdExpert
from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.world import Game, Goal, TaskType
from tests.environments.alfworld.rooms import bedroom, build, kitchen, place, thing


def play(game: Game, interruptions: dict[int, str] | None = None) -> list[str]:
    """Return every turn of the expert as "thought > action"; `interruptions` are commands run before some turns."""
    engine = Engine(game)
    state = engine.start()
    expert = HouseholdExpert(engine, state)
    turns: list[str] = []
    observation = engine.opening(state)
    while not state.won:
        assert len(turns) < 20, turns
        if command := (interruptions or {}).get(len(turns)):
            observation, _ = engine.step(state, command)
        decision = expert.act(observation, {})
        turns.append(f"{decision['thought']} > {decision['action']}")
        observation, _ = engine.step(state, decision["action"])
    return turns


def test_the_expert_finds_heats_and_delivers_a_mug() -> None:
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


def test_the_thought_names_the_last_listed_item_if_the_wanted_one_is_missing() -> None:
    game = replace(kitchen(), goal=Goal(TaskType.PICK, "Egg", "SinkBasin"))
    assert play(game, {0: "go to countertop 1"})[0] == "I hold nothing. I want egg and see mug 1. > go to fridge 1"


def test_the_expert_examines_again_before_it_uses_an_unlisted_item() -> None:
    assert play(bedroom())[2:] == [
        "I hold pencil 1. I want desklamp and see nothing. > examine desk 1",
        "I hold pencil 1. I want desklamp and see desklamp 1. > use desklamp 1",
    ]


def test_the_expert_uses_a_lamp_in_a_closed_drawer() -> None:
    lamp = thing("DeskLamp", 1, "Drawer_bar_1", pickupable=False, toggleable=True)
    goal = Goal(TaskType.LOOK, "Pencil", None, "DeskLamp")
    places = [place("Drawer", 1, openable=True, is_open=True)]
    game = build(goal, "look at pencil under the desklamp", places, [lamp, thing("Pencil", 1, "Drawer_bar_1")], {})
    assert play(game, {2: "close drawer 1"}) == [
        "I hold nothing. I want pencil and see nothing. > go to drawer 1",
        "I hold nothing. I want pencil and see pencil 1. > take pencil 1 from drawer 1",
        "I hold pencil 1. I want desklamp and see nothing. > use desklamp 1",
    ]


def test_the_expert_recovers_from_an_unexpected_command() -> None:
    assert play(kitchen(TaskType.HEAT), {6: "move mug 2 to sinkbasin 1"})[6:8] == [
        "I hold nothing. I want mug and see mug 2. > take mug 2 from sinkbasin 1",
        "I hold mug 2. Heat it. > go to microwave 1",
    ]


def play_with_early_stop(game: Game, from_turn: int) -> tuple[list[str], bool]:
    """Return the expert's turns if it stops early from turn `from_turn` on, and whether it won."""
    engine = Engine(game)
    state = engine.start()
    expert = HouseholdExpert(engine, state)
    turns: list[str] = []
    observation = engine.opening(state)
    while not state.won and not expert.satisfied:
        decision = expert.act(observation, {})
        if len(turns) == from_turn:
            decision = expert.conclude(observation, {}) or decision
        turns.append(f"{decision['thought']} > {decision['action']}")
        observation, _ = engine.step(state, decision["action"])
    return turns, state.won


def test_early_stop_delivers_the_mug_without_heating_it() -> None:
    complete, _ = play_with_early_stop(kitchen(TaskType.HEAT), from_turn=99)
    turns, won = play_with_early_stop(kitchen(TaskType.HEAT), from_turn=6)
    assert turns[:6] == complete[:6]
    assert turns[6:] == [
        "I hold mug 2. Put it in cabinet. > go to cabinet 1",
        "I hold mug 2. Put it in cabinet. > move mug 2 to cabinet 1",
    ]
    assert not won


def test_early_stop_changes_nothing_if_no_treatment_can_be_skipped() -> None:
    for game in (kitchen(TaskType.HEAT), bedroom()):
        complete, _ = play_with_early_stop(game, from_turn=99)
        assert play_with_early_stop(game, from_turn=0) == (complete, True)  # empty hands
        assert play_with_early_stop(game, from_turn=len(complete) - 1) == (complete, True)  # already hot, or only held


def test_the_expert_looks_again_if_all_receptacles_are_here_and_the_item_is_not() -> None:
    places = [place("Shelf", 1), place("Desk", 2, at=1)]
    engine = Engine(build(Goal(TaskType.PICK, "Mug", "Shelf"), "put a mug in shelf", places, [], {}, start="loc_bar_1"))
    state = engine.start()
    decision = HouseholdExpert(engine, state).act(engine.opening(state), {})
    assert decision == {"thought": "I hold nothing. I want mug and see nothing.", "action": "look"}
    assert engine.step(state, decision["action"])[1]
