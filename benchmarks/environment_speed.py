"""Measure the steps per second of an environment in one process: random play, and the expert with its computation.

Seconds are of processor time, so that other work on the machine matters little.

python benchmarks/environment_speed.py webshop products=10000
python benchmarks/environment_speed.py deepsearch observation=passages retriever=tantivy
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from functools import partial

import yaml

from empg.environments import registry
from empg.environments.base import ANSWER, SEARCH, TextEnvironment

Play = Callable[[TextEnvironment, int, random.Random], int]
SEARCHES = {"alfworld": 0.0, "webshop": 0.15, "deepsearch": 0.5}  # share of searches among the turns of random play


def random_play(search_rate: float, environment: TextEnvironment, task: int, rng: random.Random) -> int:
    """Play at random. A search consists of words of the task, as an agent would write it; most searches are new."""
    _, info = environment.reset(options={"task": task})
    steps, over = 0, False
    while not over:
        words = info["task"].split()
        search = f"search[{' '.join(rng.sample(words, min(6, len(words))))}]"
        others = [command for command in info["admissible"] or [] if command not in (SEARCH, ANSWER)]
        action = search if not others or rng.random() < search_rate else rng.choice(others)
        _, _, terminated, truncated, info = environment.step(action)
        steps, over = steps + 1, terminated or truncated
    return steps


def expert_play(environment: TextEnvironment, task: int, rng: random.Random) -> int:
    observation, info = environment.reset(options={"task": task})
    expert = environment.expert()
    steps, over = 0, False
    while not over:
        observation, _, terminated, truncated, info = environment.step(expert.act(observation, info)["action"])
        steps, over = steps + 1, terminated or truncated
    return steps


def measure(environment: TextEnvironment, play: Play, seconds: float) -> tuple[float, float]:
    """Return steps per second and episodes per second."""
    rng, steps, episodes = random.Random(0), 0, 0
    begun = time.process_time()
    while time.process_time() - begun < seconds:
        steps += play(environment, rng.randrange(environment.num_tasks), rng)
        episodes += 1
    elapsed = time.process_time() - begun
    return steps / elapsed, episodes / elapsed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environment", choices=sorted(SEARCHES))
    parser.add_argument("options", nargs="*", help="options of the environment, as key=value")
    parser.add_argument("--seconds", type=float, default=5.0, help="duration of each measurement")
    arguments = parser.parse_args()
    options = {key: yaml.safe_load(value) for key, _, value in (option.partition("=") for option in arguments.options)}
    begun = time.perf_counter()
    environment = registry.make(arguments.environment, "train", options)
    ready = time.perf_counter() - begun
    print(f"{arguments.environment} {options or ''}: {environment.num_tasks:,} tasks, ready in {ready:.2f} s")
    for name, play in (("random play", partial(random_play, SEARCHES[arguments.environment])), ("expert", expert_play)):
        steps, episodes = measure(environment, play, arguments.seconds)
        print(f"{name:12} {steps:8,.0f} steps/s  {episodes:6,.0f} episodes/s")


if __name__ == "__main__":
    main()
