"""Rewards of single steps from outside: a reward model, a judge, a rule of one's own, named in the recipe."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence

from empg.errors import UserError
from empg.rollout.types import Episode

StepRewards = Callable[[Episode], Sequence[float]]
"""One finite number per turn of an episode, in its order. It is called once for every episode that trains."""


@functools.cache
def load_step_rewards(name: str) -> StepRewards:
    """The function that `credit.process_reward` names, `package.module:function`.

    Raises:
        UserError: there is none of that name, in one line that says why.
    """
    module, separator, attribute = name.partition(":")
    key = f"credit.process_reward={name}"
    if not separator or not module or not attribute.isidentifier():
        raise UserError(f"{key} is not of the form package.module:function")
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise UserError(f"{key}: {error}; install it, or put its folder into PYTHONPATH") from None
    if not callable(function):
        raise UserError(f"{key}: {module} has no function {attribute}")
    return function  # type: ignore[no-any-return]


def step_rewards(episode: Episode, name: str | None) -> list[float]:
    """What the function named `name` gives each turn of an episode; zeros without one.

    Raises:
        UserError: as `load_step_rewards`; or it does not give one finite number per turn.
    """
    if name is None:
        return [0.0] * len(episode.turns)
    rewards = [float(reward) for reward in load_step_rewards(name)(episode)]
    if len(rewards) != len(episode.turns) or not all(map(math.isfinite, rewards)):
        wanted = f"{len(episode.turns)} finite numbers are needed, one per turn"
        raise UserError(f"credit.process_reward={name}: task {episode.task_id}: {wanted}; got {rewards!r:.200}")
    return rewards
