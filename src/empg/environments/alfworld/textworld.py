"""The real engine (TextWorld's PDDL environment, as ALFWorld wraps it) behind the same calls as our own.

It is the oracle for our rules, and a backend for those who want it: `pip install 'empg[textworld]'`.

As it comes, it translates the same planning problem twice at every reset and parses the same scraps of grammar for
every command it lists. `memoise` remembers both; what the engine says does not change (a test compares the two).
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
_PROBLEMS_REMEMBERED = 32
_PHRASES_REMEMBERED = 4096

# Engines that no game uses now. They are kept because unloading one's planner library crashes the process at exit.
_idle: list[Any] = []


class RealGame:
    """One game on the real engine.

    `observation`, `admissible` (sorted), `won`, `score` and `done` describe the present state, as the engine says;
    `reset` must come first.

    Raises:
        ModuleNotFoundError: if the engine is not installed.
    """

    observation: str
    admissible: list[str]
    won: bool
    score: float
    done: bool

    def __init__(self, game: Game, logic: Logic | None = None) -> None:
        data = game_data(game, logic or _installed_logic())
        self._engine = _idle.pop() if _idle else _new_engine()
        # A game that nobody closes, as that of a clone that was thrown away, gives it back when it is collected.
        self._hand_back = weakref.finalize(self, _idle.append, self._engine)
        with _arguments_kept():
            self._engine.load(data)

    def reset(self) -> None:
        """Begins the game anew."""
        with _arguments_kept():
            self._read(self._engine.reset())
        self.score, self.done = 0.0, False

    def step(self, command: str) -> bool:
        """Sends a command, and returns whether the engine could obey it."""
        obeyed = command.strip() in self.admissible
        state, self.score, self.done = self._engine.step(command)
        self._read(state)
        return obeyed

    def _read(self, state: Any) -> None:
        self.observation = state.feedback
        self.admissible = state["admissible_commands"]
        self.won = bool(state["won"])

    def close(self) -> None:
        """Hands the engine back for the next game; this one is over."""
        self._hand_back()
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
def _arguments_kept() -> Iterator[None]:
    """The translator overwrites `sys.argv`; this puts it back."""
    arguments = sys.argv
    try:
        yield
    finally:
        sys.argv = arguments


@functools.cache
def memoise() -> None:
    """Makes the real engine of this process remember its translations and its parsed phrases; a second call is idle.

    Raises:
        ModuleNotFoundError: if the engine is not installed.
    """
    try:
        import fast_downward
        from textworld.envs.pddl import textgen
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"{REMEDY} ({error})") from error
    fast_downward.pddl2sas = functools.lru_cache(_PROBLEMS_REMEMBERED)(fast_downward.pddl2sas)
    textgen._parse_and_convert = _remembered(textgen._parse_and_convert)


def _remembered(parse: Callable[..., Any]) -> Callable[..., Any]:
    """The same parser with a memory; each caller gets its own copy, because the engine writes into what it gets."""
    once = functools.lru_cache(_PHRASES_REMEMBERED)(parse)

    @functools.wraps(parse)
    def parse_again(*args: Any, **options: Any) -> Any:
        return copy.deepcopy(once(*args, **options))

    return parse_again
