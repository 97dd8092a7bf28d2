"""EMPG's future clarity bonus alone, without the gradient scaling: an ablation of the paper (arXiv 2509.09265).

    A_mod(i,t) = A(i) + zeta f(i,t+1)                        f as in EMPG; 0 where there is no next step
    A_final    = A_mod - mean A_mod                          mean over all steps of the batch

It equals EMPG with k = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from empg.credit.modulations.base import Modulation, ModulationInputs, StepCredit, require_constants
from empg.credit.modulations.empg import EMPGConfig, modulate


@dataclass(frozen=True, kw_only=True)
class ClarityOptions:
    """The constants of the bonus: `k_future`, its sharpness, `zeta`, its weight, and `eps`, nats."""

    k_future: float = 1.0
    zeta: float = 0.1
    eps: float = 1e-8

    def __post_init__(self) -> None:
        require_constants(self, at_least_zero=("k_future", "zeta"), positive=("eps",))


def clarity(inputs: ModulationInputs, options: ClarityOptions) -> StepCredit:
    """Return the credit of each step; see the top of this module."""
    config = EMPGConfig(k=0.0, k_future=options.k_future, zeta=options.zeta, eps=options.eps)
    return modulate(inputs.steps, config, inputs.reduce)


MODULATION = Modulation(
    name="clarity",
    summary="A + zeta f of the next step, centred over all steps",
    options=ClarityOptions,
    modulate=clarity,
)
