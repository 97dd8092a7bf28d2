"""GTPO, group token policy optimisation, applied to steps: rewards shaped by entropy instead of a modulated advantage.

Within the group of a task, the winners O+ are the episodes with R > 0 and the losers O- all others. At step t, over
those of the same side that have a step t, d of them in O+ and h in O-:

    r(i,t) =  alpha_1 R(i) + alpha_2 d H(i,t) / sum of H(.,t)                    i in O+     Eq. 3
    r(j,t) = -alpha_1 - alpha_2 h (1 / H(j,t)) / sum of 1 / H(.,t)               j in O-     Eq. 5
    A(i,t) = (r(i,t) - mean r) / max(std r, floor)        over all steps of O+, or of O-     Eq. 6

An uncertain step of a winner gets more credit (the opposite of EMPG), and a confident step of a loser more blame.
Tan et al., "GTPO and GRPO-S: token and sequence-level reward shaping with policy entropy", arXiv 2508.04349. The
equations were taken from two public implementations that quote them with these numbers and agree, not from the text of
the paper. One of them also clips token entropies to a fixed range before the equations, which is not done here.

The paper's unit is the token. Here t counts steps and H is the step entropy; both sides of the equations keep their
form. R replaces the advantage of the base algorithm, which is not used. A process reward is added to A at the end. The
standard deviation is that of the whole set (not n - 1), so a set of one step gets 0. So does a side of one episode with
rewards of 0 and 1: its share is 1 at every step.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from empg.credit.modulations.base import Modulation, ModulationInputs, StepCredit, require_constants
from empg.credit.segments import segments_of


@dataclass(frozen=True, kw_only=True)
class GTPOOptions:
    """The constants of GTPO.

    Attributes:
        alpha_1: weight of the outcome. It cancels where all rewards are 0 or 1, because each side is standardised.
        alpha_2: weight of the entropy term. With `alpha_1 + alpha_2 = 1` shaping keeps the sum of the rewards. Where
            `alpha_1` cancels, so does its size.
        floor: the smallest standard deviation, and the smallest entropy, nats, that is divided by.
    """

    alpha_1: float = 1.0
    alpha_2: float = 0.1
    floor: float = 1e-4

    def __post_init__(self) -> None:
        require_constants(self, at_least_zero=("alpha_1", "alpha_2"), positive=("floor",))


def gtpo(inputs: ModulationInputs, options: GTPOOptions) -> StepCredit:
    """Return the credit of each step; see the top of this module. It needs no collective: a group is on one worker."""
    steps = inputs.steps
    # In float64: rounding that is divided by the floor would give a set of equal rewards an advantage of about 1e-3.
    reward = inputs.rewards.double()[steps.episode]
    won = reward > 0
    entropy = steps.entropy.double().clamp_min(options.floor)
    side = segments_of(2 * segments_of(inputs.groups).index[steps.episode] + won.long())
    position = segments_of(side.index * (len(steps) + 1) + steps.step)

    weight = torch.where(won, entropy, 1 / entropy)
    share = weight * (position.sizes / position.sum(weight))[position.index]  # mean 1 over the steps at this position
    outcome = torch.where(won, reward, -1.0)
    shaped = options.alpha_1 * outcome + options.alpha_2 * torch.where(won, share, -share)

    centred = shaped - (side.sum(shaped) / side.sizes)[side.index]
    std = (side.sum(centred.square()) / side.sizes).sqrt()[side.index]
    advantage = (centred / std.clamp_min(options.floor)).float()
    return StepCredit(advantage=steps.plus_process_reward(advantage), modulated=shaped.float())


MODULATION = Modulation(
    name="gtpo",
    summary="the reward shaped by step entropy, standardised over the winners and over the losers of a group",
    options=GTPOOptions,
    modulate=gtpo,
    compares_within_group=True,
)
