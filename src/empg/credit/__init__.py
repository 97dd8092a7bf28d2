"""Credit: who gets how much of an episode's outcome. Pure tensor functions, no model, no I/O.

    rewards ─ outcome ─► A(i) ─┐
                               ├─ modulation ─► A_final(i,t) ─ losses, aggregation ─► one policy loss
    token entropies ─ steps ───┘

`modulation` is the method, EMPG. `reduce` makes its statistics global over workers.
"""

from empg.credit.aggregation import Aggregation, aggregate, token_weights
from empg.credit.losses import (
    MAX_EXPONENT,
    KLEstimator,
    LossConfig,
    LossStats,
    clipped_surrogate,
    kl_divergence,
    policy_loss,
)
from empg.credit.modulation import EMPGConfig, StepCredit, modulate, modulate_advantages
from empg.credit.outcome import OutcomeMethod, Weighting, outcome_advantages, zero_variance_groups
from empg.credit.reduce import Reduce, ReduceOp, distributed_reduce
from empg.credit.steps import StepTable, step_ids_from_mask, step_rows, to_tokens

__all__ = [
    "MAX_EXPONENT",
    "Aggregation",
    "EMPGConfig",
    "KLEstimator",
    "LossConfig",
    "LossStats",
    "OutcomeMethod",
    "Reduce",
    "ReduceOp",
    "StepCredit",
    "StepTable",
    "Weighting",
    "aggregate",
    "clipped_surrogate",
    "distributed_reduce",
    "kl_divergence",
    "modulate",
    "modulate_advantages",
    "outcome_advantages",
    "policy_loss",
    "step_ids_from_mask",
    "step_rows",
    "to_tokens",
    "token_weights",
    "zero_variance_groups",
]
