"""What both sides work on: the recipe, the policy at the start, the tasks of an iteration, and fixed episodes."""

from __future__ import annotations

import dataclasses
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from empg.learner.warm_start import warm_start
from empg.policy.model import Policy
from empg.recipe import Recipe, load_recipe
from empg.rollout.collector import Request
from empg.rollout.types import EndReason, Episode, Turn
from empg.run.build import build_agent, build_policy, play
from empg.system.random_keys import Use, random_key
from empg.system.workers import Workers

ROOT = Path(__file__).parents[2]
SPLIT = "train"
_OLD_POLICY_NOISE = 0.2  # nats, added to the log-probabilities of fixed episodes, so that both clip bounds are active

# The demo's policy and environment. What TRL has no equivalent of is off, so that both sides do the same work: groups
# without signal stay, invalid turns are not punished. The learning rate keeps the policy the same in all runs.
_OVERRIDES = [
    "workers=1",
    "policy.device=cpu",
    "warm_start.episodes=2400",
    "rollout.groups=8",
    "rollout.group_size=8",
    "credit.drop_zero_variance=false",
    "credit.invalid_penalty=0.0",
    "optimizer.lr=1.0e-9",
    "optimizer.schedule=constant",
    "optimizer.warmup_iterations=0",
    "optimizer.minibatches=1",
    "optimizer.epochs=1",
    "optimizer.autocast=false",
    "optimizer.max_grad_norm=1.0e+9",  # the norm is computed, the gradient stays comparable
]
_SMALL = [
    "environment.max_steps=3",
    "policy.tiny={hidden_size: 32, layers: 2, heads: 2, intermediate_size: 64, vocab_size: 400, embedding_std: 0.5}",
    "warm_start.episodes=32",
    "rollout.groups=2",
    "rollout.group_size=4",
    "rollout.max_episode_tokens=512",
]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """The work of all parts.

    Attributes:
        folder: holds the policy and the fixed episodes; both are made on the first use.
        small: a model and episodes that take seconds: the figures mean nothing.
        threads: torch threads of each process.
    """

    folder: Path
    small: bool = False
    threads: int = 1

    @property
    def recipe(self) -> Recipe:
        """The recipe of both sides."""
        return load_recipe(ROOT / "recipes" / "demo.yaml", [*_OVERRIDES, *(_SMALL if self.small else [])])

    @property
    def policy_folder(self) -> Path:
        """A Hugging Face folder with the policy at the start."""
        return self.folder / "policy"

    @property
    def episodes_file(self) -> Path:
        """The fixed episodes."""
        return self.folder / "episodes.json"

    def prepare(self) -> None:
        """Warm-start the policy and play the fixed episodes, unless the folder already has them."""
        recipe = self.recipe
        if not self.policy_folder.is_dir():
            policy = build_policy(recipe)
            environment = recipe.environment.make(SPLIT)
            warm_start(policy, build_agent(recipe, policy), environment, recipe, Workers(), lambda record: None)
            policy.save(self.policy_folder)
        if not self.episodes_file.exists():
            episodes = play(recipe, self.policy(), SPLIT, requests(recipe, 0))
            self.episodes_file.write_text(json.dumps([_as_data(e, i) for i, e in enumerate(episodes)]))

    def policy(self) -> Policy:
        """The policy at the start, as empg loads it."""
        return build_policy(self.recipe, self.policy_folder)

    def episodes(self) -> list[Episode]:
        """The fixed episodes."""
        return [_as_episode(data) for data in json.loads(self.episodes_file.read_text())]


def requests(recipe: Recipe, iteration: int) -> list[Request]:
    """The episodes of an iteration: groups of the same task, with the random numbers of a training run."""
    rollout = recipe.rollout
    return [
        Request(
            iteration * rollout.groups + group,
            group,
            random_key(Use.ROLLOUT, iteration, group, member, seed=recipe.seed),
        )
        for group in range(rollout.groups)
        for member in range(rollout.group_size)
    ]


def _as_data(episode: Episode, index: int) -> dict[str, Any]:
    data = dataclasses.asdict(episode)
    data["end"] = episode.end.value
    noise = random.Random(index)
    for turn in data["turns"]:
        turn["info"] = {}
        turn["logprobs"] = [value + noise.gauss(0.0, _OLD_POLICY_NOISE) for value in turn["logprobs"]]
    return data


def _as_episode(data: dict[str, Any]) -> Episode:
    turns = [Turn(**turn) for turn in data["turns"]]
    return Episode(**{**data, "turns": turns, "end": EndReason(data["end"])})
