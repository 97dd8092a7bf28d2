"""`optimizer.compile` for scores: log-probabilities, entropies and their gradient, each in one compiled loop.

The logits are read from memory a few times, and nothing else of their size is written but the gradient. The formulas
are those of `scoring`, without its operations in place: those are faster uncompiled, and compiled they gained nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

_LEAST = torch.finfo(torch.float32).min  # 0 * -inf is NaN; 0 times a finite number is 0


class FusedScores(torch.autograd.Function):
    """Log-probabilities (M,) of wanted tokens and entropies (M,) of logits (M, V), as `scoring` defines them."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, wanted: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """Return log-probabilities and entropies in nats, float32, at `temperature`."""
        logprobs, entropies, totals = _compiled(_scores)(logits, wanted, temperature)
        ctx.save_for_backward(logits, wanted, entropies, totals)
        ctx.temperature = temperature
        return logprobs, entropies

    @staticmethod
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropies: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradient of the logits (M, V)."""
        # These may be parts of larger tensors, and code is compiled once more for those that do not begin at 0.
        given = grad_logprobs.clone(), grad_entropies.clone()
        return _compiled(_gradient)(*ctx.saved_tensors, *given, ctx.temperature), None, None


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=True)


def _scores(logits: Tensor, wanted: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    scaled = logits.float() / temperature
    totals = torch.logsumexp(scaled, -1)
    log_probs = scaled - totals[:, None]
    entropies = -(log_probs.exp() * log_probs.clamp(min=_LEAST)).sum(-1)
    return log_probs.gather(-1, wanted[:, None])[:, 0], entropies, totals


def _gradient(
    logits: Tensor,
    wanted: Tensor,
    entropies: Tensor,
    totals: Tensor,
    grad_logprobs: Tensor,
    grad_entropies: Tensor,
    temperature: float,
) -> Tensor:
    # d log p(w) / d logit = [w] - p,  d entropy / d logit = -p (log p + entropy), both divided by the temperature
    log_probs = logits.float() / temperature - totals[:, None]
    probs = log_probs.exp()
    chosen = torch.arange(logits.shape[1], device=logits.device) == wanted[:, None]
    gradient = (chosen.float() - probs) * grad_logprobs[:, None]
    gradient -= probs * (log_probs.clamp(min=_LEAST) + entropies[:, None]) * grad_entropies[:, None]
    return (gradient / temperature).to(logits.dtype)
