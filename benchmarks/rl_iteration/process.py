"""Each side works in a process of its own, step by step when it is asked, so that sides alternate."""

from __future__ import annotations

import importlib
import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


@dataclass
class Stopwatch:
    """Processor seconds (all threads of the process) and wall seconds of named phases."""

    cpu: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)

    def start(self) -> None:
        """Forget the phases of the last step."""
        self.cpu, self.wall = {}, {}
        self._last = time.process_time(), time.perf_counter()

    def stop(self, phase: str) -> None:
        """Add the time since the last call to a phase."""
        now = time.process_time(), time.perf_counter()
        for seconds, later, earlier in zip((self.cpu, self.wall), now, self._last, strict=True):
            seconds[phase] = seconds.get(phase, 0.0) + later - earlier
        self._last = now

    def result(self) -> dict[str, Any]:
        """Seconds by phase, and the memory of this process in MiB."""
        return {"cpu": self.cpu, "wall": self.wall, **memory()}


def memory() -> dict[str, float]:
    """Resident memory of this process now and at its peak, in MiB (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return {"rss": sizes["VmRSS"], "peak_rss": sizes["VmHWM"]}


class Side:
    """A child process that runs a function of this package, such as `empg_side.iterations`.

    The function gets `next_step`, which waits until a step is wanted (False: it should return), `send`, which takes the
    result of a step, and `args`. Its module is imported in the child only.
    """

    def __init__(self, name: str, *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        self._process = context.Process(target=_child, args=(other, name, args), daemon=True)
        self._process.start()
        other.close()

    def step(self) -> dict[str, Any]:
        """Let the process take a step; returns what it sends.

        Raises:
            RuntimeError: the process ended; its traceback is on the terminal.
        """
        try:
            self._pipe.send(True)
            return self._pipe.recv()
        except (EOFError, BrokenPipeError):
            self._process.join()
            raise RuntimeError(f"a process ended with exit code {self._process.exitcode}; see above") from None

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.join()


def alternate(sides: dict[str, Side], runs: int) -> dict[str, list[dict[str, Any]]]:
    """Take `runs` steps of each side in turns, after one step to warm up; close the sides.

    Returns:
        The results of each side; the first one is that of the warm-up.
    """
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    try:
        for run in range(runs + 1):
            order: Sequence[str] = list(sides) if run % 2 else list(sides)[::-1]
            for name in order:
                results[name].append(sides[name].step())
    finally:
        for side in sides.values():
            side.close()
    return results


def _child(pipe: Connection, name: str, args: tuple[Any, ...]) -> None:
    module, _, function = name.partition(".")
    work = getattr(importlib.import_module(f"benchmarks.rl_iteration.{module}"), function)

    def next_step() -> bool:
        try:
            return bool(pipe.recv())
        except EOFError:
            return False

    work(next_step, pipe.send, *args)
