"""Many environments behind one door: in this process when they are fast, in worker processes when they are slow."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

import gymnasium

from empg.environments.base import Info, TextEnvironment
from empg.recipe import EnvironmentSection

_REGISTERED = {"alfworld": "empg/ALFWorld-v1", "webshop": "empg/WebShop-v1"}


def make_environment(section: EnvironmentSection, split: str) -> TextEnvironment:
    """The environment of a recipe, for one split.

    Raises:
        ValueError: the options do not fit the environment.
    """
    import empg.environments  # registers the ids

    assert empg.environments
    kwargs = {**section.options, "split": split}
    if section.max_steps is not None:
        kwargs["max_steps"] = section.max_steps
    try:
        made = gymnasium.make(_REGISTERED[section.id], disable_env_checker=True, **kwargs)
    except TypeError as error:
        raise ValueError(f"environment.options: {str(error).partition(' was raised')[0]}") from None
    return made.unwrapped  # type: ignore[return-value]


@dataclass(slots=True)
class Outcome:
    """What a reset or a step came to. `error` is set, and nothing else means anything, when the environment raised."""

    observation: str = ""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: Info | None = None
    error: str | None = None


class Worlds(Protocol):
    """Environments by slot; each call takes any number of slots and answers in their order."""

    def reset(self, slots: Sequence[int], tasks: Sequence[int]) -> list[Outcome]:
        """Start task `tasks[i]` in slot `slots[i]`."""
        ...

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Outcome]:
        """Act in each slot."""
        ...

    def close(self) -> None:
        """Let go of processes and files."""
        ...


class LocalWorlds:
    """Environments in this process, made when a slot is first used."""

    def __init__(self, make: Callable[[], TextEnvironment]) -> None:
        self._make = make
        self._environments: dict[int, TextEnvironment] = {}

    def reset(self, slots: Sequence[int], tasks: Sequence[int]) -> list[Outcome]:
        """Start task `tasks[i]` in slot `slots[i]`."""
        return [self._reset(slot, task) for slot, task in zip(slots, tasks, strict=True)]

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Outcome]:
        """Act in each slot."""
        return [self._step(slot, action) for slot, action in zip(slots, actions, strict=True)]

    def close(self) -> None:
        """Close every environment."""
        for environment in self._environments.values():
            environment.close()

    def _reset(self, slot: int, task: int) -> Outcome:
        try:
            environment = self._environments.get(slot) or self._environments.setdefault(slot, self._make())
            observation, info = environment.reset(options={"task": task})
        except Exception as error:  # a world's failure ends its episode, not the run
            return Outcome(error=_describe(error))
        return Outcome(observation, info=info)

    def _step(self, slot: int, action: str) -> Outcome:
        try:
            return Outcome(*self._environments[slot].step(action))
        except Exception as error:
            return Outcome(error=_describe(error))


class ProcessWorlds:
    """Environments in worker processes; slot s lives in process s modulo their number."""

    def __init__(self, make: Callable[[], TextEnvironment], processes: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, make), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def reset(self, slots: Sequence[int], tasks: Sequence[int]) -> list[Outcome]:
        """Start task `tasks[i]` in slot `slots[i]`."""
        return self._ask("reset", slots, tasks)

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Outcome]:
        """Act in each slot; the processes work side by side."""
        return self._ask("step", slots, actions)

    def close(self) -> None:
        """End the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            pipe.close()
            process.join(timeout=5)
            if process.is_alive():
                process.terminate()

    def _ask(self, verb: str, slots: Sequence[int], values: Sequence[int] | Sequence[str]) -> list[Outcome]:
        count = len(self._pipes)
        shares = [[i for i, slot in enumerate(slots) if slot % count == worker] for worker in range(count)]
        answers: list[Outcome] = [Outcome(error="the environment's process ended")] * len(slots)
        asked = []
        for pipe, share in zip(self._pipes, shares, strict=True):
            if not share:
                continue
            try:
                pipe.send((verb, [slots[i] for i in share], [values[i] for i in share]))
            except OSError:
                continue
            asked.append((pipe, share))
        for pipe, share in asked:
            try:
                for index, outcome in zip(share, pipe.recv(), strict=True):
                    answers[index] = outcome
            except (EOFError, OSError):
                continue
        return answers


def make_worlds(section: EnvironmentSection, split: str) -> Worlds:
    """The worlds of a recipe: in place, or in `environment.workers` processes."""
    maker = _Maker(section, split)
    return ProcessWorlds(maker, section.workers) if section.workers else LocalWorlds(maker)


@dataclass(frozen=True, slots=True)
class _Maker:
    section: EnvironmentSection
    split: str

    def __call__(self) -> TextEnvironment:
        return make_environment(self.section, self.split)


def _serve(pipe: Connection, make: Callable[[], TextEnvironment]) -> None:
    worlds = LocalWorlds(make)
    try:
        while True:
            verb, slots, values = pipe.recv()
            pipe.send(worlds.reset(slots, values) if verb == "reset" else worlds.step(slots, values))
    except (EOFError, OSError, KeyboardInterrupt):
        worlds.close()


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
