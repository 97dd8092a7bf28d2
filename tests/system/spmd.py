"""What every worker does in the tests of several workers; one start of the processes serves many tests."""

from __future__ import annotations

import copy
import json
import math
import multiprocessing
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from empg.errors import UserError
from empg.learner.assign import assign_credit
from empg.learner.update import Update, make_optimizer
from empg.policy.load import load_policy
from empg.policy.model import Policy
from empg.recipe import LoraSection, PolicySection
from empg.rollout.env_pool import ProcessEnvPool
from empg.rollout.types import Episode
from empg.system.workers import Workers
from tests.lamps import Lamps
from tests.learner.plays import recipe, two_groups

RECIPE = recipe(optimizer={"minibatches": 2, "epochs": 2, "lr": 1e-3}, loss={"aggregation": "episode_mean"})
ONE_STEP = recipe(optimizer={"lr": 1e-3})
REINFORCE = recipe(credit={"advantage": "reinforce", "weighting": "step"})


def shares(size: int) -> list[list[Episode]]:
    """Whole groups; the second of two workers has group 1, any further one nothing."""
    episodes = two_groups()
    return [[e for e in episodes if size == 1 or e.group == rank] for rank in range(size)]


def credit(workers: Workers, mine: list[Episode], wanted: Any = RECIPE) -> dict[str, list[float]]:
    assigned = assign_credit(mine, wanted, workers)
    assert assigned.credit.scale is not None
    return {
        "advantages": assigned.advantages.tolist(),
        "outcome": assigned.base_advantages.tolist(),
        "scale": assigned.credit.scale.tolist(),
    }


def update(
    workers: Workers, mine: list[Episode], folder: Path, wanted: Any, lora: LoraSection | None = None
) -> dict[str, Any]:
    policy = load_policy(PolicySection(model=str(folder), device="cpu", lora=lora))
    stats = Update(policy, make_optimizer(policy, wanted.optimizer), wanted, workers, None)(
        assign_credit(mine, wanted, workers), 0
    )
    counts = {"tokens": stats.tokens, "scored": stats.scored}
    return {"weights": _flat(policy), "loss": stats.loss, "grad_norm": stats.grad_norm, **counts}


def primitives(workers: Workers) -> dict[str, Any]:
    rank = float(workers.rank)
    numbers = torch.tensor([rank, -rank])
    parameters = [torch.nn.Parameter(torch.zeros(2)), torch.nn.Parameter(torch.zeros(1, 2))]
    if workers.rank == 0:  # a worker without tokens has no gradient at all
        parameters[1].grad = torch.tensor([[1.0, 2.0]])
    else:
        parameters[0].grad = torch.tensor([3.0, 4.0])
        parameters[1].grad = torch.tensor([[10.0, 20.0]])
    workers.sum_gradients(parameters)
    workers.barrier()
    return {
        "sum": workers.reduce(numbers, "sum").tolist(),
        "min": workers.reduce(numbers, "min").tolist(),
        "max": workers.reduce(numbers, "max").tolist(),
        "untouched": numbers.tolist(),
        "total": workers.total(rank + 0.5),
        "gather": workers.gather({"rank": workers.rank}),
        "first": workers.first,
        "gradients": [p.grad.tolist() for p in parameters if p.grad is not None],
    }


def everything(workers: Workers, folder: Path, keep: Callable[[list[Any]], None] | None = None) -> None:
    """All experiments, one after the other; worker 0 hands every worker's answers to `keep`."""
    mine = shares(workers.size)[workers.rank]
    poisoned = copy.deepcopy(mine)
    if workers.rank == 0:
        poisoned[0].turns[0].entropies[0] = math.nan
    pool = ProcessEnvPool(partial(Lamps, "win:1"), 1)  # a worker may step its pool in processes of its own
    answers = workers.gather(
        {
            "primitives": primitives(workers),
            "credit": credit(workers, mine),
            "reinforce": credit(workers, mine, REINFORCE),
            "poisoned": credit(workers, poisoned),
            "nothing": credit(workers, [] if workers.rank else mine),
            "one_step": update(workers, mine, folder, ONE_STEP),
            "update": update(workers, mine, folder, RECIPE),
            "adapter": update(workers, mine, folder, ONE_STEP, LoraSection(r=2)),
            "idle": update(workers, [] if workers.rank else mine, folder, RECIPE),
            "observation": pool.reset([0], [0])[0].observation,
        }
    )
    pool.close()
    if keep is not None:
        keep(answers)


def fail(workers: Workers) -> None:
    """A worker that ends with an error."""
    workers.barrier()
    raise ValueError("this worker fails")


def refuse(workers: Workers) -> None:
    """A worker that meets an error of the user."""
    raise UserError("the judge does not answer: expected a reply")


def wait(workers: Workers) -> None:
    """A worker that waits for worker 0 in a collective that never comes."""
    workers.barrier()
    workers.barrier()


class Unreadable:
    """An argument with which a worker fails, or stays, before it can join the others."""

    def __init__(self, call: Callable[[Any], object], value: Any) -> None:
        self.made = call, (value,)

    def __reduce__(self) -> Any:
        return self.made


def linger(workers: Workers) -> None:
    """Start a process each and stay; worker 0 prints the ids of all processes but itself, worker 1 waits for it."""
    pool = ProcessEnvPool(partial(Lamps, "win:1"), 1)
    pool.reset([0], [0])
    shares = workers.gather([os.getpid(), *(child.pid for child in multiprocessing.active_children())])
    if workers.first:
        print(json.dumps(sorted({pid for share in shares for pid in share} - {os.getpid()})), flush=True)
    elif workers.rank == 1:
        workers.barrier()
    time.sleep(600)


def _flat(policy: Policy) -> list[float]:
    return torch.cat([p.detach().reshape(-1) for p in policy.parameters]).tolist()
