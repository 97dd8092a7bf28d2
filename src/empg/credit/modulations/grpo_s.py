"""GRPO-S, the sequence-level sibling of GTPO: the reward of a whole episode is shaped by its mean entropy.

Within the group of a task, the n winners O+ are the episodes with R > 0 and the m losers O- all others. With H(i) the
mean entropy of episode i:

    r(i) =  beta_1 R(i) + beta_2 n H(i) / sum of H                   i in O+, sum over O+      Eq. 9
    r(j) = -beta_1 - beta_2 m (1 / H(j)) / sum of 1 / H              j in O-, sum over O-      Eq. 9
    A(i,t) = (r(i) - mean r) / (std r + floor)                       over the whole group, as in GRPO

An uncertain winner gets more credit (the opposite of EMPG), and a confident loser more blame.
Tan et al., "GTPO and GRPO-S: token and sequence-level reward shaping with policy entropy", arXiv 2508.04349. The
equation was taken from a public implementation that quotes it, not from the text of the paper.

H(i) is the mean of the step entropies of the episode, so steps count equally; in the paper its tokens do. R replaces
the advantage of the base algorithm, which is not used. A process reward is added to A at the end. The standard
deviation is that of the sample (n - 1), as in GRPO here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from empg.credit.advantages.base import standardised
from empg.credit.modulations.base import Modulation, ModulationInputs, StepCredit, require_constants
from empg.credit.segments import segments_of


@dataclass(frozen=True, kw_only=True)
class GRPOSOptions:
    """The constants of GRPO-S.

    Attributes:
        beta_1: weight of the outcome.
        beta_2: weight of the entropy term. With `beta_1 + beta_2 = 1` shaping keeps the sum of the rewards.
        floor: added to the standard deviation, and the smallest entropy, nats, that is divided by.
    """

    beta_1: float = 1.0
    beta_2: float = 0.1
    floor: float = 1e-4

    def __post_init__(self) -> None:
        require_constants(self, at_least_zero=("beta_1", "beta_2"), positive=("floor",))


def grpo_s(inputs: ModulationInputs, options: GRPOSOptions) -> StepCredit:
    """Return the credit of each step; see the top of this module. It needs no collective: a group is on one worker."""
    steps = inputs.steps
    episode = segments_of(steps.episode)  # those that have steps
    # In float64, as GTPO: rounding of equal rewards would be divided by the floor.
    reward, group = inputs.rewards.double()[episode.ids], segments_of(inputs.groups[episode.ids])
    won = reward > 0
    entropy = (episode.sum(steps.entropy.double()) / episode.sizes).clamp_min(options.floor)
    side = segments_of(2 * group.index + won.long())

    weight = torch.where(won, entropy, 1 / entropy)
    share = weight * (side.sizes / side.sum(weight))[side.index]  # mean 1 over the side
    outcome = torch.where(won, reward, -1.0)
    shaped = options.beta_1 * outcome + options.beta_2 * torch.where(won, share, -share)

    advantage = standardised(shaped, group, torch.ones_like(shaped), options.floor).float()[episode.index]
    return StepCredit(advantage=steps.plus_process_reward(advantage), modulated=shaped.float()[episode.index])


MODULATION = Modulation(
    name="grpo_s",
    summary="the reward shaped by the entropy of the episode, standardised over the group",
    options=GRPOSOptions,
    modulate=grpo_s,
    compares_within_group=True,
)
