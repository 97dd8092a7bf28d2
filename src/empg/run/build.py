"""Build the parts of a run from a recipe: policy, agent, decoder, environments."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.agent.template import prints_date
from empg.errors import UserError
from empg.policy.context_length import require_length
from empg.policy.decode import Decoder, Sampling
from empg.policy.device import choose_kernels, computes_bfloat16, resolve_device
from empg.policy.load import load_policy
from empg.policy.model import Policy
from empg.policy.source import load_tokenizer
from empg.recipe import Recipe
from empg.rollout.collector import Collector, Request
from empg.rollout.demonstrations import corpus
from empg.rollout.endpoint import is_endpoint
from empg.rollout.env_pool import make_env_pool
from empg.rollout.types import Episode
from empg.system.memory import bound_kernel_caches, explain_out_of_memory
from empg.system.random_keys import Use, random_key

CORPUS_EPISODES = 300


def resolve(recipe: Recipe, like: Recipe | None = None, *, local: bool = False) -> Recipe:
    """Resolve values that depend on the machine and the day, so that the recipe in the run folder records them.

    The folder of a model becomes an absolute path, so that the recipe means the same model in every working directory.

    Args:
        recipe: the recipe as it was written.
        like: the resolved recipe of a run that continues, which keeps its values.
        local: download nothing; whether a model that is not on this machine needs the date stays open.

    Raises:
        UserError: the tokenizer of the model is unavailable or cannot be used; not with `local`.
    """
    recipe = recipe.replaced({"policy.model": _model_path(recipe.policy.model, like.policy.model if like else None)})
    resolved: dict[str, Any] = {"environment.options": recipe.environment.chosen.resolved().model_dump(mode="json")}
    if recipe.optimizer.autocast == "auto":
        faster = recipe.policy.model != "tiny" and computes_bfloat16(resolve_device(recipe.policy.device))
        resolved["optimizer.autocast"] = like.optimizer.autocast if like else faster
    if recipe.agent.date is None and (like is not None or uses_date(recipe, local=local)):
        resolved["agent.date"] = like.agent.date if like else datetime.date.today()
    return recipe.replaced(resolved)


def _model_path(model: str, known: str | None) -> str:
    """Return the absolute path of a folder; or `known`, if this is the same folder. Other names stay as they are."""
    if model == "tiny" or not os.path.isdir(model):
        return model
    if known is not None and known != "tiny" and os.path.isdir(known) and os.path.samefile(model, known):
        return known
    return str(Path(model).absolute())


def uses_date(recipe: Recipe, *, local: bool = False) -> bool:
    """Return whether the policy reads the date: the chat template of its model prints it. An endpoint's is unknown.

    With `local`, so is that of a model that is not on this machine.
    """
    model = recipe.policy.model
    if model == "tiny" or is_endpoint(model):
        return False
    try:
        return prints_date(load_tokenizer(model, local=local))
    except UserError:
        if local:
            return False
        raise


def build_policy(recipe: Recipe, start: Path | None = None) -> Policy:
    """Build the policy of a recipe; with `start`, load the weights of that folder (a checkpoint or `start`).

    Raises:
        UserError: the model is unavailable, cannot be used, or its context is shorter than `max_episode_tokens`.
    """
    bound_kernel_caches()
    section = recipe.policy
    choose_kernels(resolve_device(section.device), autocast=bool(recipe.optimizer.autocast))
    if start is not None and section.lora is None:
        return _with_checked_length(load_policy(section.model_copy(update={"model": str(start)})), recipe)
    texts = None
    if section.model == "tiny":
        key, prompt = random_key(Use.CORPUS, seed=recipe.seed), recipe.environment.spec.prompt
        with closing(recipe.imitated_environment.make(recipe.environment.train_split)) as environment:
            texts = corpus(environment, prompt, recipe.agent.form, CORPUS_EPISODES, key)
    policy = load_policy(section, texts, recipe.seed)
    if start is not None:
        policy.load_weights(start)
    return _with_checked_length(policy, recipe)


def _with_checked_length(policy: Policy, recipe: Recipe) -> Policy:
    require_length(policy.model.config, recipe.rollout.max_episode_tokens, recipe.policy.model)
    return policy


def build_agent(recipe: Recipe, policy: Policy) -> Agent:
    """Build the agent of a recipe for this policy.

    Raises:
        UserError: the policy's tokenizer or chat template cannot write the recipe's turns.
    """
    section = recipe.agent
    chat = ChatFormat(policy.tokenizer, ends=policy.ends, arguments=section.template_arguments, date=section.date)
    agent = Agent(recipe.environment.spec.prompt, section, chat)
    agent.check()
    return agent


def play(
    recipe: Recipe,
    policy: Policy,
    split: str,
    requests: Sequence[Request],
    *,
    greedy: bool = False,
    temperature: float | None = None,
    done: Callable[[int], None] | None = None,
    keep: Callable[[Episode], None] | None = None,
) -> list[Episode]:
    """Play `requests` with the settings of the recipe and return the episodes in the same order.

    `done` and `keep` are those of `Collector.collect`.
    """
    rollout = recipe.rollout
    sampling = Sampling(temperature or rollout.temperature, rollout.top_p, greedy, rollout.max_turn_tokens)
    slots = max(1, min(rollout.slots, len(requests)))
    passes = recipe.optimizer
    decoder = Decoder(
        policy,
        slots,
        rollout.max_episode_tokens,
        sampling,
        autocast=passes.autocast,
        pass_tokens=passes.micro_batch_tokens,
    )
    pool = make_env_pool(recipe.environment.maker(split), recipe.environment.workers)
    try:
        collector = Collector(decoder, build_agent(recipe, policy), pool, split, rollout.max_episode_tokens)
        with (
            policy.keeping_casts(),
            explain_out_of_memory("rollout.slots", "rollout.max_episode_tokens", "optimizer.micro_batch_tokens"),
        ):
            return collector.collect(requests, done, keep)
    finally:
        pool.close()
