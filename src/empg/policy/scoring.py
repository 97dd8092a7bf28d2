"""Compute log-probabilities and entropies of sampled tokens, without keeping the logits of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from empg.policy.fused import FusedScores
from empg.policy.llama.training import last_hidden
from empg.policy.model import Policy

LOGIT_BUDGET = 1 << 25  # numbers per chunk of logits: 128 MiB in float32, and twice as much on a GPU


def logit_budget(*, on_cpu: bool) -> int:
    """Return the numbers of a chunk of logits. The products of a GPU are faster with more rows."""
    return LOGIT_BUDGET if on_cpu else 2 * LOGIT_BUDGET


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
    hidden = hidden_at(policy, input_ids, rows, columns - 1)
    targets = input_ids[rows, columns]

    scores: Any = FusedScores if policy.compiled else _Scores

    def score(chunk: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        return scores.apply(policy.logits(chunk), wanted, temperature)  # type: ignore[no-any-return]

    budget = logit_budget(on_cpu=policy.device.type == "cpu")
    size = max(1, budget // policy.model.config.get_text_config().vocab_size)
    if len(hidden) <= size:
        return score(hidden, targets)
    parts = [
        checkpoint(score, h, t, use_reentrant=False) if torch.is_grad_enabled() else score(h, t)
        for h, t in zip(hidden.split(size), targets.split(size), strict=True)
    ]
    return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def hidden_at(policy: Policy, input_ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Return the last hidden states (M, hidden) at the given places."""
    if policy.own_passes:
        return last_hidden(policy.model, input_ids, rows, columns, recomputed=policy.recomputed)
    return policy.hidden(input_ids, use_cache=False)[rows, columns]


class _Scores(torch.autograd.Function):
    """`log_softmax_and_entropy` with the log-probabilities of the wanted tokens only, and its gradient in one pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, wanted: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        log_probs, entropy = log_softmax_and_entropy(logits, temperature)
        ctx.save_for_backward(log_probs, entropy, wanted)
        ctx.temperature, ctx.dtype = temperature, logits.dtype
        ctx.set_materialize_grads(False)
        return log_probs.gather(-1, wanted[:, None])[:, 0], entropy

    @staticmethod
    def backward(ctx: Any, grad_logprob: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        # d log p(w) / d logit = [w] - p,  d entropy / d logit = -p (log p + entropy), both divided by the temperature
        log_probs, entropy, wanted = ctx.saved_tensors
        probs = log_probs.exp()
        gradient = torch.zeros_like(probs)
        if grad_entropy is not None:
            finite = log_probs.clamp(min=torch.finfo(torch.float32).min)
            gradient.addcmul_(probs, finite.add_(entropy[:, None]).mul_(grad_entropy[:, None]), value=-1)
        if grad_logprob is not None:
            gradient.addcmul_(probs, grad_logprob[:, None], value=-1)
            gradient.scatter_add_(1, wanted[:, None], grad_logprob[:, None])
        return gradient.div_(ctx.temperature).to(ctx.dtype), None, None
