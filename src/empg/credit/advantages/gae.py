"""GAE, generalised advantage estimation: the estimator of PPO, which compares a step with the value of its state.

    d(i,t) = r(i,t) + gamma V(i,t+1) - V(i,t)                    V = 0 beyond the last step of an episode
    A(i,t) = d(i,t) + gamma lam A(i,t+1)
    advantage = (A - mean A) / (std A + eps)                     over all steps of the batch, with `normalise`

V is what a critic expected of the rest of the episode before step t. With lam = 1, A is the return minus V; with
lam = 0 it is d. Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation",
arXiv 1506.02438.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from empg.credit.advantages.base import AdvantageEstimator, AdvantageInputs, discounted_returns
from empg.credit.checks import require_between
from empg.credit.reduce import global_mean, global_min
from empg.credit.segments import next_in_run


@dataclass(frozen=True, kw_only=True)
class GaeOptions:
    """The constants: `gamma`, the discount, `lam`, the trace decay, and `normalise`, over all steps of the batch."""

    gamma: float = 1.0
    lam: float = 0.95
    normalise: bool = True

    def __post_init__(self) -> None:
        require_between("gamma", self.gamma, 0.0, 1.0)
        require_between("lam", self.lam, 0.0, 1.0)


def value_targets(inputs: AdvantageInputs, options: GaeOptions) -> Tensor:
    """Return `(N,)` A before normalisation, plus V."""
    assert inputs.values is not None
    return _step_advantages(inputs, options) + inputs.values


def _step_advantages(inputs: AdvantageInputs, options: GaeOptions) -> Tensor:
    """Return A `(N,)` before normalisation."""
    assert inputs.step_rewards is not None
    assert inputs.values is not None
    following = torch.where(next_in_run(inputs.episode), inputs.values.roll(-1), 0.0)
    surprise = inputs.step_rewards + options.gamma * following - inputs.values
    return discounted_returns(surprise, inputs.episode, options.gamma * options.lam)


def gae(inputs: AdvantageInputs, options: GaeOptions) -> Tensor:
    """Return `(N,)` advantages; see the top of this module. With `normalise`, equal ones are exactly 0."""
    advantages = _step_advantages(inputs, options)
    if not options.normalise:
        return advantages
    distance = advantages - global_min(advantages, inputs.reduce)
    centred = distance - global_mean(distance, inputs.reduce)
    return centred / (global_mean(centred.square(), inputs.reduce).sqrt() + inputs.eps)


ESTIMATOR = AdvantageEstimator(
    name="gae",
    summary="the return, minus the value that a critic expected, with traces of lam",
    compares_within_group=False,
    estimate=gae,
    value_targets=value_targets,
    options=GaeOptions(),
)
