"""The parts of a run, put together from a recipe: policy, agent form, decoder, worlds."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import empg
from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.agent.prompts import WORLDS
from empg.caching import cache_folder
from empg.journal import Journal
from empg.learner.demonstrations import corpus, recording_files
from empg.learner.warm_start import warm_start
from empg.learner.workers import Workers
from empg.policy.decode import Decoder, Sampling
from empg.policy.model import Policy, computes_bfloat16, load_policy, require_length, resolve_device
from empg.recipe import Recipe
from empg.rollout.collector import Collector, Request
from empg.rollout.types import Episode
from empg.rollout.worlds import make_environment, make_worlds

# The first number of every random key says what it is for, so that no two uses share a stream.
ROLLOUT_KEY, EVALUATION_KEY, CORPUS_KEY = 10, 11, 12
CORPUS_EPISODES = 300


def settled(recipe: Recipe) -> Recipe:
    """The recipe with what depends on this machine decided, so that a run's own recipe says what was done."""
    if recipe.optimizer.autocast != "auto":
        return recipe
    autocast = computes_bfloat16(resolve_device(recipe.policy.device))
    return recipe.model_copy(update={"optimizer": recipe.optimizer.model_copy(update={"autocast": autocast})})


def build_policy(recipe: Recipe, start: Path | None = None) -> Policy:
    """The recipe's policy; with `start`, as it is in that folder (what a run began from, or one of its checkpoints).

    Raises:
        ValueError: the model cannot be had, cannot be used, or cannot read as much as the recipe's episodes hold.
    """
    section = recipe.policy
    if start is not None and section.lora is None:
        return _reads_enough(load_policy(section.model_copy(update={"model": str(start)})), recipe)
    texts = None
    if section.model == "tiny":
        environment = make_environment(recipe.environment, recipe.environment.train_split)
        world = WORLDS[recipe.environment.id]
        texts = corpus(environment, world, recipe.agent.form, CORPUS_EPISODES, (recipe.seed, CORPUS_KEY))
    policy = load_policy(section, texts, recipe.seed)
    if start is not None:
        policy.load_weights(start)
    return _reads_enough(policy, recipe)


def _reads_enough(policy: Policy, recipe: Recipe) -> Policy:
    require_length(policy.model.config, recipe.rollout.max_episode_tokens, recipe.policy.model)
    return policy


def build_agent(recipe: Recipe, policy: Policy) -> Agent:
    """The form in which this policy talks with the recipe's world."""
    return Agent.create(recipe.environment.id, recipe.agent, ChatFormat(policy.tokenizer))


def starting_policy(recipe: Recipe, workers: Workers, journal: Journal) -> Policy:
    """The policy that learning from reward starts from: warm-started, or taken from the cache, or as the recipe has it.

    The cache (`$XDG_CACHE_HOME/empg`) is keyed by everything that shapes a warm start, this package's code included.
    """
    if recipe.warm_start is None:
        return build_policy(recipe)
    cached = _cache_folder(recipe)
    found = workers.gather(cached.is_dir())
    if all(found):
        journal.say(f"warm start taken from {cached}")
        return build_policy(recipe, cached)
    journal.stage("expert play for the tokenizer")
    policy = build_policy(recipe)
    journal.stage("warm start")
    environment = make_environment(recipe.environment, recipe.environment.train_split)
    warm_start(policy, build_agent(recipe, policy), environment, recipe, workers, journal.warm_start)
    if workers.first:
        _keep(policy, cached, journal)
    workers.barrier()
    return policy


def _keep(policy: Policy, cached: Path, journal: Journal) -> None:
    partial = cached.with_name(f".{cached.name}.{os.getpid()}")
    try:
        policy.save(partial)
        shutil.rmtree(cached, ignore_errors=True)
        partial.rename(cached)
    except OSError as error:  # the cache only saves time
        shutil.rmtree(partial, ignore_errors=True)
        journal.say(f"cannot keep the warm start in {cached}: {error.strerror or error}; the run goes on without")


def play(
    recipe: Recipe,
    policy: Policy,
    split: str,
    requests: Sequence[Request],
    *,
    greedy: bool = False,
    temperature: float | None = None,
    done: Callable[[int], None] | None = None,
) -> list[Episode]:
    """Play `requests` with the recipe's settings; the episodes come back in their order."""
    rollout = recipe.rollout
    sampling = Sampling(temperature or rollout.temperature, rollout.top_p, greedy, rollout.max_turn_tokens)
    slots = max(1, min(rollout.slots, len(requests)))
    decoder = Decoder(policy, slots, rollout.max_episode_tokens, sampling)
    worlds = make_worlds(recipe.environment, split)
    try:
        collector = Collector(decoder, build_agent(recipe, policy), worlds, split, rollout.max_episode_tokens)
        return collector.collect(requests, done)
    finally:
        worlds.close()


def _cache_folder(recipe: Recipe) -> Path:
    shaping = recipe.model_dump(
        mode="json",
        include={
            "seed": True, "workers": True, "environment": True, "policy": True, "agent": True, "warm_start": True,
            "rollout": {"max_episode_tokens"}, "optimizer": {"autocast", "micro_batch_tokens"},
        },
    )
    text = json.dumps([empg.__version__, _code(), shaping, *_recorded(recipe)], sort_keys=True)
    return cache_folder() / f"warm-start-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _recorded(recipe: Recipe) -> list[str]:
    """Digests of the recordings that a warm start imitates: a file that grew makes another warm start."""
    if recipe.warm_start is None or recipe.warm_start.recordings is None:
        return []
    files = recording_files(Path(recipe.warm_start.recordings))
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


@functools.cache
def _code() -> str:
    """A digest of this package's own code: a changed prompt, expert or tokenizer makes another warm start."""
    package = Path(empg.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()
