"""Compare the speed of our ALFWorld engine with the real one (textworld, as alfworld wraps it) on the same games.

    python benchmarks/alfworld_speed.py        # about a minute; needs empg[textworld]

Three processes run one after another: our engine, the unmodified real engine, and the real engine with the two caches
of `empg.environments.alfworld.textworld.memoise`. Each plays the same full rooms with the same commands, lists the
admissible commands after every step, and prints a digest of its output. The three digests must be equal.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from empg.environments.alfworld.generator import generate
from empg.environments.alfworld.rules import Engine
from empg.environments.alfworld.textworld import RealGame, memoise
from empg.environments.alfworld.world import Game, TaskType

STEPS = 20  # per episode
REAL_EPISODES, OUR_EPISODES = 2, 200  # per game; our engine needs more for a reliable time
ENGINES = {"ours": "empg", "real": "textworld, unmodified", "memoised": "textworld with caches"}


def games(number: int) -> list[Game]:
    """Generate full rooms of the training split, one task type after another."""
    types = list(TaskType)
    return [generate("train", index, "full", [types[index % len(types)]]) for index in range(number)]


def commands(game: Game) -> list[str]:
    """Return a random episode in which half of the commands change something, if such a command is admissible."""
    engine, rng = Engine(game), random.Random(game.task_id)
    state = engine.start()
    episode = []
    for _ in range(STEPS):
        admissible = engine.admissible(state)
        effective = [c for c in admissible if not c.startswith(("go to", "help", "look", "inventory"))]
        episode.append(rng.choice(effective if effective and rng.random() < 0.5 else admissible))
        engine.step(state, episode[-1])
    return episode


class Ours:
    """Our engine with the interface of `RealGame`."""

    def __init__(self, game: Game) -> None:
        self._engine = Engine(game)

    def reset(self) -> None:  # noqa: D102
        self._state = self._engine.start()
        self.observation = self._engine.opening(self._state)
        self.admissible = self._engine.admissible(self._state)

    def step(self, command: str) -> None:  # noqa: D102
        self.observation, _ = self._engine.step(self._state, command)
        self.admissible = self._engine.admissible(self._state)

    def close(self) -> None:  # noqa: D102
        pass


def play(which: str, number: int) -> dict[str, Any]:
    """Play every game and return the mean seconds of each kind of call, the number of timed calls, and the digest."""
    if which == "memoised":
        memoise()
    make, episodes = (Ours, OUR_EPISODES) if which == "ours" else (RealGame, REAL_EPISODES)
    make(games(1)[0]).close()  # imports on first use are not measured
    seconds = {"load": 0.0, "reset": 0.0, "step": 0.0}
    digest = hashlib.sha256()
    for game in games(number):
        episode = commands(game)
        began = time.process_time()
        played = make(game)
        played.reset()  # the first one translates the game
        seconds["load"] += time.process_time() - began
        for _ in range(episodes):
            began = time.process_time()
            played.reset()
            ready = time.process_time()
            log = [played.observation, *played.admissible]
            for command in episode:
                played.step(command)
                log.append(played.observation)
                log.extend(played.admissible)
            seconds["reset"] += ready - began
            seconds["step"] += time.process_time() - ready
        digest.update("\n".join(log).encode())
        played.close()
    counts = {"load": number, "reset": number * episodes, "step": number * episodes * STEPS}
    return {
        "seconds": {what: seconds[what] / counts[what] for what in seconds},
        "counts": counts,
        "digest": digest.hexdigest(),
    }


def machine() -> str:
    """Return the processor and the versions that the figures hold for."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("empg", "textworld", "alfworld"))
    return f"{cpu}, {os.cpu_count()} cores (one used); Python {platform.python_version()}, {versions}"


def human(seconds: float) -> str:
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--games", type=int, default=6, help="number of full rooms (default 6, one per task type)")
    parser.add_argument("--engine", choices=list(ENGINES), help=argparse.SUPPRESS)  # one of the three processes
    options = parser.parse_args()
    if options.engine:
        print(json.dumps(play(options.engine, options.games)))
        return
    results = {}
    for which in ENGINES:
        command = [sys.executable, __file__, "--engine", which, "--games", str(options.games)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results[which] = json.loads(done.stdout.splitlines()[-1])
    print(machine())
    print(f"{options.games} full rooms, {STEPS} steps per episode, admissible commands listed at every step\n")
    print(f"{'':22}{'load':>9}{'reset':>9}{'step':>9}{'steps/s':>10}{'timed':>29}{'speed-up of empg':>33}")
    ours = results["ours"]["seconds"]
    for which, name in ENGINES.items():
        mean, counts = results[which]["seconds"], results[which]["counts"]
        times = "".join(f"{human(mean[what]):>9}" for what in ("load", "reset", "step"))
        timed = f"{counts['reset']:,} resets, {counts['step']:,} steps"
        gain = f"{mean['reset'] / ours['reset']:,.0f}x reset, {mean['step'] / ours['step']:,.0f}x step"
        print(f"{name:22}{times}{1 / mean['step']:>10,.0f}{timed:>29}{gain:>33}")
    print("\nload includes the first reset; reset is for a loaded game. Processor seconds of one process.")
    if len({result["digest"] for result in results.values()}) != 1:
        sys.exit("the output of the engines differs: the figures compare different games")
    print("The output of the three engines is identical.")


if __name__ == "__main__":
    main()
