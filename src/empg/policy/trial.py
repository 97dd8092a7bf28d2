"""Comparison of a model's first forward pass with transformers' own.

A model may do something that this package does not: cap its logits, add a bias or a sink to its attention. Its
probabilities would be silently wrong, so they are compared before a run starts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from empg.errors import UserError, message_of
from empg.policy.cache import SlotCache
from empg.policy.model import Policy

_TOKENS = 12
_READ_AT_ONCE = 7  # the others are read one by one
_TOLERANCE = 0.02  # nats; float32 differs by about 1e-5


@torch.no_grad()
def check_forward(policy: Policy, implementation: str, name: str) -> None:
    """Compare log-probabilities with and without this package's attention and KV cache.

    Args:
        policy: the policy, with float32 weights.
        implementation: the attention implementation of the run. It is set when this function returns.
        name: the model's name for the error message.

    Raises:
        UserError: the model fails, or its log-probabilities differ from transformers'.
    """
    kind = type(policy.model).__name__
    try:
        # Rounding may route a token to another expert. It will not do so in both rows of tokens.
        found = min((_differences(policy, implementation, row) for row in (0, 1)), key=max)
    except Exception as error:
        reason = message_of(error)
        raise UserError(
            f"policy.model={name}: {kind} does not run with this trainer's KV cache "
            f"({type(error).__name__}: {reason}). Use another model"
        ) from error
    split, attended, cached = found
    if split > _TOLERANCE:
        raise UserError(f"{kind} caps or scales its logits, which is not supported: use another policy.model")
    if max(attended, cached) > _TOLERANCE:
        raise UserError(
            f"policy.model={name}: the log-probabilities of {kind} differ from transformers' own by up to "
            f"{max(attended, cached):.2g} nats with this trainer's attention. Use another model"
        )


def trial_row(policy: Policy, row: int) -> Tensor:
    """Return ids (1, T) of a text to try a model with; each `row` is another one."""
    vocabulary = policy.model.config.get_text_config().vocab_size
    ids = [(3 + row + 7 * i * i + 5 * i) % vocabulary for i in range(_TOKENS)]
    return torch.tensor([ids], device=policy.device)


def _differences(policy: Policy, implementation: str, row: int) -> tuple[float, float, float]:
    """Return differences of log-probabilities (nats): decoder and head apart, our attention, our KV cache."""
    model, ids = policy.model, trial_row(policy, row)
    model.set_attn_implementation("eager")
    wanted = model(input_ids=ids, use_cache=False).logits
    split = _distance(policy.logits(policy.hidden(ids)), wanted)
    model.set_attn_implementation(implementation)
    return split, _distance(policy.logits(policy.hidden(ids)), wanted), _distance(_with_cache(policy, ids), wanted)


def _with_cache(policy: Policy, ids: Tensor) -> Tensor:
    """Return logits (1, T, V) with the KV cache: some tokens are read together, the others one by one."""
    layers = policy.model.config.get_text_config().num_hidden_layers
    cache = SlotCache(layers, 1, _TOKENS, policy.device)
    row = torch.zeros(1, dtype=torch.long)
    logits = []
    for start, end in [(0, _READ_AT_ONCE), *((i, i + 1) for i in range(_READ_AT_ONCE, _TOKENS))]:
        mask = cache.aim(row, torch.tensor([start]), end - start)
        hidden = policy.hidden(
            ids[:, start:end], mask, position_ids=cache.positions, use_cache=True, **{policy.cache_argument: cache}
        )
        logits.append(policy.logits(hidden))
    return torch.cat(logits, dim=1)


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference of log-probabilities (nats) among tokens that are not negligible."""
    ours, theirs = ours.float().log_softmax(-1), theirs.float().log_softmax(-1)
    likely = theirs > theirs.amax(-1, keepdim=True) - 10.0
    return float((ours - theirs).abs()[likely].max())
