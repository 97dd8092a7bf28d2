"""WebShop steps per second, in one process: random clicks and searches, and the expert with its thinking.

python benchmarks/webshop_speed.py [--products 1000] [--seconds 5]
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable

from empg.environments.webshop import WebShopEnv

Play = Callable[[WebShopEnv, int, random.Random], int]


def play_at_random(environment: WebShopEnv, task: int, dice: random.Random) -> int:
    _, info = environment.reset(options={"task": task})
    while True:
        # A search as an agent would write one: some words of the instruction. Every one of them is new.
        words = info["task"].split()
        search = f"search[{' '.join(dice.sample(words, min(6, len(words))))}]"
        clicks = [command for command in info["admissible"] or [] if command.startswith("click")]
        action = dice.choice(clicks) if clicks and dice.random() < 0.85 else search
        _, _, terminated, truncated, info = environment.step(action)
        if terminated or truncated:
            return environment.state.steps


def play_expert(environment: WebShopEnv, task: int, dice: random.Random) -> int:
    observation, info = environment.reset(options={"task": task})
    expert = environment.expert()
    while True:
        observation, _, terminated, truncated, info = environment.step(expert.act(observation, info)["action"])
        if terminated or truncated:
            return environment.state.steps


def measure(environment: WebShopEnv, play: Play, seconds: float) -> tuple[float, float]:
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
    parser.add_argument("--products", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=5.0)
    arguments = parser.parse_args()
    begun = time.perf_counter()
    environment = WebShopEnv(products=arguments.products)
    ready = time.perf_counter() - begun
    print(f"{arguments.products:,} products, {environment.num_tasks:,} train goals, ready in {ready:.2f} s")
    for name, play in (("random play", play_at_random), ("expert", play_expert)):
        steps, episodes = measure(environment, play, arguments.seconds)
        print(f"{name:12} {steps:8,.0f} steps/s  {episodes:6,.0f} episodes/s")


if __name__ == "__main__":
    main()
