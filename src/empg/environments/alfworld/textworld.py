"""Adapter for the original engine: TextWorld's PDDL environment as ALFWorld wraps it.

It is the reference for our rules in tests, and an optional backend: `pip install 'empg[textworld]'`.

By default it translates the same planning problem twice at every reset, and parses the same parts of the grammar for
every command it lists. `memoise` caches both. The output does not change; a test compares it with the uncached engine.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from empg.environments.alfworld.gamefile import Logic, game_data
from empg.environments.alfworld.world import Game
from empg.errors import MissingExtraError

REMEDY = "the textworld backend is not installed: pip install 'empg[textworld]'"

# A translated problem is a few megabytes of text.
_CACHED_PROBLEMS = 32
_CACHED_PHRASES = 4096

# Unused engines. They are kept because unloading an engine's planner library crashes the process at exit.
_idle: list[Any] = []


class RealGame:
    """One game on the original engine.

    `observation`, `admissible` (sorted), `won`, `score` and `done` are the engine's output for the current state. Call
    `reset` first.

    Raises:
        MissingExtraError: if the engine is not installed.
    """

    observation: str
    admissible: list[str]
    won: bool
    score: float
    done: bool

    def __init__(self, game: Game, logic: Logic | None = None) -> None:
        data = game_data(game, logic or _installed_logic())
        self._engine = _idle.pop() if _idle else _new_engine()
        # A game that is never closed, such as a discarded clone, returns its engine when it is garbage-collected.
        self._return_engine = weakref.finalize(self, _idle.append, self._engine)
        with _preserved_argv():
            self._engine.load(data)

    def reset(self) -> None:
        """Restart the game."""
        with _preserved_argv():
            self._read(self._engine.reset())
        self.score, self.done = 0.0, False

    def step(self, command: str) -> bool:
        """Send a command and return whether it was valid."""
        valid = command.strip() in self.admissible
        state, self.score, self.done = self._engine.step(command)
        self._read(state)
        return valid

    def _read(self, state: Any) -> None:
        self.observation = state.feedback
        self.admissible = state["admissible_commands"]
        self.won = bool(state["won"])

    def close(self) -> None:
        """Return the engine to the pool for the next game. This game cannot be used afterwards."""
        self._return_engine()
        self._engine = None


def _new_engine() -> Any:
    try:
        from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
        from textworld import EnvInfos
        from textworld.envs.pddl import PddlEnv
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{REMEDY} ({error})") from error
    return AlfredDemangler(PddlEnv(EnvInfos(admissible_commands=True, won=True)), shuffle=False)


@functools.cache
def _installed_logic() -> Logic:
    return Logic.installed()


@contextlib.contextmanager
def _preserved_argv() -> Iterator[None]:
    """Restore `sys.argv`, which the translator overwrites."""
    arguments = sys.argv
    try:
        yield
    finally:
        sys.argv = arguments


@functools.cache
def memoise() -> None:
    """Cache the translations and parsed phrases of the original engine in this process. Repeated calls do nothing.

    Raises:
        MissingExtraError: if the engine is not installed.
    """
    try:
        import fast_downward
        from textworld.envs.pddl import textgen
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{REMEDY} ({error})") from error
    fast_downward.pddl2sas = functools.lru_cache(_CACHED_PROBLEMS)(fast_downward.pddl2sas)
    textgen._parse_and_convert = _cached(textgen._parse_and_convert)


def _cached(parse: Callable[..., Any]) -> Callable[..., Any]:
    """Cache a parser. Each caller gets its own copy, because the engine modifies the result."""
    once = functools.lru_cache(_CACHED_PHRASES)(parse)

    @functools.wraps(parse)
    def parse_again(*args: Any, **options: Any) -> Any:
        return copy.deepcopy(once(*args, **options))

    return parse_again
