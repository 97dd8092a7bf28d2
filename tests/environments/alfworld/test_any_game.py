"""What holds in every state of every game."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from empg.environments.alfworld.generator import generate
from empg.environments.alfworld.rules import Engine
from tests.environments.alfworld.rooms import KITCHEN_GOALS, bedroom, kitchen, oddities

NOTHING = "Nothing happens."


@given(st.text())
def test_any_text_is_survived(text: str):
    engine = Engine(kitchen())
    state = engine.start()
    before = state.clone()
    said, obeyed = engine.step(state, text)
    assert obeyed == (text.strip() in engine.admissible(before))
    assert obeyed or said == NOTHING


ROOMS = [*(kitchen(task_type) for task_type in KITCHEN_GOALS), bedroom(), oddities()]
ENGINES = [Engine(game) for game in [*ROOMS, *(generate("train", index, "small") for index in range(12))]]


def _everything_one_could_say(engine: Engine) -> list[str]:
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


SAYABLE = [_everything_one_could_say(engine) for engine in ENGINES]
walks = st.tuples(st.integers(0, len(ENGINES) - 1), st.lists(st.integers(0, 10**6), max_size=12))


def _walk(engine: Engine, choices: list[int]):
    """A walk that prefers doing things to going places."""
    state = engine.start()
    for choice in choices:
        commands = engine.admissible(state)
        deeds = [
            command for command in commands if not command.startswith(("go ", "help", "look", "inventory", "exam"))
        ]
        commands = deeds if deeds and choice % 3 else commands
        engine.step(state, commands[choice % len(commands)])
    return state


@settings(max_examples=60, deadline=None)
@given(walks)
def test_what_is_admissible_is_obeyed_and_nothing_else_is(walk):
    which, choices = walk
    engine = ENGINES[which]
    state = _walk(engine, choices)
    admissible = engine.admissible(state)
    assert admissible == sorted(set(admissible))
    assert set(admissible) <= set(SAYABLE[which])
    for command in SAYABLE[which]:
        after = state.clone()
        said, obeyed = engine.step(after, command)
        assert obeyed == (command in admissible), command
        assert (said == NOTHING) == (not obeyed), command
        if not obeyed:
            after.steps -= 1
            assert after == state, command


@settings(max_examples=60, deadline=None)
@given(walks)
def test_a_clone_goes_its_own_way(walk):
    which, choices = walk
    engine = ENGINES[which]
    state = _walk(engine, choices)
    kept, twin = state.clone(), state.clone()
    assert kept == twin == state
    for command in [c for c in engine.admissible(twin) if not c.startswith("go ")]:
        engine.step(twin, command)
    assert state == kept
    # The same commands in the same state do the same.
    for command in engine.admissible(state):
        one, other = state.clone(), kept.clone()
        assert engine.step(one, command) == engine.step(other, command)
        assert one == other


@settings(max_examples=60, deadline=None)
@given(walks)
def test_a_thing_is_in_one_receptacle_or_in_hand(walk):
    which, choices = walk
    engine = ENGINES[which]
    if engine.game.task == oddities().task:
        return  # it has a plate in two places
    state = _walk(engine, choices)
    contents = [id for inside in state.inside.values() for id in inside]
    assert sorted([*contents, *([state.holding] if state.holding else [])]) == sorted(engine.items)
    assert not state.hot & state.cool
    assert set(state.where) == set(engine.items)
