"""Step rewards from a function named in the recipe: a reward model, a judge, a rule of your own."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Sequence

from empg.errors import UserError
from empg.rollout.types import Episode

StepRewards = Callable[[Episode], Sequence[float]]
"""From an episode to one finite number per turn, in order. Called once for each episode that is trained on."""


@functools.cache
def load_step_rewards(name: str) -> StepRewards:
    """Load the function that `credit.process_reward` names, `package.module:function`.

    Raises:
        UserError: there is no such function; the message says why in one line.
    """
    module, separator, attribute = name.partition(":")
    key = f"credit.process_reward={name}"
    if not separator or not module or not attribute.isidentifier():
        raise UserError(f"{key}: expected the form package.module:function")
    try:
        function = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise UserError(f"{key}: {error}; install it, or add its folder to PYTHONPATH") from None
    if not callable(function):
        raise UserError(f"{key}: {module} has no function {attribute}")
    return function  # type: ignore[no-any-return]


def step_rewards(episode: Episode, name: str | None) -> list[float]:
    """Return the reward that the function named `name` gives each turn of an episode; zeros if `name` is None.

    Raises:
        UserError: as `load_step_rewards`; or the function does not return one finite number per turn.
    """
    if name is None:
        return [0.0] * len(episode.turns)
    rewards = [float(reward) for reward in load_step_rewards(name)(episode)]
    if len(rewards) != len(episode.turns) or not all(map(math.isfinite, rewards)):
        wanted = f"expected {len(episode.turns)} finite numbers, one per turn"
        raise UserError(f"credit.process_reward={name}: task {episode.task_id}: {wanted}, got {rewards!r:.200}")
    return rewards
