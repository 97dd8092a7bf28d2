"""Compute log-probabilities and entropies of sampled tokens, without keeping the logits of a whole batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from empg.policy.model import Policy

LOGIT_BUDGET = 1 << 25  # numbers per chunk of logits: 128 MiB in float32


def log_softmax_and_entropy(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log-probabilities (..., V) and Shannon entropy (...) in nats of the policy at `temperature`, in float32.

    Logits may be minus infinity (masked tokens); these add 0 to the entropy and to its gradient.
    """
    log_probs = torch.log_softmax(logits.float() / temperature, dim=-1)
    finite = log_probs.clamp(min=torch.finfo(torch.float32).min)  # 0 * -inf is NaN; 0 times a finite number is 0
    return log_probs, -(log_probs.exp() * finite).sum(-1)


def score_tokens(
    policy: Policy, input_ids: Tensor, rows: Tensor, columns: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return log-probability and full-vocabulary entropy (nats) of selected tokens.

    Args:
        policy: the model; gradients flow if they are enabled.
        input_ids: (B, T) int64, padded on the right.
        rows: (M,) int64, the row of each scored token.
        columns: (M,) int64 >= 1, the position of each scored token.
        temperature: divides the logits.

    Returns:
        Two float32 tensors (M,). Logits are computed for the M positions only, in chunks. With gradients and several
        chunks, the logits of each chunk are recomputed in the backward pass.
    """
    hidden = policy.hidden(input_ids)[rows, columns - 1]
    targets = input_ids[rows, columns]

    def score(chunk: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        log_probs, entropy = log_softmax_and_entropy(policy.logits(chunk), temperature)
        return log_probs.gather(-1, wanted[:, None])[:, 0], entropy

    size = max(1, LOGIT_BUDGET // policy.model.config.get_text_config().vocab_size)
    if len(hidden) <= size:
        return score(hidden, targets)
    parts = [
        checkpoint(score, h, t, use_reentrant=False) if torch.is_grad_enabled() else score(h, t)
        for h, t in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
