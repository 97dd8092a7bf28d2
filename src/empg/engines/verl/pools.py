"""The environments of verl's agent loop: each episode has a pool of its own, which it asks from threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import ClassVar

from empg.rollout.env_pool import EnvPool, LocalEnvPool, Make, Outcome, ProcessEnvPool


def episode_pool(make: Make, workers: int) -> EnvPool:
    """Return a pool for one episode, whose slot is 0.

    Args:
        make: makes an environment.
        workers: with 0 the environment is in this process. Otherwise it is in one of as many processes, which all
            episodes of this process with an equal `make` share. They end with this process.
    """
    return _LentSlot(_shared(make, workers)) if workers else _SharedEnvPool(make)


class _SharedEnvPool(LocalEnvPool):
    """Environments in this process, the first of a kind started alone: it reads what the others share.

    verl starts all episodes of a batch at once, each in a thread, and a cache lets every thread read that did not find
    anything in it.
    """

    _starting = threading.Lock()
    _started: ClassVar[list[Make]] = []

    def reset(self, slots: Sequence[int], tasks: Sequence[int]) -> list[Outcome]:
        """Start task `tasks[i]` in slot `slots[i]`."""
        if self._make not in self._started:
            with self._starting:
                if self._make not in self._started:
                    outcomes = super().reset(slots, tasks)
                    self._started.append(self._make)
                    return outcomes
        return super().reset(slots, tasks)


class _Process:
    """One process with the environments of several episodes, which is asked by one thread at a time."""

    def __init__(self, make: Make) -> None:
        self.pool, self.asking = ProcessEnvPool(make, 1), threading.Lock()
        self.playing: set[int] = set()

    def take_slot(self) -> int:
        """Return the lowest slot that no episode has, and take it."""
        slot = next(number for number in range(len(self.playing) + 1) if number not in self.playing)
        self.playing.add(slot)
        return slot


class _LentSlot:
    """A slot in the process that has the fewest episodes."""

    _lending = threading.Lock()

    def __init__(self, processes: list[_Process]) -> None:
        with self._lending:
            self._process = min(processes, key=lambda process: len(process.playing))
            self._slot = self._process.take_slot()

    def reset(self, slots: Sequence[int], tasks: Sequence[int]) -> list[Outcome]:
        """Start task `tasks[0]`."""
        with self._process.asking:
            return self._process.pool.reset([self._slot], tasks)

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Outcome]:
        """Act with `actions[0]`."""
        with self._process.asking:
            return self._process.pool.step([self._slot], actions)

    def close(self) -> None:
        """Leave the slot and its environment to another episode."""
        with self._lending:
            self._process.playing.discard(self._slot)


_kept: list[tuple[Make, list[_Process]]] = []
_starting = threading.Lock()


def _shared(make: Make, workers: int) -> list[_Process]:
    """Return the processes of an equal `make`, which are started when they are first asked for."""
    with _starting:
        for known, processes in _kept:
            if known == make and len(processes) == workers:
                return processes
        _kept.append((make, [_Process(make) for _ in range(workers)]))
        return _kept[-1][1]
