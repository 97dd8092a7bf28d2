"""Dr.GRPO, "GRPO done right": the reward of the episode minus the mean reward of its group.

    A(i) = R(i) - mean R                                                                    over the group of i

Unlike in GRPO nothing is divided by the standard deviation, so groups with nearly equal rewards are not weighted up.
The loss that belongs to it is `loss.aggregation: constant`. Liu et al., "Understanding R1-Zero-like training: a
critical perspective", arXiv 2503.20783.
"""

from __future__ import annotations

from torch import Tensor

from empg.credit.advantages.base import AdvantageEstimator, AdvantageInputs, centred_in_group


def dr_grpo(inputs: AdvantageInputs) -> Tensor:
    """Return `(N,)` advantages; see the top of this module."""
    centred, _ = centred_in_group(inputs)
    return centred[inputs.episode]


ESTIMATOR = AdvantageEstimator(
    name="dr_grpo", summary="R - mean of the group", compares_within_group=True, estimate=dr_grpo
)
