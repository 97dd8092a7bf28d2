"""Entropy-Modulated Policy Gradients (EMPG, arXiv 2509.09265): credit that follows the agent's own certainty.

The size of a policy gradient is tied to entropy: E ||grad_z log pi||^2 = 1 - exp(-H2), H2 the Renyi-2 entropy
(Proposition 1). So a sure and right step learns little, and an unsure one is moved by noise. EMPG turns this around.
With H(i,t) the entropy of step t of episode i and A(i) the episode's outcome advantage, over all steps of the batch:

    Hn(i,t)    = (H(i,t) - min H) / (max H - min H + eps)     normalised step entropy
    g(i,t)     = exp(-k Hn(i,t)) / mean exp(-k Hn)            self-calibrating gradient scaling, mean 1
    f(i,t+1)   = exp(-k' Hn(i,t+1))                           future clarity; 0 where there is no next step
    A_mod(i,t) = A(i) g(i,t) + zeta f(i,t+1)                  sure and right: more; sure and wrong: punished harder
    A_final    = A_mod - mean A_mod                           zero mean

`modulate` is these five lines, and every token of a step carries the step's A_final into the base algorithm's loss.

What follows from the definition. With one step in the batch, or all entropies equal, Hn = 0 and g = 1. Min-max is ruled
by outliers. With k = 1, g spans at most a factor e. The bonus is positive for every step with a successor, so centring
pushes an episode's last step down by the mean bonus; an episode that was cut by a limit ends where it was cut. Where
A = 0 only the bonus is left: while many groups are without signal, drop them first (`zero_variance_groups`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from empg.credit.reduce import Reduce, global_max, global_mean, global_min, one_worker
from empg.credit.steps import StepTable, to_tokens


@dataclass(frozen=True)
class EMPGConfig:
    """The method's constants. `k = 0` turns the gradient scaling off (g = 1), `zeta = 0` the clarity bonus.

    Attributes:
        k: sharpness of the gradient scaling g.
        k_future: k', sharpness of the future clarity f.
        zeta: weight of the clarity bonus.
        eps: nats; keeps the normalisation finite when all entropies are equal.

    Raises:
        ValueError: a constant is negative or not finite, or eps is 0.
    """

    k: float = 1.0
    k_future: float = 1.0
    zeta: float = 0.1
    eps: float = 1e-8

    def __post_init__(self) -> None:
        for name in ("k", "k_future", "zeta"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}: a finite number >= 0 is needed, got {getattr(self, name)}")
        if not 0 < self.eps < math.inf:
            raise ValueError(f"eps: a finite number > 0 is needed, got {self.eps}")


@dataclass(frozen=True, eq=False)
class StepCredit:
    """What EMPG made of each step of a `StepTable`, every intermediate kept; all `(N,)` float32.

    Attributes:
        normalised_entropy: Hn, from 0 for the batch's surest step to 1 for its least sure.
        scale: g, mean 1 over the batch.
        clarity: f of the *next* step, before zeta; 0 for an episode's last step.
        modulated: A_mod, before centring (the process reward in it, where the table has one).
        advantage: A_final, mean 0 over the batch.
    """

    normalised_entropy: Tensor
    scale: Tensor
    clarity: Tensor
    modulated: Tensor
    advantage: Tensor


@torch.no_grad()
def modulate(steps: StepTable, config: EMPGConfig | None = None, reduce: Reduce | None = None) -> StepCredit:
    """The method: from outcome advantages and step entropies to the credit of each step.

    A process reward in the table is added beside the clarity bonus, before the centring.

    Args:
        steps: the steps that this worker holds: whole episodes, perhaps none.
        config: the constants.
        reduce: makes min, max and means global over workers; None = this worker holds the whole batch. Four
            collectives, the same on every worker.
    """
    config, reduce = config or EMPGConfig(), reduce or one_worker

    low, high = global_min(steps.entropy, reduce), global_max(steps.entropy, reduce)
    normalised = (steps.entropy - low) / (high - low + config.eps)

    sureness = torch.exp(-config.k * normalised)
    scale = sureness / global_mean(sureness, reduce)

    next_normalised = normalised.roll(-1)
    clarity = torch.where(steps.has_next, torch.exp(-config.k_future * next_normalised), 0.0)

    modulated = steps.advantage * scale + config.zeta * clarity
    if steps.process_reward is not None:
        modulated = modulated + steps.process_reward

    advantage = modulated - global_mean(modulated, reduce)
    return StepCredit(normalised, scale, clarity, modulated, advantage)


def modulate_advantages(
    advantages: Tensor,
    entropies: Tensor,
    step_ids: Tensor,
    *,
    k: float = 1.0,
    k_future: float = 1.0,
    zeta: float = 0.1,
    eps: float = 1e-8,
    reduce: Reduce | None = None,
) -> Tensor:
    """EMPG for the padded token batch of any trainer: `modulate`, then every agent token gets its step's advantage.

    A row is a whole episode. (Turns that are rows of their own, as in verl-agent, go through `StepTable`.)

    Args:
        advantages: `(B,)` outcome advantages, or `(B, T)` constant within each step.
        entropies: `(B, T)` entropies, nats, of the full-vocabulary distributions that the tokens were sampled from.
        step_ids: `(B, T)` int: -1 outside agent tokens, else the step's index within its row, 0, 1, 2, ... in time
            order. `step_ids_from_mask` makes them from a mask.
        k: sharpness of the gradient scaling g; 0 turns it off.
        k_future: k', sharpness of the future clarity f.
        zeta: weight of the clarity bonus; 0 turns it off.
        eps: nats; keeps the normalisation finite when all entropies are equal.
        reduce: makes min, max and means global over workers (`distributed_reduce`); None = one worker.

    Returns:
        `(B, T)` float32 without gradient, 0 outside agent tokens.

    Raises:
        ValueError: as `StepTable.from_tokens` and `EMPGConfig`; the message names row and step, or the constant.
    """
    steps = StepTable.from_tokens(advantages, entropies, step_ids)
    credit = modulate(steps, EMPGConfig(k, k_future, zeta, eps), reduce)
    return to_tokens(credit.advantage, step_ids)
