"""The contract every world keeps: a `gymnasium.Env` of text with named splits, `clone()` and an expert."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypedDict, TypeVar, runtime_checkable

import gymnasium

from empg.environments.text_space import AnyText as AnyText
from empg.errors import UserError

# Among the admissible commands these stand for every search and for every answer. Deep Search rejects them as commands.
# WebShop searches for their words, because the original shop takes any text.
SEARCH, ANSWER = "search[<your query>]", "answer[<your answer>]"


class Info(TypedDict, total=False):
    """What `reset` and `step` return beside the observation. The first seven keys are always there."""

    task: str  # the instruction in words, to be repeated to the agent at will
    task_id: str
    task_type: str
    won: bool
    score: float  # graded outcome in [0, 1]; equals float(won) where the world has no partial credit
    admissible: list[str] | None  # every command that would do something now, or None if they cannot be listed
    valid: bool  # False if the last command was rejected (True after reset)
    progress: float  # optional: how far the task is done, in [0, 1]; a function of the state, not shown to the agent
    process_reward: float  # optional step-level reward, for the slot beside the clarity bonus
    failure: str  # only if an external service that the command needs is unavailable: why; the episode continues
    metrics: dict[str, float]  # optional further measures of the outcome in [0, 1], by name; evaluations report them


class Decision(TypedDict):
    """What an expert (or an agent) does in one turn."""

    thought: str
    action: str


@runtime_checkable
class Expert(Protocol):
    """Plays one episode. It receives what the agent receives, and hidden state of its environment if it needs it."""

    def act(self, observation: str, info: Info) -> Decision:
        """Return the next turn. Called once per observation, first with that of `reset`."""
        ...


@runtime_checkable
class EarlyStoppingExpert(Expert, Protocol):
    """An expert that can stop before the task is solved."""

    @property
    def satisfied(self) -> bool:
        """Whether it considers the task done, although the episode continues. It must not be asked to act again."""
        ...

    def conclude(self, observation: str, info: Info) -> Decision | None:
        """Return the action that ends the task now, instead of the one that `act` returned for this observation.

        None where nothing can be ended early, or where the action of `act` ends the task anyway.
        """
        ...


@dataclass(frozen=True, slots=True)
class RecordedEpisode:
    """An episode that somebody played: which task, what was thought and done, and what it was worth at its end.

    `where` says where it is written down, for errors: a file and a line.
    """

    where: str
    task: int
    turns: tuple[Decision, ...]
    score: float


@runtime_checkable
class Recorded(Protocol):
    """A world whose episodes are recorded, so that they can be played again."""

    def recordings(self, file: Path) -> Iterator[RecordedEpisode]:
        """Yield the episodes of a file.

        Raises:
            UserError: one was not made in this world, under these rules; the message names the file and the line.
        """
        ...


@runtime_checkable
class PlayableInBrowser(Protocol):
    """An environment that has web pages for people."""

    def serve(self, port: int, record: Path | None, ready: Callable[[str], None]) -> None:
        """Serve the pages on this machine (127.0.0.1) until Ctrl-C.

        Args:
            port: 0 picks a free one.
            record: the file that finished episodes are appended to; None keeps none.
            ready: called with the address as soon as it answers.

        Raises:
            MissingExtraError: a package that serves pages is not installed; the message says how to install it.
            UserError: the port is unavailable, or the file cannot be written.
        """
        ...


@dataclass(frozen=True, slots=True)
class PromptSpec:
    """An environment as its agent sees it.

    `role` opens an instruct prompt, and `example` is a turn in it. `commands` is the grammar of the commands, one form
    each ("go to [place]"); an instruct prompt shows it where it does not list the admissible commands. `banner` is cut
    off the first observation. `told_by_observation` says that every observation already contains the task.
    """

    role: str
    example: str
    commands: tuple[str, ...] = ()
    banner: str = ""
    told_by_observation: bool = False


Value = TypeVar("Value")


class SetByReset(Generic[Value]):
    """An attribute of an environment that `reset` sets. Reading it earlier is a RuntimeError that says so."""

    def __get__(self, environment: object, owner: type) -> Value:
        # An instance's own attribute comes first, so this is only called before `reset` has set it.
        raise RuntimeError("no episode has begun; call reset")


class TextEnvironment(gymnasium.Env[str, str]):
    """Text in, text out. A subclass gets its name in recipes from an `EnvironmentSpec` (`registry.py`).

    A split is a fixed, ordered list of tasks; `reset(options={"task": i})` plays the i-th. Without it the task is
    drawn from the environment's own seeded generator. An episode is `terminated` by its outcome and `truncated` by
    `max_steps`.
    """

    split: str
    max_steps: int

    @property
    def num_tasks(self) -> int:
        """The number of tasks in this split."""
        raise NotImplementedError

    def task_id(self, index: int) -> str:
        """Return the stable id of a task; it changes when the task's content does."""
        raise NotImplementedError

    def reset(  # type: ignore[override]  # Info is a typed dict
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        """Begin an episode. Return the first observation and its info."""
        raise NotImplementedError

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:  # type: ignore[override]
        """Give a command: observation, reward, terminated, truncated, info.

        Any text is accepted; `info["valid"]` is False if the command was rejected.

        After the end (`terminated` or `truncated`) there is nothing left to do but `reset`; a world may raise
        RuntimeError. Before the first `reset` this package's own worlds do.
        """
        raise NotImplementedError

    def clone(self) -> TextEnvironment:
        """Return an independent environment in the same state."""
        raise NotImplementedError

    def solution(self) -> str:
        """Return what would have won the episode, to show it after the end; empty if there is no such text."""
        return ""

    def expert(self) -> Expert:
        """Return a fresh expert for the episode that was just reset.

        Raises:
            UserError: there is no expert. The message says what cannot be done without one.
        """
        raise UserError(f"{type(self).__name__} has no expert, which warm_start and --expert need")
