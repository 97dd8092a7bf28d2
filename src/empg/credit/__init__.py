"""Credit assignment: how much of the outcome of an episode each step gets. Pure tensor functions, no model, no I/O.

    rewards ─ advantages ─► A(i,t) ─┐
                                    ├─ modulations ─► A_final(i,t) ─ losses, aggregation ─► one policy loss
    token entropies ─ steps ────────┘

`modulations/` has one file per rule; `empg.py` is the method. `advantages/` has one file per base estimator. `reduce`
makes statistics global over workers.
"""

from empg.credit.advantages import ADVANTAGES, AdvantageEstimator, AdvantageInputs, Weighting
from empg.credit.aggregation import Aggregation, aggregate, token_weights
from empg.credit.layout import TokenLayout, step_ids_from_mask, to_tokens, without_gaps
from empg.credit.losses import (
    MAX_EXPONENT,
    KLEstimator,
    LossConfig,
    LossStats,
    clipped_surrogate,
    kl_divergence,
    log_ratios,
    policy_loss,
)
from empg.credit.modulations import MODULATIONS, Modulation, ModulationInputs, StepCredit, modulated
from empg.credit.modulations.empg import EMPGConfig, EMPGCredit, modulate, modulate_advantages
from empg.credit.outcome import outcome_advantages, zero_variance_groups
from empg.credit.reduce import Reduce, ReduceOp, distributed_reduce
from empg.credit.steps import StepTable

__all__ = [
    "ADVANTAGES",
    "MAX_EXPONENT",
    "MODULATIONS",
    "AdvantageEstimator",
    "AdvantageInputs",
    "Aggregation",
    "EMPGConfig",
    "EMPGCredit",
    "KLEstimator",
    "LossConfig",
    "LossStats",
    "Modulation",
    "ModulationInputs",
    "Reduce",
    "ReduceOp",
    "StepCredit",
    "StepTable",
    "TokenLayout",
    "Weighting",
    "aggregate",
    "clipped_surrogate",
    "distributed_reduce",
    "kl_divergence",
    "log_ratios",
    "modulate",
    "modulate_advantages",
    "modulated",
    "outcome_advantages",
    "policy_loss",
    "step_ids_from_mask",
    "to_tokens",
    "token_weights",
    "without_gaps",
    "zero_variance_groups",
]
