"""The contract of an advantage estimator: from a batch of episodes to one advantage per step.

An estimator is a module of this package: its docstring is the definition, `ESTIMATOR` the entry of the table
`ADVANTAGES`. It sees the whole batch as one record and returns `(N,)` float32, one advantage per step. An estimator
that compares whole episodes computes one number per episode and gives it to each of its steps
(`values[inputs.episode]`); one that compares steps (as GiGPO does) uses the fields of the single step.

Shapes: E episodes, N steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from empg.credit.checks import (
    LARGEST,
    SMALLEST_EPS,
    checked_rewards,
    first_true,
    require_between,
    require_bounded,
    require_choice,
    require_contiguous,
    require_ids,
    require_index,
    require_shape,
    require_vector,
)
from empg.credit.reduce import Reduce, one_worker
from empg.credit.segments import Segments, for_float64, index_in_run, segments_of

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
        episode: `(N,)` int, the episode of each step as an index into `rewards`; kept as int64. The steps of an episode
            are contiguous and in time order.
        step_rewards: `(N,)` reward of each single step, or None; kept as float32. Over an episode they sum to its
            outcome reward.
        states: `(N,)` int, equal for two steps of a group if and only if their last observations have the same text; or
            None. This is the state of the agent only in environments whose observations show all of it.
        values: `(N,)` what a critic expected of the rest of the episode before each step, or None; kept as float32.
        weighting: `episode` counts each episode once in a statistic. `step` counts it once per step, so that an
            episode of 30 steps counts 30 times; implementations that keep one row per step do this implicitly.
        eps: added to a standard deviation that is divided by.
        reduce: makes statistics over the whole batch global over workers; by default there is one worker.

    Raises:
        ValueError: shapes disagree, a reward or value is NaN or above `checks.LARGEST` in size, a step belongs to an
            episode without a reward, the steps of an episode are not contiguous, eps is out of its range, an unknown
            weighting, or an episode without steps where steps are counted.
    """

    rewards: Tensor
    groups: Tensor
    episode: Tensor
    step_rewards: Tensor | None = None
    states: Tensor | None = None
    values: Tensor | None = None
    weighting: Weighting = "episode"
    eps: float = 1e-6
    reduce: Reduce = one_worker

    def __post_init__(self) -> None:
        require_between("eps", self.eps, SMALLEST_EPS, LARGEST)
        object.__setattr__(self, "rewards", checked_rewards(self.rewards, self.groups))
        require_vector("episode", self.episode, "step", "N")
        object.__setattr__(self, "episode", require_index("episode", self.episode, len(self.rewards), of="rewards"))
        require_contiguous("episode", self.episode)
        for name in ("step_rewards", "states", "values"):
            column: Tensor | None = getattr(self, name)
            if column is None:
                continue
            require_shape(name, column, self.episode.shape, of="episode")
            if name == "states":
                require_ids(name, column)
            else:
                object.__setattr__(self, name, require_bounded(name, column, "step"))
        require_choice("weighting", self.weighting, get_args(Weighting))
        if self.weighting == "step" and (empty := first_true(self.num_steps < 1)) is not None:
            raise ValueError(f"episode: episode {empty} has 0 steps; weighting='step' counts steps, so leave it out")

    @property
    def num_steps(self) -> Tensor:
        """`(E,)` int64: the number of steps of each episode."""
        return torch.zeros_like(self.groups, dtype=torch.long).index_add_(
            0, self.episode, torch.ones_like(self.episode)
        )

    def only(self, kept: Tensor) -> AdvantageInputs:
        """Return the batch without the episodes that `kept (E,)` bool excludes."""
        steps, place = kept[self.episode], kept.cumsum(0) - 1
        left: dict[str, Any] = {"rewards": self.rewards[kept], "groups": self.groups[kept]}
        for name in ("step_rewards", "states", "values"):
            column: Tensor | None = getattr(self, name)
            left[name] = None if column is None else column[steps]
        return replace(self, episode=place[self.episode[steps]], **left)

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
        estimate: from the batch, and the options if it has any, to `(N,)` float32, one advantage per step.
        compares_steps: whether it compares single steps, so that the steps of an episode differ; it then needs
            `step_rewards` and `states`.
        value_targets: what a critic should have expected before each step, from the same arguments to `(N,)` float32;
            None if it does not need a critic. It then needs `values`, those of the critic, and `step_rewards`.
        options: an instance of its frozen dataclass of options, with the default values; None if it has no options.
            The fields are keys of recipes, and `__post_init__` raises a ValueError that names the field.
    """

    name: str
    summary: str
    compares_within_group: bool
    estimate: Callable[..., Tensor]
    compares_steps: bool = False
    value_targets: Callable[..., Tensor] | None = None
    options: Any = None

    @property
    def needs_critic(self) -> bool:
        """Whether it needs the `values` of a critic."""
        return self.value_targets is not None

    def configured(self, **options: object) -> AdvantageEstimator:
        """Return this estimator with other values of its options.

        Raises:
            ValueError: an option is unknown or has a wrong value.
        """
        known = {} if self.options is None else vars(self.options)
        if (unknown := next((name for name in options if name not in known), None)) is not None:
            raise ValueError(f"{self.name}: expected options among {', '.join(known) or 'none'}, got {unknown!r}")
        return replace(self, options=replace(self.options, **options)) if options else self

    @torch.no_grad()
    def __call__(self, inputs: AdvantageInputs) -> Tensor:
        """Check the groups and steps, if they are compared, and estimate.

        Raises:
            ValueError: a group has only one episode and the estimator compares within groups; the estimator compares
                steps and `step_rewards` or `states` is None; it needs a critic and `step_rewards` or `values` is None;
                or it does not return one float32 per step.
        """
        self._require_fields(inputs)
        if self.compares_within_group:
            group = segments_of(inputs.groups)
            if (alone := first_true(group.sizes < 2)) is not None:
                found = f"group {int(group.ids[alone])} has only one"
                raise ValueError(f"groups: {self.name} compares the episodes of a group, but {found}")
        return self._per_step("", self.estimate, inputs)

    @torch.no_grad()
    def critic_targets(self, inputs: AdvantageInputs) -> Tensor:
        """Return `(N,)` float32, what the critic learns from a batch; only for an estimator that needs one.

        Raises:
            ValueError: `step_rewards` or `values` is None, or `value_targets` does not return one float32 per step.
        """
        assert self.value_targets is not None
        self._require_fields(inputs)
        return self._per_step("value_targets: ", self.value_targets, inputs)

    def _require_fields(self, inputs: AdvantageInputs) -> None:
        needed = {"states": "compares single steps"} if self.compares_steps else {}
        needed |= {"values": "needs a critic"} if self.needs_critic else {}
        for name, why in needed.items():
            missing = next((field for field in ("step_rewards", name) if getattr(inputs, field) is None), None)
            if missing is not None:
                raise ValueError(f"{missing}: {self.name} {why}: expected one value per step, got None")

    def _per_step(self, what: str, function: Callable[..., Tensor], inputs: AdvantageInputs) -> Tensor:
        result = function(inputs) if self.options is None else function(inputs, self.options)
        if result.shape != inputs.episode.shape or result.dtype != torch.float32:
            wanted, found = tuple(inputs.episode.shape), f"got {tuple(result.shape)} {result.dtype}"
            raise ValueError(f"{self.name}: {what}expected {wanted} float32, one per step, {found}")
        return result


def centred(values: Tensor, segments: Segments, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Subtract the weighted mean of its segment from each of `values (n,)`.

    Returns:
        `(n,)` distances from the mean, exactly 0 in a segment whose values are all equal; and `(n,)` the weight of the
        whole segment.
    """
    # As distances from the lowest value of the segment, equal values are exact zeros: rounding cannot turn them into an
    # advantage.
    distance = values - segments.extreme(values, "amin")[segments.index]
    count = segments.sum(weights)
    mean = segments.sum(weights * distance) / count
    return distance - mean[segments.index], count[segments.index]


def standardised(values: Tensor, segments: Segments, weights: Tensor, eps: float) -> Tensor:
    """Subtract the mean of its segment from each of `values (n,)` and divide by the sample standard deviation + eps.

    Returns:
        `(n,)`; exactly 0 in a segment whose values are all equal, and for a value that is alone in its segment.
    """
    distance, count = centred(values, segments, weights)
    variance = segments.sum(weights * distance.square())[segments.index] / (count - 1).clamp(min=1)
    return distance / (variance.sqrt() + eps)


def centred_in_group(inputs: AdvantageInputs) -> tuple[Tensor, Tensor]:
    """Subtract the mean reward of its group from each episode's reward, weighted by `inputs.weights`.

    Returns:
        As `centred`: `(E,)` distances and `(E,)` weights of the groups, which are numbers of episodes under
        `weighting="episode"`.
    """
    return centred(inputs.rewards, segments_of(inputs.groups), inputs.weights)


def discounted_returns(rewards: Tensor, episode: Tensor, gamma: float) -> Tensor:
    """Return the discounted sum of the rewards from each step to the end of its episode.

        G(i,t) = r(i,t) + gamma G(i,t+1)

    In float64, rounded once: equal returns of episodes whose rewards come in another order stay equal, because a
    difference in the last bit may be divided by a standard deviation that consists of such differences alone.

    Args:
        rewards: `(N,)` reward of each step.
        episode: `(N,)` int64, the episode of each step, 0 to E-1, as in `AdvantageInputs`.
        gamma: the discount factor.

    Returns:
        `(N,)`.
    """
    if not len(episode):
        return rewards
    device = for_float64(rewards.device)
    row, time = episode.to(device), index_in_run(episode).to(device)
    table = torch.zeros(int(row.max()) + 1, int(time.max()) + 1, dtype=torch.float64, device=device)
    table[row, time] = rewards.to(device).double()
    for t in range(table.shape[1] - 2, -1, -1):
        table[:, t] += gamma * table[:, t + 1]
    return table[row, time].to(rewards.dtype).to(rewards.device)
