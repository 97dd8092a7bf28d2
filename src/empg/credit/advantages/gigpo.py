"""GiGPO, group-in-group policy optimisation: the advantage of the episode plus that of the step among equal states.

    A(i) = (R(i) - mean R) / (std R + eps)                                              over the group of i
    G(i,t) = r(i,t) + gamma G(i,t+1)
    A_step(i,t) = (G(i,t) - mean G) / (std G + eps)      over the steps of the group with the state of (i,t)
    advantage = A(i) + weight A_step(i,t)

A_step is 0 for a step whose state occurs once. Feng et al., "Group-in-Group Policy Optimization for LLM Agent
Training", arXiv 2505.10978, equations 3 to 8.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from empg.credit.advantages.base import (
    AdvantageEstimator,
    AdvantageInputs,
    centred,
    discounted_returns,
    standardised,
)
from empg.credit.checks import LARGEST, require_between
from empg.credit.segments import Segments, segments_of


@dataclass(frozen=True, kw_only=True)
class GigpoOptions:
    """The constants of GiGPO.

    Attributes:
        weight: weight of the step advantage (omega of the paper).
        gamma: discount of the step returns.
        divide_by_std: divide both terms by their standard deviation; False is F_norm = 1 of the paper.

    Raises:
        ValueError: a number is out of its range.
    """

    weight: float = 1.0
    gamma: float = 0.95
    divide_by_std: bool = True

    def __post_init__(self) -> None:
        require_between("weight", self.weight, 0.0, LARGEST)
        require_between("gamma", self.gamma, 0.0, 1.0)


def gigpo(inputs: AdvantageInputs, options: GigpoOptions) -> Tensor:
    """Return `(N,)` advantages; see the top of this module."""
    assert inputs.step_rewards is not None
    assert inputs.states is not None

    def compared(values: Tensor, segments: Segments, weights: Tensor) -> Tensor:
        if options.divide_by_std:
            return standardised(values, segments, weights, inputs.eps)
        return centred(values, segments, weights)[0]

    outcome = compared(inputs.rewards, segments_of(inputs.groups), inputs.weights)
    returns = discounted_returns(inputs.step_rewards, inputs.episode, options.gamma)
    place = torch.stack([inputs.groups.long()[inputs.episode], inputs.states.long()])
    alike = segments_of(torch.unique(place, dim=1, return_inverse=True)[1])
    step = compared(returns, alike, torch.ones_like(returns))
    return outcome[inputs.episode] + options.weight * step


ESTIMATOR = AdvantageEstimator(
    name="gigpo",
    summary="GRPO's, plus weight * (G - mean) / (std + eps) among the steps of the group with the same state",
    compares_within_group=True,
    estimate=gigpo,
    compares_steps=True,
    options=GigpoOptions(),
)
