"""Outcome advantages of whole episodes, for callers without steps, and the groups that have none.

The estimators are in `empg.credit.advantages`, one file each. Shape: E episodes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from empg.credit.advantages import ADVANTAGES, AdvantageInputs, Weighting
from empg.credit.checks import checked_rewards, first_true, require_choice, require_ids, require_shape, require_vector
from empg.credit.reduce import Reduce, one_worker
from empg.credit.segments import segments_of


def outcome_advantages(
    rewards: Tensor,
    groups: Tensor,
    method: str = "grpo",
    *,
    weighting: Weighting = "episode",
    num_steps: Tensor | None = None,
    eps: float = 1e-6,
    reduce: Reduce | None = None,
) -> Tensor:
    """Compare each episode with the others of its group or batch: one advantage per episode.

    Args:
        rewards: `(E,)` outcome reward of each episode.
        groups: `(E,)` int, equal for the episodes of a group; any ids, in any order, groups of any sizes. All episodes
            of a group are on one worker. `reinforce` does not use them.
        method: an estimator of `ADVANTAGES` that compares whole episodes, so not `gae` and not `gigpo`.
        weighting: see `AdvantageInputs`.
        num_steps: `(E,)` int, steps of each episode, for `weighting="step"`.
        eps: added to the standard deviation (`grpo`).
        reduce: makes the batch mean of `reinforce` global over workers; None = one worker.

    Returns:
        `(E,)` float32. Exactly 0 in a group whose rewards are all equal, except for `reinforce`.

    Raises:
        ValueError: an unknown name or one that compares steps, shapes disagree, a reward is NaN or above
            `checks.LARGEST` in size, or a group has one episode and the estimator compares within groups.
    """
    of_episodes = [name for name, entry in ADVANTAGES.items() if not (entry.compares_steps or entry.needs_critic)]
    if method not in ADVANTAGES:
        require_choice("method", method, of_episodes)
    if method not in of_episodes:
        why = "compares single steps" if ADVANTAGES[method].compares_steps else "needs a critic"
        raise ValueError(f"method: {method} {why}; call ADVANTAGES[{method!r}] with AdvantageInputs")
    require_vector("rewards", rewards, "episode", "E")
    episode = torch.arange(len(rewards), device=rewards.device)
    first = episode
    if weighting == "step":
        if num_steps is None:
            raise ValueError("num_steps: weighting='step' needs the number of steps of each episode, got None")
        require_shape("num_steps", num_steps, rewards.shape, of="rewards")
        require_ids("num_steps", num_steps)
        num_steps = num_steps.long()
        if (empty := first_true(num_steps < 1)) is not None:
            raise ValueError(f"num_steps: episode {empty} has {int(num_steps[empty])} steps; leave it out")
        first = num_steps.cumsum(0) - num_steps
        episode = episode.repeat_interleave(num_steps)
    inputs = AdvantageInputs(
        rewards=rewards, groups=groups, episode=episode, weighting=weighting, eps=eps, reduce=reduce or one_worker
    )
    return ADVANTAGES[method](inputs)[first]


@torch.no_grad()
def zero_variance_groups(rewards: Tensor, groups: Tensor) -> Tensor:
    """Mark the episodes of groups whose rewards are all equal: no signal, and the dynamic sampling of DAPO drops them.

    Args:
        rewards: `(E,)` outcome rewards.
        groups: `(E,)` int group ids.

    Returns:
        `(E,)` bool.

    Raises:
        ValueError: shapes disagree, or a reward is NaN or above `checks.LARGEST` in size.
    """
    rewards = checked_rewards(rewards, groups)
    group = segments_of(groups)
    return (group.extreme(rewards, "amax") == group.extreme(rewards, "amin"))[group.index]
