"""GRPO, group relative policy optimisation: the reward of the episode, standardised within its group.

    A(i) = (R(i) - mean R) / (std R + eps)                                              over the group of i

The standard deviation is the sample one (n - 1), as in `torch.std`. Shao et al., "DeepSeekMath", arXiv 2402.03300.
DAPO (arXiv 2503.14476) uses the same advantage; what differs is its loss and its sampling.
"""

from __future__ import annotations

from torch import Tensor

from empg.credit.advantages.base import AdvantageEstimator, AdvantageInputs, standardised
from empg.credit.segments import segments_of


def grpo(inputs: AdvantageInputs) -> Tensor:
    """Return `(N,)` advantages; see the top of this module."""
    outcome = standardised(inputs.rewards, segments_of(inputs.groups), inputs.weights, inputs.eps)
    return outcome[inputs.episode]


ESTIMATOR = AdvantageEstimator(
    name="grpo",
    summary="(R - mean of the group) / (std of the group + eps)",
    compares_within_group=True,
    estimate=grpo,
)
