"""A first forward pass, compared with transformers' own.

A model may do something that this package leaves out: a cap on its logits, a bias or a sink in its attention. Its
probabilities would be wrong without a word, so they are compared before a run begins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from empg.errors import UserError
from empg.policy.cache import SlotCache

if TYPE_CHECKING:
    from empg.policy.model import Policy

_TOKENS = 12
_READ_AT_ONCE = 7  # the others follow one by one
_TOLERANCE = 0.02  # nats; float32 is a thousand times more exact


@torch.no_grad()
def check_forward(policy: Policy, implementation: str, name: str) -> None:
    """Compare log-probabilities with and without this package's attention and KV cache; `policy` is in float32.

    Args:
        policy: what will play and learn.
        implementation: of attention, as the run will use it; it is set when this returns.
        name: of the model, for the message.

    Raises:
        UserError: in one line, that the model cannot be run here as transformers runs it.
    """
    kind = type(policy.model).__name__
    try:
        # Rounding may send a token to another expert. That it does so for two rows of tokens is out of the question.
        found = min((_differences(policy, implementation, row) for row in (0, 1)), key=max)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"policy.model={name}: {kind} does not run with this trainer's KV cache "
            f"({type(error).__name__}: {reason}). Use another model"
        ) from error
    split, attended, cached = found
    if split > _TOLERANCE:
        raise UserError(f"{kind} post-processes its logits (a soft cap or a scale); this trainer does not support it")
    if max(attended, cached) > _TOLERANCE:
        raise UserError(
            f"policy.model={name}: {kind} computes other log-probabilities with this trainer's attention than in "
            f"transformers (up to {max(attended, cached):.2g} nats), so it is not supported. Use another model"
        )


def _differences(policy: Policy, implementation: str, row: int) -> tuple[float, float, float]:
    """By how many nats log-probabilities differ: taken apart, with our attention, and with our KV cache."""
    model, device = policy.model, policy.device
    vocabulary = model.config.get_text_config().vocab_size
    ids = torch.tensor([[(3 + row + 7 * i * i + 5 * i) % vocabulary for i in range(_TOKENS)]], device=device)
    model.set_attn_implementation("eager")
    wanted = model(input_ids=ids, use_cache=False).logits
    split = _distance(policy.logits(policy.hidden(ids)), wanted)
    model.set_attn_implementation(implementation)
    return split, _distance(policy.logits(policy.hidden(ids)), wanted), _distance(_with_cache(policy, ids), wanted)


def _with_cache(policy: Policy, ids: Tensor) -> Tensor:
    """Logits (1, T, V): some tokens read at once, the others one by one."""
    layers = policy.model.config.get_text_config().num_hidden_layers
    cache = SlotCache(layers, 1, _TOKENS, policy.device)
    row = torch.zeros(1, dtype=torch.long, device=policy.device)
    logits = []
    for start, end in [(0, _READ_AT_ONCE), *((i, i + 1) for i in range(_READ_AT_ONCE, _TOKENS))]:
        mask = cache.aim(row, torch.tensor([start], device=policy.device), end - start)
        hidden = policy.hidden(
            ids[:, start:end], mask, position_ids=cache.positions, use_cache=True, **{policy.cache_argument: cache}
        )
        logits.append(policy.logits(hidden))
    return torch.cat(logits, dim=1)


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference of log-probabilities, in nats, of tokens that are not all but impossible."""
    ours, theirs = ours.float().log_softmax(-1), theirs.float().log_softmax(-1)
    likely = theirs > theirs.amax(-1, keepdim=True) - 10.0
    return float((ours - theirs).abs()[likely].max())
