"""Warm start: supervised training on episodes of the expert, before reinforcement learning."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch

from empg.agent.dialogue import Agent
from empg.environments.base import TextEnvironment
from empg.errors import UserError
from empg.learner.batch import MEMORY_KEYS, TokenBatch, make_batch, micro_batches
from empg.learner.muon import Muon
from empg.policy.layers import training_layers
from empg.policy.model import Policy
from empg.policy.scoring import score_tokens
from empg.recipe import Recipe, WarmStartSection
from empg.record.records import WarmStartRecord
from empg.rollout.demonstrations import Recordings, as_episode, demonstrate, recorded_plays
from empg.system.memory import explain_out_of_memory, release_memory
from empg.system.random_keys import Use, random_key
from empg.system.workers import Workers

_TIDY_EVERY = 16  # steps

Report = Callable[[WarmStartRecord], None]


def warm_start(
    policy: Policy, agent: Agent, environment: TextEnvironment, recipe: Recipe, workers: Workers, report: Report
) -> None:
    """Train `policy` on `recipe.warm_start.episodes` episodes of the expert, each used once, in task order.

    Their number is rounded down to whole steps, and at least one step is taken. Dropout stays off (`policy/layers.py`).
    Each worker generates its own share of the episodes when they are needed. Recorded episodes are spread evenly among
    them (`Recordings`). `report` receives a record after every step.

    Raises:
        UserError: no turn of the first episodes fits the token limit of the recipe, a recording does not fit the
            environment, or the loss is not finite.
    """
    section = recipe.warm_start
    assert section is not None
    optimizers = _optimizers(policy, section)
    per_step = max(1, section.episodes_per_step // workers.size)
    steps = max(1, section.episodes // (per_step * workers.size))
    recorded = section.recordings and recorded_plays(environment, Path(section.recordings), recipe.agent.form)
    recordings = Recordings(recorded or [], steps, workers.size)
    began = time.perf_counter()
    for step in range(steps):
        rate = section.lr * _schedule(step / steps, section.warmup)
        for group in itertools.chain.from_iterable(optimizer.param_groups for optimizer in optimizers):
            group["lr"] = rate
        first = (step * workers.size + workers.rank) * per_step
        shown = recordings.share(step, workers.rank)
        for index in range(first, first + per_step):
            key = random_key(Use.DEMONSTRATION, index, seed=recipe.seed)
            shown.append(
                demonstrate(environment, index % environment.num_tasks, section.noise, key, section.early_stop)
            )
        plays = [as_episode(turns, agent, recipe.rollout.max_episode_tokens) for turns in shown]
        batch = make_batch([episode for episode, _ in plays], recipe.agent.history)
        imitated = torch.tensor(list(itertools.chain.from_iterable(marks for _, marks in plays)), dtype=torch.bool)
        if step == 0 and not workers.total(len(imitated)):
            limit = recipe.rollout.max_episode_tokens
            raise UserError(f"rollout.max_episode_tokens={limit} is too small for one expert turn; increase it")
        passes = recipe.optimizer
        layers = training_layers(policy, recomputed=passes.gradient_checkpointing, compiled=passes.compile)
        with layers, explain_out_of_memory(*MEMORY_KEYS):
            loss, accuracy = _imitate(policy, optimizers, batch, imitated[batch.step], recipe, workers)
        if not math.isfinite(loss):
            raise UserError(
                f"the warm start diverged: its loss is {loss} in step {step + 1}. Lower warm_start.lr ({rate:g})"
            )
        report(
            {
                "kind": "warm_start",
                "step": step + 1,
                "steps": steps,
                "loss": loss,
                "token_accuracy": accuracy,
                "lr": rate,
                "time": time.perf_counter() - began,
            }
        )
        if step % _TIDY_EVERY == 0:
            release_memory()


def _imitate(
    policy: Policy,
    optimizers: list[torch.optim.Optimizer],
    batch: TokenBatch,
    keep: torch.Tensor,
    recipe: Recipe,
    workers: Workers,
) -> tuple[float, float]:
    """Take one optimizer step on the tokens `keep (M,)`; returns their mean loss (nats) and a bound of the accuracy."""
    total = workers.total(int(keep.sum()))
    loss, right = 0.0, 0.0
    for micro in micro_batches(batch, keep, recipe.optimizer.micro_batch_tokens, policy.device):
        with policy.autocast(recipe.optimizer.autocast):
            logprobs, _ = score_tokens(policy, micro.input_ids, micro.rows, micro.columns)
        micro_loss = -logprobs.sum() / total
        micro_loss.backward()
        loss += float(micro_loss.detach())
        # A token with a probability above one half is the most likely one: a lower bound of the accuracy.
        right += float((logprobs.detach() > math.log(0.5)).sum()) / total
    workers.sum_gradients(policy.parameters)
    torch.nn.utils.clip_grad_norm_(policy.parameters, 1.0)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return workers.total(loss), workers.total(right)


def _optimizers(policy: Policy, section: WarmStartSection) -> list[torch.optim.Optimizer]:
    """Make AdamW; or Muon for the matrices inside the layers and AdamW for the rest, at the same rate."""
    outside = [m for m in policy.model.modules() if isinstance(m, torch.nn.Embedding)]
    outside += [head for head in [policy.model.get_output_embeddings()] if head is not None]
    words = {id(p) for m in outside for p in m.parameters()}
    inner = [p for p in policy.parameters if section.optimizer == "muon" and p.ndim == 2 and id(p) not in words]
    taken = {id(p) for p in inner}
    rest = [p for p in policy.parameters if id(p) not in taken]
    decay = section.weight_decay
    optimizers: list[torch.optim.Optimizer] = []
    if rest:  # adapters are matrices only
        optimizers.append(torch.optim.AdamW(rest, lr=section.lr, betas=(0.9, 0.98), weight_decay=decay))
    if inner:
        optimizers.append(Muon(inner, lr=section.lr, weight_decay=decay))
    return optimizers


def _schedule(progress: float, warmup: float) -> float:
    """Return the factor of the learning rate: linear warm-up, then cosine decay to a tenth."""
    if progress < warmup:
        return min(1.0, (progress + 1e-3) / warmup)
    return 0.55 + 0.45 * math.cos(math.pi * (progress - warmup) / (1 - warmup))
