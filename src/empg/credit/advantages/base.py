"""The contract of an advantage estimator: from a batch of episodes to one advantage per step.

An estimator is a module of this package: its docstring is the definition, `ESTIMATOR` the entry of the table
`ADVANTAGES`. It sees the whole batch as one record and returns `(N,)` float32, one advantage per step. An estimator
that compares whole episodes computes one number per episode and gives it to each of its steps
(`values[inputs.episode]`); one that compares steps (as GiGPO does) uses the fields of the single step.

Shapes: E episodes, N steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from empg.credit.checks import (
    LARGEST,
    SMALLEST_EPS,
    first_true,
    require_between,
    require_ids,
    require_shape,
    require_vector,
)
from empg.credit.reduce import Reduce, one_worker
from empg.credit.segments import segments_of

Weighting = Literal["episode", "step"]


@dataclass(frozen=True, eq=False, kw_only=True)
class AdvantageInputs:
    """A batch as an advantage estimator sees it: the steps of whole episodes, and the outcome of each episode.

    A field that only some estimators use is optional. A new one gets a default, so that the estimators and callers
    that do not use it stay as they are.

    Attributes:
        rewards: `(E,)` outcome reward of each episode; kept as float32.
        groups: `(E,)` int, equal for the episodes of a group, that is for those that played the same task; any ids,
            in any order, groups of any sizes. All episodes of a group are on one worker.
        episode: `(N,)` int64, the episode of each step as an index into `rewards`, in time order.
        step_rewards: `(N,)` reward of the environment for each single step, or None.
        states: `(N,)` int, equal for two steps of a group if and only if their last observations have the same text; or
            None. This is the state of the agent only in environments whose observations show all of it.
        weighting: `episode` counts each episode once in a statistic. `step` counts it once per step, so that an
            episode of 30 steps counts 30 times; implementations that keep one row per step do this implicitly.
        eps: added to a standard deviation that is divided by.
        reduce: makes statistics over the whole batch global over workers; None = one worker.

    Raises:
        ValueError: shapes disagree, a reward is not finite, eps is out of its range, an unknown weighting, or an
            episode without steps where steps are counted.
    """

    rewards: Tensor
    groups: Tensor
    episode: Tensor
    step_rewards: Tensor | None = None
    states: Tensor | None = None
    weighting: Weighting = "episode"
    eps: float = 1e-6
    reduce: Reduce = one_worker

    def __post_init__(self) -> None:
        require_between("eps", self.eps, SMALLEST_EPS, LARGEST)
        object.__setattr__(self, "rewards", checked_rewards(self.rewards, self.groups))
        require_ids("episode", self.episode)
        require_vector("episode", self.episode, "step", "N")
        for name in ("step_rewards", "states"):
            values: Tensor | None = getattr(self, name)
            if values is not None:
                require_shape(name, values, self.episode.shape, of="episode")
        if self.weighting not in ("episode", "step"):
            raise ValueError(f"weighting: expected episode or step, got {self.weighting!r}")
        if self.weighting == "step" and (empty := first_true(self.num_steps < 1)) is not None:
            raise ValueError(f"episode: episode {empty} has 0 steps; weighting='step' counts steps, so leave it out")

    @property
    def num_steps(self) -> Tensor:
        """`(E,)` int64: the number of steps of each episode."""
        return torch.zeros_like(self.groups, dtype=torch.long).index_add_(
            0, self.episode, torch.ones_like(self.episode)
        )

    @property
    def weights(self) -> Tensor:
        """`(E,)` float32: how many times each episode counts in a statistic."""
        return torch.ones_like(self.rewards) if self.weighting == "episode" else self.num_steps.float()


@dataclass(frozen=True, kw_only=True)
class AdvantageEstimator:
    """An entry of the table `ADVANTAGES`.

    Attributes:
        name: the name in recipes (`credit.advantage`) and of the module.
        summary: the definition in one line.
        compares_within_group: whether a group needs at least two episodes (`rollout.group_size` > 1).
        estimate: from the batch to `(N,)` float32, one advantage per step.
    """

    name: str
    summary: str
    compares_within_group: bool
    estimate: Callable[[AdvantageInputs], Tensor]

    @torch.no_grad()
    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Check the groups, if they are compared, and estimate.

        Raises:
            ValueError: a group has only one episode and the estimator compares within groups; or the estimator does not
                return one float32 per step.
        """
        if self.compares_within_group:
            group = segments_of(inputs.groups)
            if (alone := first_true(group.sizes < 2)) is not None:
                found = f"group {int(group.ids[alone])} has only one"
                raise ValueError(f"groups: {self.name} compares the episodes of a group, but {found}")
        advantages = self.estimate(inputs)
        if advantages.shape != inputs.episode.shape or advantages.dtype != torch.float32:
            found = f"got {tuple(advantages.shape)} {advantages.dtype}"
            raise ValueError(f"{self.name}: expected {tuple(inputs.episode.shape)} float32, one per step, {found}")
        return advantages


def centred_in_group(inputs: AdvantageInputs) -> tuple[Tensor, Tensor]:
    """Subtract the mean reward of its group from each episode's reward, weighted by `inputs.weights`.

    Returns:
        `(E,)` rewards minus the group mean, exactly 0 in a group whose rewards are all equal; and `(E,)` the weight of
        the whole group, which is its number of episodes under `weighting="episode"`.
    """
    group, weights = segments_of(inputs.groups), inputs.weights
    # As distances from the lowest reward of the group, equal rewards are exact zeros: rounding cannot turn them into an
    # advantage.
    distance = inputs.rewards - group.extreme(inputs.rewards, "amin")[group.index]
    count = group.sum(weights)
    centred = distance - (group.sum(weights * distance) / count)[group.index]
    return centred, count[group.index]


def checked_rewards(rewards: Tensor, groups: Tensor) -> Tensor:
    """Return `rewards (E,)` as float32, or raise a ValueError unless they are finite and have one group each."""
    require_vector("rewards", rewards, "episode", "E")
    require_ids("groups", groups)
    require_shape("groups", groups, rewards.shape, of="rewards")
    if (episode := first_true(~rewards.isfinite())) is not None:
        raise ValueError(f"rewards: episode {episode} has {float(rewards[episode])}; drop it or fix its source")
    return rewards.float()
