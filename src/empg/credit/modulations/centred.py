"""The control of EMPG (arXiv 2509.09265): its centring alone, without gradient scaling and without clarity bonus.

    A_mod(i,t) = A(i)
    A_final    = A_mod - mean A_mod                          mean over all steps of the batch

It equals EMPG with k = zeta = 0. Episodes count by their steps in the mean, so this is not the base algorithm. Compare
EMPG with it to see what entropy contributes.
"""

from __future__ import annotations

from dataclasses import dataclass

from empg.credit.modulations.base import Modulation, ModulationInputs, StepCredit
from empg.credit.modulations.empg import EMPGConfig, modulate


@dataclass(frozen=True, kw_only=True)
class CentredOptions:
    """The control has no constants."""


def centred(inputs: ModulationInputs, options: CentredOptions) -> StepCredit:
    """Return the credit of each step; see the top of this module."""
    return modulate(inputs.steps, EMPGConfig(k=0.0, zeta=0.0), inputs.reduce)


MODULATION = Modulation(name="centred", summary="A, centred over all steps", options=CentredOptions, modulate=centred)
