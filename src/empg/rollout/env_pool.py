"""A pool of environments: in this process when they are fast, in worker processes when they are slow."""

from __future__ import annotations

import multiprocessing
import pickle
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol

from empg.environments.base import Info, TextEnvironment
from empg.errors import described
from empg.system.processes import end_with_parent
from empg.system.signals import leave_interrupts_to_parent, stop_signals_blocked

Make = Callable[[], TextEnvironment]


@dataclass(slots=True)
class Outcome:
    """The result of a reset or a step. If the environment raised, only `error` has a meaning."""

    observation: str = ""
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    info: Info | None = None
    error: str | None = None


class EnvPool(Protocol):
    """Environments by slot. Each call takes any number of slots and returns one outcome per slot, in their order."""

    def reset(self, slots: Sequence[int], tasks: Sequence[int]) -> list[Outcome]:
        """Start task `tasks[i]` in slot `slots[i]`."""
        ...

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Outcome]:
        """Act in each slot."""
        ...

    def close(self) -> None:
        """Release processes and files."""
        ...


class LocalEnvPool:
    """Environments in this process, made when a slot is first used."""

    def __init__(self, make: Make) -> None:
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
            try:
                environment.close()
            except (Exception, SystemExit) as error:  # its episodes are complete
                warnings.warn(f"an environment cannot be closed: {described(error)}", RuntimeWarning, stacklevel=2)

    def _reset(self, slot: int, task: int) -> Outcome:
        try:
            if slot not in self._environments:
                self._environments[slot] = self._make()
            observation, info = self._environments[slot].reset(options={"task": task})
        except (Exception, SystemExit) as error:  # a failing environment ends its episode, not the run
            return Outcome(error=described(error))
        return Outcome(observation, info=info)

    def _step(self, slot: int, action: str) -> Outcome:
        try:
            return Outcome(*self._environments[slot].step(action))
        except (Exception, SystemExit) as error:
            return Outcome(error=described(error))


class ProcessEnvPool:
    """Environments in worker processes; slot s lives in process s modulo their number.

    When a process dies, what its slots were playing ends with an error; it is started again when one of them is reset.
    """

    def __init__(self, make: Make, processes: int) -> None:
        self.make = make
        self.waiting = False  # for answers; stays True if the wait was interrupted
        self._processes = [_EnvProcess(make) for _ in range(processes)]

    @property
    def processes(self) -> int:
        """The number of processes."""
        return len(self._processes)

    def reset(self, slots: Sequence[int], tasks: Sequence[int]) -> list[Outcome]:
        """Start task `tasks[i]` in slot `slots[i]`."""
        return self._ask("reset", slots, tasks)

    def step(self, slots: Sequence[int], actions: Sequence[str]) -> list[Outcome]:
        """Act in each slot; the processes work side by side."""
        return self._ask("step", slots, actions)

    def close(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.close()

    def _ask(self, verb: str, slots: Sequence[int], values: Sequence[int] | Sequence[str]) -> list[Outcome]:
        count = self.processes
        answers = [Outcome(error="the environment's process ended")] * len(slots)
        asked = []
        self.waiting = True
        for number, process in enumerate(self._processes):
            share = process.able(verb, [i for i, slot in enumerate(slots) if slot % count == number], slots)
            if share and process.send(verb, [slots[i] for i in share], [values[i] for i in share]):
                asked.append((process, share))
        for process, share in asked:
            for index, outcome in zip(share, process.receive(), strict=False):  # a dead process answers nothing
                answers[index] = outcome
        self.waiting = False
        return answers


class _KeptEnvPool(ProcessEnvPool):
    """Processes that outlive a rollout: `close` keeps them for the next one, because slow environments start slowly."""

    def close(self) -> None:
        """Keep the processes; end them if an answer may still be pending."""
        if self.waiting:
            super().close()
        else:
            _kept.append(self)

    def end(self) -> None:
        """End the processes."""
        super().close()


_kept: list[_KeptEnvPool] = []  # at most one: those that were used last


class _EnvProcess:
    """One worker process, and which slots have an episode in it."""

    def __init__(self, make: Make) -> None:
        self._make = make
        self.playing: set[int] = set()
        self._start()

    def able(self, verb: str, share: list[int], slots: Sequence[int]) -> list[int]:
        """Return the places of `share` that can be asked; a dead process is restarted before a reset."""
        if verb == "step":
            return [i for i in share if slots[i] in self.playing]
        if share and not self.process.is_alive():
            self.close()
            self._start()
        return share

    def send(self, verb: str, slots: list[int], values: list[Any]) -> bool:
        """Send a request; returns whether the process could be reached."""
        try:
            self._pipe.send((verb, slots, values))
        except OSError:
            self._ended()
            return False
        if verb == "reset":
            self.playing.update(slots)
        return True

    def receive(self) -> list[Outcome]:
        """Return the answers to the last request; an empty list if the process has ended."""
        try:
            return [_unpacked(packed) for packed in self._pipe.recv()]
        except (EOFError, OSError):
            self._ended()
            return []

    def close(self) -> None:
        """End the process."""
        self._pipe.close()
        self.process.join(timeout=5)
        if self.process.is_alive():
            self.process.terminate()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self._make), daemon=True)
        with stop_signals_blocked():
            self.process.start()
        theirs.close()
        self.playing.clear()

    def _ended(self) -> None:
        self.playing.clear()
        self.process.join(timeout=5)  # the pipe may be seen to close before the process is seen to end


def make_env_pool(make: Make, processes: int) -> EnvPool:
    """Return a pool in this process, or in `processes` worker processes.

    A closed pool keeps its processes. The next call with an equal `make`, and as many, reuses them; any other call
    ends them.

    Args:
        make: makes an environment. For processes it can be pickled; whatever it brings is imported there, so that one
            from `EnvironmentSection.maker` brings neither the recipe nor torch.
        processes: how many; 0 steps the environments here.
    """
    if not processes:
        return LocalEnvPool(make)
    while _kept:
        pool = _kept.pop()
        if pool.make == make and pool.processes == processes:
            return pool
        pool.end()
    return _KeptEnvPool(make, processes)


def _serve(pipe: Connection, make: Make) -> None:
    end_with_parent()
    leave_interrupts_to_parent()
    pool = LocalEnvPool(make)
    try:
        while True:
            verb, slots, values = pipe.recv()
            outcomes = pool.reset(slots, values) if verb == "reset" else pool.step(slots, values)
            pipe.send([_packed(outcome) for outcome in outcomes])
    except (EOFError, OSError):
        pool.close()


def _packed(outcome: Outcome) -> bytes:
    """Return an outcome for another process, each by itself: what one environment returned must not harm the others."""
    try:
        return pickle.dumps(outcome)
    except Exception as error:  # of any class: what is pickled brings its own code
        return pickle.dumps(_not_sent(error))


def _unpacked(packed: bytes) -> Outcome:
    try:
        outcome: Outcome = pickle.loads(packed)
    except Exception as error:
        return _not_sent(error)
    return outcome


def _not_sent(error: Exception) -> Outcome:
    return Outcome(error=f"what the environment returned cannot leave its process: {described(error)}"[:300])
