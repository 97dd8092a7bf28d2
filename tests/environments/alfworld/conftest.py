"""A fixture that plays commands on our engine."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.world import Game, State


@pytest.fixture
def play() -> Callable[..., tuple[Engine, State, list[str]]]:
    """Return `play(game, *commands)`, which returns the engine, the final state and the observation per command."""

    def play(game: Game, *commands: str) -> tuple[Engine, State, list[str]]:
        engine = Engine(game)
        state = engine.start()
        return engine, state, [engine.step(state, command)[0] for command in commands]

    return play
