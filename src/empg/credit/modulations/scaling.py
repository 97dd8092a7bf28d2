"""EMPG's gradient scaling alone, without the clarity bonus: an ablation of the paper (arXiv 2509.09265).

    A_mod(i,t) = A(i) g(i,t)                                 g as in EMPG
    A_final    = A_mod - mean A_mod                          mean over all steps of the batch

It equals EMPG with zeta = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

from empg.credit.modulations.base import Modulation, ModulationInputs, StepCredit, require_constants
from empg.credit.modulations.empg import EMPGConfig, modulate


@dataclass(frozen=True, kw_only=True)
class ScalingOptions:
    """The constants of the gradient scaling: `k`, its sharpness, and `eps`, nats, of the normalisation."""

    k: float = 1.0
    eps: float = 1e-8

    def __post_init__(self) -> None:
        require_constants(self, at_least_zero=("k",), positive=("eps",))


def scaling(inputs: ModulationInputs, options: ScalingOptions) -> StepCredit:
    """Return the credit of each step; see the top of this module."""
    return modulate(inputs.steps, EMPGConfig(k=options.k, zeta=0.0, eps=options.eps), inputs.reduce)


MODULATION = Modulation(name="scaling", summary="A g, centred over all steps", options=ScalingOptions, modulate=scaling)
