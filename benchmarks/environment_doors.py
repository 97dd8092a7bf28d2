"""Measure the steps per second of an environment by each way to use it: directly, gymnasium, an OpenEnv server.

Every way plays the same tasks with random commands. Seconds are of wall time, because a server and its clients are two
processes. It needs OpenEnv: `make test-openenv`, then

.venv-openenv/bin/python benchmarks/environment_doors.py alfworld
.venv-openenv/bin/python benchmarks/environment_doors.py webshop --sessions 64
"""

from __future__ import annotations

import argparse
import asyncio
import random
import subprocess
import sys
import time
from typing import Any

import gymnasium
from openenv.core import GenericEnvClient

from empg.environments import registry
from empg.environments.base import ANSWER, SEARCH
from empg.play import arguments_of
from empg.system.machine import processor


def choose(info: dict[str, Any], rng: random.Random) -> str:
    """Choose an admissible command, or a search for a word of the task."""
    commands = [command for command in info["admissible"] or [] if command not in (SEARCH, ANSWER)]
    return rng.choice([*commands, f"search[{rng.choice(info['task'].split())}]"])


def play_gymnasium(environment: gymnasium.Env[str, str], seconds: float) -> float:
    """Play random episodes for some seconds; returns steps per second."""
    steps, task, began = 0, 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        rng, over = random.Random(task), False
        _, info = environment.reset(options={"task": task})
        while not over:
            _, _, terminated, truncated, info = environment.step(choose(info, rng))
            steps, over = steps + 1, terminated or truncated
        task += 1
    return steps / (time.perf_counter() - began)


async def play_client(client: Any, first: int, stride: int, deadline: float) -> int:
    """Play random episodes with an OpenEnv client until the deadline; returns the number of steps."""
    steps, task = 0, first
    async with client:
        while time.perf_counter() < deadline:
            rng = random.Random(task)
            result = await client.reset(split="train", index=task)
            while not result.done and time.perf_counter() < deadline:
                result = await client.step({"command": choose(result.observation, rng)})
                steps += 1
            task += stride
    return steps


def play_server(environment: str, options: list[str], sessions: int, seconds: float) -> float:
    """Serve the environment in another process and play with some sessions at once; returns steps per second."""
    command = [sys.executable, "-m", "empg", "serve-environment", environment, *options]
    command += ["--split", "train", "--sessions", str(sessions), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[0]

        async def all_sessions(seconds: float) -> int:
            deadline = time.perf_counter() + seconds
            played = (play_client(GenericEnvClient(base_url=url), n, sessions, deadline) for n in range(sessions))
            return sum(await asyncio.gather(*played))

        asyncio.run(all_sessions(1.0))  # every session's environment is made
        return asyncio.run(all_sessions(seconds)) / seconds
    finally:
        process.terminate()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", choices=("alfworld", "deepsearch", "webshop"))
    parser.add_argument("options", nargs="*", help="options of the environment, as key=value")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 64], help="sessions at once of the server")
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each measurement")
    arguments = parser.parse_args()
    spec = registry.find(arguments.environment)
    options = arguments_of(arguments.options)
    direct = registry.make(arguments.environment, "train", options)
    wrapped = gymnasium.make(str(spec.gymnasium_id), split="train", **options) if spec.gymnasium_id else None
    rows = [("direct", play_gymnasium(direct, arguments.seconds))]
    if wrapped is not None:
        rows.append((f"gymnasium.make({spec.gymnasium_id!r})", play_gymnasium(wrapped, arguments.seconds)))
    for sessions in arguments.sessions:
        rate = play_server(arguments.environment, arguments.options, sessions, arguments.seconds)
        rows.append((f"OpenEnv server and client, sessions: {sessions}", rate))
    print(f"{arguments.environment} {' '.join(arguments.options)}; {processor()}")
    for name, rate in rows:
        print(f"{name:48} {rate:8,.0f} steps/s")


if __name__ == "__main__":
    main()
