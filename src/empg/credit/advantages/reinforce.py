"""REINFORCE with a batch baseline: the reward of the episode minus the mean reward of the batch.

    A(i) = R(i) - mean R                                    mean over all episodes of the batch, over all workers

Groups are not used, so groups of one episode are allowed. Williams, "Simple statistical gradient-following algorithms
for connectionist reinforcement learning", 1992.
"""

from __future__ import annotations

from torch import Tensor

from empg.credit.advantages.base import AdvantageEstimator, AdvantageInputs
from empg.credit.reduce import global_mean


def reinforce(inputs: AdvantageInputs) -> Tensor:
    """Return `(N,)` advantages; see the top of this module."""
    outcome = inputs.rewards - global_mean(inputs.rewards, inputs.reduce, inputs.weights)
    return outcome[inputs.episode]


ESTIMATOR = AdvantageEstimator(
    name="reinforce", summary="R - mean of the batch", compares_within_group=False, estimate=reinforce
)
