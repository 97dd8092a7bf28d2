"""Variants of EMPG (arXiv 2509.09265): other entropies, normalisations, bonuses, centrings. The defaults are EMPG.

    Hn(i,t)    = clip((H(i,t) - low) / (high - low + eps), 0, 1)
    g(i,t)     = exp(-k U(i,t)) / mean exp(-k U)
    f(i,t)     = exp(-k' Hn(i,t))                            0 beyond the last step of an episode
    A_mod(i,t) = A(i) g(i,t) + zeta B(i,t)
    A_final    = A_mod - b                                   statistics over all steps of the batch

`entropy` defines H(i,t):

    turn       mean entropy of all tokens of the turn        EMPG
    action     mean entropy of the tokens of the action, from its opening tag to the end of the turn

A turn without an action, or without a thought before it, counts as a whole in both.

`normalisation` defines low and high:

    minmax     min H and max H                               EMPG
    quantile   the smallest and the largest H that remain when a share q of the steps is left out at either end

`scaling` defines U, and so which steps get more of their advantage:

    confident  Hn                                            EMPG
    uncertain  1 - Hn

`clarity` defines B:

    bonus      f(i,t+1)                                      EMPG
    won        f(i,t+1) where A(i) > 0, else 0
    won_end    as won, with f = 1 beyond the last step of an episode
    potential  f(i,t+1) - f(i,t)

Where the last step of an episode has no bonus and the others have, a larger bonus prefers actions that do not end the
episode. `won_end` takes the end of a won episode for a state without any uncertainty, so that none is clearer.

With `potential`, the bonuses of an episode add up to -f of its first step, whatever it did later: shaping by a
potential (Ng et al., 1999, with gamma = 1). Each is credited to its own step and not to earlier ones, so the invariance
of that paper holds for the sum over an episode, not for a single update.

`centring` defines b:

    mean       mean A_mod                                    EMPG
    gradient   sum c A_mod / sum c, with c = 1 - exp(-H of the whole turn), whatever `entropy` is

`gradient` is the constant that minimises the variance of the gradient if the squared gradients of steps are as c: the
optimal baseline E[|grad log pi|^2 A] / E[|grad log pi|^2] (Weaver and Tao, 2001), with Proposition 1 of EMPG for the
gradients and H in place of the Renyi-2 entropy. c is of the whole turn because all its tokens are trained. The constant
is the mean where all these entropies are equal.

With `zeta_schedule: linear`, zeta falls linearly over the iterations of the run, towards 0 at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from empg.credit.checks import SMALLEST_EPS, require_between
from empg.credit.modulations.base import Modulation, ModulationInputs, StepCredit, require_constants
from empg.credit.reduce import Reduce, global_max, global_mean, global_min, global_smallest


@dataclass(frozen=True, kw_only=True)
class VariantOptions:
    """The constants of EMPG, and what differs from it.

    Attributes:
        entropy: whose tokens H is the mean over; see the top of this module.
        normalisation: what entropies are scaled by; see the top of this module.
        q: share of the steps that `quantile` leaves out at either end, rounded down to whole steps.
        scaling: which steps g favours; see the top of this module. `uncertain` takes a k of at most 50.
        clarity: the bonus; see the top of this module.
        centring: what is subtracted at the end; see the top of this module.
        zeta_schedule: `constant`, or `linear`: zeta falls towards 0 over the run.
    """

    k: float = 1.0
    k_future: float = 1.0
    zeta: float = 0.1
    eps: float = 1e-8
    entropy: Literal["turn", "action"] = "turn"
    normalisation: Literal["minmax", "quantile"] = "minmax"
    q: float = 0.05
    scaling: Literal["confident", "uncertain"] = "confident"
    clarity: Literal["bonus", "won", "won_end", "potential"] = "bonus"
    centring: Literal["mean", "gradient"] = "mean"
    zeta_schedule: Literal["constant", "linear"] = "constant"

    def __post_init__(self) -> None:
        require_constants(self, at_least_zero=("k", "k_future", "zeta"), positive=("eps",))
        require_between("q", self.q, 0.0, 0.49)
        if self.scaling == "uncertain":  # equal entropies have U = 1, so a larger k would make every weight 0
            require_between("k", self.k, 0.0, 50.0)


def empg_variant(inputs: ModulationInputs, options: VariantOptions) -> StepCredit:
    """Return the credit of each step; see the top of this module. `clarity` of the result is B.

    Raises:
        ValueError: the entropy of actions is asked for and unknown.
    """
    steps, reduce = inputs.steps, inputs.reduce

    entropy = steps.entropy if options.entropy == "turn" else steps.action_entropy
    if entropy is None:
        raise ValueError("entropy: expected turn, because it is unknown which tokens are the action, got action")
    low, high = _bounds(entropy, options, reduce)
    normalised = ((entropy - low) / (high - low + options.eps)).clamp(0.0, 1.0)

    weight = torch.exp(-options.k * (normalised if options.scaling == "confident" else 1.0 - normalised))
    scale = weight / global_mean(weight, reduce)

    own_clarity = torch.exp(-options.k_future * normalised)
    clarity = torch.where(steps.has_next, own_clarity.roll(-1), 1.0 if options.clarity == "won_end" else 0.0)
    if options.clarity in ("won", "won_end"):
        clarity = torch.where(steps.advantage > 0, clarity, 0.0)
    elif options.clarity == "potential":
        clarity = clarity - own_clarity

    zeta = options.zeta * (1.0 - inputs.finished if options.zeta_schedule == "linear" else 1.0)
    modulated = steps.plus_process_reward(steps.advantage * scale + zeta * clarity)

    centre = global_mean(modulated, reduce)
    if options.centring == "gradient":
        gradient = -torch.expm1(-steps.entropy)
        mean_gradient = global_mean(gradient, reduce)
        weighted = global_mean(gradient * modulated, reduce) / mean_gradient.clamp_min(SMALLEST_EPS)
        # Where c is 0 in all steps, no step can move the policy.
        centre = torch.where(mean_gradient > 0, weighted, centre)
    advantage = modulated - centre
    return StepCredit(
        normalised_entropy=normalised, scale=scale, clarity=clarity, modulated=modulated, advantage=advantage
    )


def _bounds(entropy: Tensor, options: VariantOptions, reduce: Reduce) -> tuple[Tensor, Tensor]:
    """Return low and high, 0-d, the same on every worker."""
    if options.normalisation == "minmax":
        return global_min(entropy, reduce), global_max(entropy, reduce)
    steps = reduce(entropy.new_tensor(len(entropy), dtype=torch.float64), "sum")
    left_out = (options.q * steps + 1e-9).floor()  # 0.29 * 100 is 28.999999999999996
    low, high = global_smallest(entropy, torch.stack([left_out + 1, steps - left_out]), reduce)
    return low, high


MODULATION = Modulation(
    name="empg_variant",
    summary="EMPG with another entropy, normalisation, scaling, bonus or centring, or a zeta that falls over the run",
    options=VariantOptions,
    modulate=empg_variant,
)
