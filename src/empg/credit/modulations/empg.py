"""Entropy-Modulated Policy Gradients (EMPG, arXiv 2509.09265): step credit that depends on the entropy of the policy.

The size of a policy gradient is tied to entropy: E ||grad_z log pi||^2 = 1 - exp(-H2), H2 the Renyi-2 entropy
(Proposition 1). Confident correct steps therefore get small updates, and uncertain steps get large, noisy ones. EMPG
reverses this. With H(i,t) the entropy of step t of episode i and A(i) the outcome advantage of the episode, over all
steps of the batch:

    Hn(i,t)    = (H(i,t) - min H) / (max H - min H + eps)     normalised step entropy
    g(i,t)     = exp(-k Hn(i,t)) / mean exp(-k Hn)            self-calibrating gradient scaling, mean 1
    f(i,t+1)   = exp(-k' Hn(i,t+1))                           future clarity; 0 where there is no next step
    A_mod(i,t) = A(i) g(i,t) + zeta f(i,t+1)                  confident steps: more credit or more blame
    A_final    = A_mod - mean A_mod                           zero mean

`modulate` is these five lines, and every token of a step carries the A_final of the step into the loss of the base
algorithm.

The definition has these consequences. With one step in the batch, or all entropies equal, Hn = 0 and g = 1. Min-max
normalisation is sensitive to outliers. With k = 1, g spans at most a factor of e. The bonus is positive for every step
with a successor, so centring lowers the last step of an episode by the mean bonus; an episode that a limit ended has
its last step there. Where A = 0 only the bonus is left: while many groups have zero variance, drop them first
(`zero_variance_groups`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from empg.credit.layout import TokenLayout
from empg.credit.modulations.base import Modulation, ModulationInputs, StepCredit, require_constants
from empg.credit.reduce import Reduce, global_max, global_mean, global_min, one_worker
from empg.credit.steps import StepTable


@dataclass(frozen=True, kw_only=True)
class EMPGConfig:
    """The constants of the method. `k = 0` turns the gradient scaling off (g = 1), `zeta = 0` the clarity bonus.

    Attributes:
        k: sharpness of the gradient scaling g.
        k_future: k', sharpness of the future clarity f.
        zeta: weight of the clarity bonus.
        eps: nats; keeps the normalisation finite when all entropies are equal.

    Raises:
        ValueError: a constant is negative or above `checks.LARGEST`, or eps is below `checks.SMALLEST_EPS`.
    """

    k: float = 1.0
    k_future: float = 1.0
    zeta: float = 0.1
    eps: float = 1e-8

    def __post_init__(self) -> None:
        require_constants(self, at_least_zero=("k", "k_future", "zeta"), positive=("eps",))


@dataclass(frozen=True, eq=False, kw_only=True)
class EMPGCredit(StepCredit):
    """The result of EMPG for each step of a `StepTable`, with every intermediate; all `(N,)` float32.

    Attributes:
        normalised_entropy: Hn, from 0 for the most confident step of the batch to 1 for the most uncertain one.
        scale: g, mean 1 over the batch.
        clarity: f of the *next* step, before zeta; 0 for the last step of an episode.
        modulated: A_mod, before centring (with the process reward, if the table has one).
        advantage: A_final, mean 0 over the batch.
    """

    normalised_entropy: Tensor
    scale: Tensor
    clarity: Tensor
    modulated: Tensor
    advantage: Tensor


@torch.no_grad()
def modulate(steps: StepTable, config: EMPGConfig | None = None, reduce: Reduce | None = None) -> EMPGCredit:
    """Compute the credit of each step from advantages and step entropies: the method.

    A process reward in the table is added beside the clarity bonus, before centring. On a GPU nothing waits for the
    device.

    Args:
        steps: the steps that this worker holds: whole episodes, possibly none.
        config: the constants.
        reduce: makes min, max and means global over workers; None = this worker holds the whole batch. Four
            collectives, the same on every worker.
    """
    config, reduce = config or EMPGConfig(), reduce or one_worker

    low, high = global_min(steps.entropy, reduce), global_max(steps.entropy, reduce)
    normalised = (steps.entropy - low) / (high - low + config.eps)

    confidence = torch.exp(-config.k * normalised)
    scale = confidence / global_mean(confidence, reduce)

    next_normalised = normalised.roll(-1)
    clarity = torch.where(steps.has_next, torch.exp(-config.k_future * next_normalised), 0.0)

    modulated = steps.plus_process_reward(steps.advantage * scale + config.zeta * clarity)

    advantage = modulated - global_mean(modulated, reduce)
    return EMPGCredit(
        normalised_entropy=normalised, scale=scale, clarity=clarity, modulated=modulated, advantage=advantage
    )


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
    """Apply EMPG to the padded token batch of any trainer: `modulate`, then each agent token gets its step's advantage.

    A row is a whole episode. (Turns that are rows of their own, as in verl-agent, go through `StepTable`.) On a GPU
    this waits three times for the device: for the number of agent tokens, for the checks of the step ids, and for those
    of the values.

    Args:
        advantages: `(B,)` outcome advantages, or `(B, T)` constant within each step.
        entropies: `(B, T)` entropies, nats, of the full-vocabulary distributions that the tokens were sampled from.
        step_ids: `(B, T)` int: -1 outside agent tokens, else the index of the step within its row, 0, 1, 2, ... in time
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
    layout = TokenLayout.of(step_ids)
    steps = StepTable.from_layout(layout, advantages, entropies)
    credit = modulate(steps, EMPGConfig(k=k, k_future=k_future, zeta=zeta, eps=eps), reduce)
    return layout.to_tokens(credit.advantage)


def _empg(inputs: ModulationInputs, options: EMPGConfig) -> StepCredit:
    return modulate(inputs.steps, options, inputs.reduce)


MODULATION = Modulation(
    name="empg",
    summary="A g + zeta f of the next step, centred over all steps",
    options=EMPGConfig,
    modulate=_empg,
)
