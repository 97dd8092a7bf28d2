"""Invariants of every state of every game."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from empg.environments.alfworld.generator import generate
from empg.environments.alfworld.rules import Engine
from tests.environments.alfworld.rooms import KITCHEN_GOALS, bedroom, kitchen, oddities

NOTHING = "Nothing happens."


@given(st.text())
def test_any_text_is_a_valid_or_a_rejected_command(text: str):
    engine = Engine(kitchen())
    state = engine.start()
    before = state.clone()
    observation, valid = engine.step(state, text)
    assert valid == (text.strip() in engine.admissible(before))
    assert valid or observation == NOTHING


ROOMS = [*(kitchen(task_type) for task_type in KITCHEN_GOALS), bedroom(), oddities()]
ENGINES = [Engine(game) for game in [*ROOMS, *(generate("train", index, "small") for index in range(12))]]


def _candidate_commands(engine: Engine) -> list[str]:
    things = [item.name for item in engine.items.values()]
    places = [receptacle.name for receptacle in engine.receptacles.values()]
    knives = [item.name for item in engine.items.values() if "knife" in item.name]
    return [
        *("look", "inventory", "help"),
        *(f"{verb} {place}" for verb in ("go to", "open", "close", "examine") for place in places),
        *(f"{verb} {thing}" for verb in ("examine", "use") for thing in things),
        *(f"take {thing} from {place}" for thing in things for place in places),
        *(f"move {thing} to {place}" for thing in things for place in places),
        *(f"{verb} {thing} with {place}" for verb in ("clean", "heat", "cool") for thing in things for place in places),
        *(f"slice {thing} with {knife}" for thing in things for knife in knives),
    ]


CANDIDATES = [_candidate_commands(engine) for engine in ENGINES]
walks = st.tuples(st.integers(0, len(ENGINES) - 1), st.lists(st.integers(0, 10**6), max_size=12))


def _walk(engine: Engine, choices: list[int]):
    """Play a random walk that prefers interactions to "go to" and information commands."""
    state = engine.start()
    for choice in choices:
        commands = engine.admissible(state)
        interactions = [
            command for command in commands if not command.startswith(("go ", "help", "look", "inventory", "exam"))
        ]
        commands = interactions if interactions and choice % 3 else commands
        engine.step(state, commands[choice % len(commands)])
    return state


@settings(max_examples=60)
@given(walks)
def test_exactly_the_admissible_commands_are_valid(walk):
    which, choices = walk
    engine = ENGINES[which]
    state = _walk(engine, choices)
    admissible = engine.admissible(state)
    assert admissible == sorted(set(admissible))
    assert set(admissible) <= set(CANDIDATES[which])
    for command in CANDIDATES[which]:
        after = state.clone()
        observation, valid = engine.step(after, command)
        assert valid == (command in admissible), command
        assert (observation == NOTHING) == (not valid), command
        if not valid:
            after.steps -= 1
            assert after == state, command


@settings(max_examples=60)
@given(walks)
def test_a_clone_is_independent(walk):
    which, choices = walk
    engine = ENGINES[which]
    state = _walk(engine, choices)
    kept, twin = state.clone(), state.clone()
    assert kept == twin == state
    for command in [c for c in engine.admissible(twin) if not c.startswith("go ")]:
        engine.step(twin, command)
    assert state == kept
    # The same command in the same state has the same effect.
    for command in engine.admissible(state):
        one, other = state.clone(), kept.clone()
        assert engine.step(one, command) == engine.step(other, command)
        assert one == other


@settings(max_examples=60)
@given(walks)
def test_an_item_is_in_one_receptacle_or_in_hand(walk):
    which, choices = walk
    engine = ENGINES[which]
    if engine.game.task == oddities().task:
        return  # its plate is in two receptacles
    state = _walk(engine, choices)
    contents = [id for inside in state.inside.values() for id in inside]
    assert sorted([*contents, *([state.holding] if state.holding else [])]) == sorted(engine.items)
    assert not state.hot & state.cool
    assert set(state.where) == set(engine.items)
