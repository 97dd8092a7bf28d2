"""RLOO, REINFORCE leave-one-out: the reward of the episode minus the mean reward of the others in its group.

    A(i) = R(i) - mean of R(j), j != i                                                        j in the group of i

With n episodes in the group this is n / (n - 1) times the distance from the group mean. If each episode counts once per
step, n is the number of steps and only one step is left out, as in code with one row per step. Ahmadian et al., "Back
to basics: revisiting REINFORCE-style optimization for learning from human feedback in LLMs", arXiv 2402.14740.
"""

from __future__ import annotations

from torch import Tensor

from empg.credit.advantages.base import AdvantageEstimator, AdvantageInputs, centred_in_group


def rloo(inputs: AdvantageInputs) -> Tensor:
    """Return `(N,)` advantages; see the top of this module."""
    centred, count = centred_in_group(inputs)
    outcome = centred * (count / (count - 1))
    return outcome[inputs.episode]


ESTIMATOR = AdvantageEstimator(
    name="rloo", summary="R - mean of the other members of the group", compares_within_group=True, estimate=rloo
)
