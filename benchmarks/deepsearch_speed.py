"""Deep Search steps per second, in one process: random searches and pages, and the expert with its thinking.

python benchmarks/deepsearch_speed.py [--retriever bm25] [--observation list] [--seconds 5]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

from empg.environments.deepsearch import DeepSearchEnv

Play = Callable[[DeepSearchEnv, int, random.Random], int]


def play_at_random(environment: DeepSearchEnv, task: int, dice: random.Random) -> int:
    _, info = environment.reset(options={"task": task})
    while True:
        # A search as an agent would write one: some words of the question. Most of them are new.
        words = info["task"].split()
        search = f"search[{' '.join(dice.sample(words, min(5, len(words))))}]"
        pages = [command for command in info["admissible"] or [] if command.startswith("open")]
        action = dice.choice(pages) if pages and dice.random() < 0.5 else search
        _, _, terminated, truncated, info = environment.step(action)
        if terminated or truncated:
            return environment.state.steps


def play_expert(environment: DeepSearchEnv, task: int, dice: random.Random) -> int:
    observation, info = environment.reset(options={"task": task})
    expert = environment.expert()
    while True:
        observation, _, terminated, truncated, info = environment.step(expert.act(observation, info)["action"])
        if terminated or truncated:
            return environment.state.steps


def measure(environment: DeepSearchEnv, play: Play, seconds: float) -> tuple[float, float]:
    """Steps and episodes per second."""
    dice, steps, episodes = random.Random(0), 0, 0
    begun = time.perf_counter()
    while time.perf_counter() - begun < seconds:
        steps += play(environment, dice.randrange(environment.num_tasks), dice)
        episodes += 1
    passed = time.perf_counter() - begun
    return steps / passed, episodes / passed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--retriever", default="bm25")
    parser.add_argument("--observation", default="list")
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    begun = time.perf_counter()
    environment = DeepSearchEnv(retriever=arguments.retriever, observation=arguments.observation)
    ready = time.perf_counter() - begun
    print(f"{arguments.retriever}, {environment.num_tasks:,} train questions, ready in {ready:.2f} s")
    for name, play in (("random play", play_at_random), ("expert", play_expert)):
        steps, episodes = measure(environment, play, arguments.seconds)
        print(f"{name:12} {steps:8,.0f} steps/s  {episodes:6,.0f} episodes/s")


if __name__ == "__main__":
    main()
