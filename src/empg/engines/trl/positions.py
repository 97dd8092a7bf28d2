"""Comparison of a left-padded row with the same row alone: TRL pads on the left and gives the model no positions.

A model that adds learned positions to its tokens then reads each row shifted by its padding, silently.
"""

from __future__ import annotations

import torch

from empg.errors import UserError
from empg.policy.model import Policy
from empg.policy.trial import trial_row

_PADDING = 5  # tokens
_TOLERANCES = {torch.float32: 2e-3}  # nats; float32 differs by about 1e-5
_ROUNDED = 0.5  # nats, for narrower numbers


@torch.no_grad()
def check_padding(policy: Policy, name: str) -> None:
    """Check that padding on the left does not change log-probabilities.

    Args:
        policy: the policy; it may be on any device.
        name: the model's name for the error message.

    Raises:
        UserError: they differ.
    """
    # Rounding may route a token to another expert. It will not do so in both rows of tokens.
    found = min(_difference(policy, row) for row in (0, 1))
    kind = type(policy.model).__name__
    if not found <= _TOLERANCES.get(policy.model.dtype, _ROUNDED):
        raise UserError(
            f"policy.model={name}: padding on the left changes the log-probabilities of {kind} by up to "
            f"{found:.2g} nats, as learned positions do, and the engine trl pads so. Use --engine local"
        )


def _difference(policy: Policy, row: int) -> float:
    """Return the largest difference of a log-probability, nats."""
    ids = trial_row(policy, row).to(next(policy.model.parameters()).device)
    padded = torch.cat([ids[:, :1].expand(1, _PADDING), ids], 1)
    mask = torch.ones_like(padded)
    mask[:, :_PADDING] = 0
    training = policy.model.training
    policy.model.eval()
    try:
        alone = policy.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        beside = policy.model(input_ids=padded, attention_mask=mask, use_cache=False).logits[:, _PADDING:]
    finally:
        policy.model.train(training)
    logprobs = [logits.float().log_softmax(-1) for logits in (alone, beside)]
    return float((logprobs[0] - logprobs[1]).abs().gather(-1, ids.roll(-1, 1)[..., None]).max())
