"""Outcome advantages: one number per episode, from the base algorithm.

    reinforce   A = R - mean of the batch
    rloo        A = R - mean of the other members of the group
    grpo        A = (R - mean of the group) / (std of the group + eps)
    dr_grpo     A = R - mean of the group

A group is the episodes that played the same task. The standard deviation is the sample one (n - 1), as in `torch.std`.
Shape: E episodes.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from empg.credit.checks import first_true, require_ids, require_shape
from empg.credit.reduce import Reduce, global_mean, one_worker
from empg.credit.segments import segments_of

OutcomeMethod = Literal["reinforce", "rloo", "grpo", "dr_grpo"]
Weighting = Literal["episode", "step"]


@torch.no_grad()
def outcome_advantages(
    rewards: Tensor,
    groups: Tensor,
    method: OutcomeMethod = "grpo",
    weighting: Weighting = "episode",
    num_steps: Tensor | None = None,
    eps: float = 1e-6,
    reduce: Reduce | None = None,
) -> Tensor:
    """How much better each episode went than those it is compared with.

    Args:
        rewards: `(E,)` outcome reward of each episode.
        groups: `(E,)` int, equal for the episodes of a group; any ids, any order, groups of any sizes. A group lives on
            one worker. `reinforce` does not look at them.
        method: see the top of this module.
        weighting: `episode` counts each episode once. `step` takes mean, std and n over step rows, so that an episode
            of 30 steps counts 30 times; codes that keep one row per step do this without saying so.
        num_steps: `(E,)` steps of each episode, for `weighting="step"`.
        eps: added to the standard deviation (`grpo`).
        reduce: makes the batch mean of `reinforce` global over workers; None = one worker.

    Returns:
        `(E,)` float32. Exactly 0 in a group whose rewards are all equal.

    Raises:
        ValueError: shapes disagree, a reward is not finite, a group method meets a group of one, or an unknown name.
    """
    rewards = _checked_rewards(rewards, groups)
    weights = _episode_weights(rewards, weighting, num_steps)
    if method == "reinforce":
        return rewards - global_mean(rewards, reduce or one_worker, weights)
    if method not in ("rloo", "grpo", "dr_grpo"):
        raise ValueError(f"method: {method!r} is not one of reinforce, rloo, grpo, dr_grpo")

    group = segments_of(groups)
    if (alone := first_true(group.sizes < 2)) is not None:
        raise ValueError(f"groups: {method} compares episodes, group {int(group.ids[alone])} has only one")
    # Taken as distances to the group's worst, equal rewards are exact zeros: rounding cannot make them an advantage.
    distance = rewards - group.extreme(rewards, "amin")[group.index]
    count = group.sum(weights)
    centred = distance - (group.sum(weights * distance) / count)[group.index]
    if method == "rloo":
        return centred * (count / (count - 1))[group.index]
    if method == "grpo":
        std = (group.sum(weights * centred.square()) / (count - 1)).sqrt()
        return centred / (std[group.index] + eps)
    return centred


@torch.no_grad()
def zero_variance_groups(rewards: Tensor, groups: Tensor) -> Tensor:
    """Which episodes are in a group whose rewards are all equal: no signal, DAPO's dynamic sampling drops them.

    Args:
        rewards: `(E,)` outcome rewards.
        groups: `(E,)` int group ids.

    Returns:
        `(E,)` bool.

    Raises:
        ValueError: shapes disagree or a reward is not finite.
    """
    rewards = _checked_rewards(rewards, groups)
    group = segments_of(groups)
    return (group.extreme(rewards, "amax") == group.extreme(rewards, "amin"))[group.index]


def _checked_rewards(rewards: Tensor, groups: Tensor) -> Tensor:
    if rewards.ndim != 1:
        raise ValueError(f"rewards: one per episode, shape (E,), is needed; got {tuple(rewards.shape)}")
    require_ids("groups", groups)
    require_shape("groups", groups, rewards.shape, of="rewards")
    if (episode := first_true(~rewards.isfinite())) is not None:
        raise ValueError(f"rewards: episode {episode} has {float(rewards[episode])}; drop it or mend its source")
    return rewards.float()


def _episode_weights(rewards: Tensor, weighting: Weighting, num_steps: Tensor | None) -> Tensor:
    """`(E,)` float32: how many times each episode counts."""
    if weighting == "episode":
        return torch.ones_like(rewards)
    if weighting != "step":
        raise ValueError(f"weighting: {weighting!r} is not one of episode, step")
    if num_steps is None:
        raise ValueError("num_steps: weighting='step' needs the number of steps of every episode")
    require_shape("num_steps", num_steps, rewards.shape, of="rewards")
    if (episode := first_true(num_steps < 1)) is not None:
        raise ValueError(f"num_steps: episode {episode} has {int(num_steps[episode])}; leave it out")
    return num_steps.float()
