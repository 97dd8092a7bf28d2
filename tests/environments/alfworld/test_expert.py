"""The expert, word for word: what it holds, what it wants, and what it sees."""

from __future__ import annotations

from dataclasses import replace

from rooms import bedroom, kitchen

from empg.environments.alfworld.expert import HouseholdExpert
from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.world import Game, Goal, TaskType


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


def test_what_the_last_observation_does_not_name_was_seen_before() -> None:
    assert play(bedroom())[2] == "I hold pencil 1. I want desklamp and saw desklamp 1. > use desklamp 1"


def test_after_a_mishap_it_goes_on_from_where_it_stands() -> None:
    assert play(kitchen(TaskType.HEAT), {6: "move mug 2 to sinkbasin 1"})[6:8] == [
        "I hold nothing. I want mug and see mug 2. > take mug 2 from sinkbasin 1",
        "I hold mug 2. Heat it. > go to microwave 1",
    ]
