"""The loss of a policy update: clipped surrogate, KL to a reference, entropy regularisation.

All tensors are flat, `(M,)`: the agent's tokens of many episodes, no padding. Log-probabilities are in nats and finite:
a token with a non-finite one is the caller's to leave out, and to count, since no bound can mend it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from empg.credit.checks import require_shape
from empg.credit.reduce import Reduce

KLEstimator = Literal["k1", "k2", "k3"]

MAX_EXPONENT = 10.0
"""Upper bound, in nats, of a log-ratio that is exponentiated: exp(10) = 22,026. Beyond it the gradient is zero."""


@dataclass(frozen=True)
class LossConfig:
    """The terms of the loss. What each token weighs in it is said by `token_weights`.

    Attributes:
        clip_low: no gain from a ratio below 1 - clip_low (PPO, GRPO, DAPO: 0.2).
        clip_high: no gain from a ratio above 1 + clip_high (PPO, GRPO: 0.2; DAPO's clip-higher: 0.28).
        dual_clip: where the advantage is negative, no more loss from a ratio above this; None = off.
        kl_coef: weight of the KL to the reference.
        kl_estimator: see `kl_divergence`.
        entropy_coef: weight of the entropy bonus; positive keeps the policy exploring.

    Raises:
        ValueError: a value is out of its range.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    kl_coef: float = 0.0
    kl_estimator: KLEstimator = "k3"
    entropy_coef: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.clip_low < 1:
            raise ValueError(f"clip_low: a number between 0 and 1 is needed, got {self.clip_low}")
        if not 0 < self.clip_high < math.inf:
            raise ValueError(f"clip_high: a finite number > 0 is needed, got {self.clip_high}")
        if self.dual_clip is not None and not 1 < self.dual_clip < math.inf:
            raise ValueError(f"dual_clip: a finite number > 1 is needed, or None; got {self.dual_clip}")
        if not 0 <= self.kl_coef < math.inf:
            raise ValueError(f"kl_coef: a finite number >= 0 is needed, got {self.kl_coef}")
        if self.kl_estimator not in ("k1", "k2", "k3"):
            raise ValueError(f"kl_estimator: {self.kl_estimator!r} is not one of k1, k2, k3")
        if not math.isfinite(self.entropy_coef):
            raise ValueError(f"entropy_coef: a finite number is needed, got {self.entropy_coef}")


@dataclass(frozen=True, eq=False)
class LossStats:
    """What happened in a policy loss: sums over tokens, so that micro-batches add up (`a + b`).

    0-d float32 tensors without gradient; nothing waits for the device until `means`.

    Attributes:
        tokens: number of tokens.
        loss: the weighted loss itself; the sum over micro-batches is the update's loss.
        surrogate: clipped surrogate.
        kl: KL to the reference, nats; 0 where none was given.
        entropy: token entropy, nats; 0 where none was given.
        kl_old: KL from the policy that sampled to the one that learns (k3), nats.
        clipped_low: tokens with no gradient because of 1 - clip_low.
        clipped_high: tokens with no gradient because of 1 + clip_high.
        dual_clipped: tokens with no gradient because of the dual clip.
        max_ratio: largest ratio of the new to the old probability; the maximum, not a sum.
    """

    tokens: Tensor
    loss: Tensor
    surrogate: Tensor
    kl: Tensor
    entropy: Tensor
    kl_old: Tensor
    clipped_low: Tensor
    clipped_high: Tensor
    dual_clipped: Tensor
    max_ratio: Tensor

    def __add__(self, other: LossStats) -> LossStats:
        sums = (mine + theirs for mine, theirs in zip(self._sums(), other._sums(), strict=True))
        return LossStats(*[*sums, torch.maximum(self.max_ratio, other.max_ratio)])

    def over_workers(self, reduce: Reduce) -> LossStats:
        """The same over all workers; two collectives."""
        return LossStats(*[*reduce(torch.stack(self._sums()), "sum"), reduce(self.max_ratio, "max")])

    def means(self) -> dict[str, float]:
        """Means per token by name; `tokens`, `loss` and `max_ratio` as they are."""
        values = {field.name: float(getattr(self, field.name)) for field in fields(self)}
        whole = ("tokens", "loss", "max_ratio")
        return {name: v if name in whole else v / max(1.0, values["tokens"]) for name, v in values.items()}

    def _sums(self) -> list[Tensor]:
        return [getattr(self, field.name) for field in fields(self) if field.name != "max_ratio"]


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Tensor:
    """PPO's clipped surrogate as a loss.

    With r = exp(logprobs - old_logprobs), the exponent bounded above by `MAX_EXPONENT`:

        L = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
        L = min(L, -dual_clip A)                                  where A < 0, with dual clip

    Args:
        logprobs: `(M,)` under the policy that learns; the gradient flows here.
        old_logprobs: `(M,)` under the policy that sampled.
        advantages: `(M,)` advantage of each token's step.
        clip_low: see `LossConfig`.
        clip_high: see `LossConfig`.
        dual_clip: see `LossConfig`.

    Returns:
        `(M,)` loss of each token.
    """
    ratio = _bounded_exp(logprobs - old_logprobs.detach())
    advantages = advantages.detach()
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
    return loss


def kl_divergence(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator = "k3") -> Tensor:
    """Estimate KL(policy || reference) per token, from tokens that the policy sampled.

    With x = ref_logprobs - logprobs (estimators as named by J. Schulman, "Approximating KL divergence"):

        k1 = -x                unbiased; may be negative; as a loss, its expected gradient is zero
        k2 = x^2 / 2           biased, never negative; as a loss, its expected gradient is the KL's
        k3 = exp(x) - x - 1    unbiased, never negative; the usual one in GRPO; x bounded above by `MAX_EXPONENT`

    Args:
        logprobs: `(M,)` under the policy that learns; the gradient flows here.
        ref_logprobs: `(M,)` under the reference.
        estimator: `k1`, `k2` or `k3`.

    Returns:
        `(M,)` nats.
    """
    x = ref_logprobs.detach() - logprobs
    if estimator == "k1":
        return -x
    if estimator == "k2":
        return x.square() / 2
    if estimator == "k3":
        x = x.clamp(max=MAX_EXPONENT)
        return torch.expm1(x) - x
    raise ValueError(f"estimator: {estimator!r} is not one of k1, k2, k3")


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    config: LossConfig,
    *,
    ref_logprobs: Tensor | None = None,
    entropies: Tensor | None = None,
) -> tuple[Tensor, LossStats]:
    """One loss: the sum over tokens of weights * (surrogate + kl_coef * KL - entropy_coef * entropy).

    Args:
        logprobs: `(M,)` under the policy that learns; the gradient flows here.
        old_logprobs: `(M,)` under the policy that sampled.
        advantages: `(M,)` advantage of each token's step.
        weights: `(M,)` from `token_weights` for the whole update, so that the losses of micro-batches add up.
        config: the terms.
        ref_logprobs: `(M,)` under the reference; needed for `kl_coef`, else only for the statistics.
        entropies: `(M,)` under the policy that learns, nats; needed, with gradient, for `entropy_coef`.

    Returns:
        The 0-d loss, and its statistics. A micro-batch without tokens gives 0.

    Raises:
        ValueError: shapes differ, or a term has a coefficient but not its tensor or gradient.
    """
    if logprobs.ndim != 1:
        raise ValueError(f"logprobs: one per token, shape (M,), is needed; got {tuple(logprobs.shape)}")
    given = {"old_logprobs": old_logprobs, "advantages": advantages, "weights": weights}
    for name, values in {**given, "ref_logprobs": ref_logprobs, "entropies": entropies}.items():
        if values is not None:
            require_shape(name, values, logprobs.shape, of="logprobs")
    if config.kl_coef and ref_logprobs is None:
        raise ValueError("ref_logprobs: kl_coef needs the reference's log-probabilities")
    if config.entropy_coef and (entropies is None or (logprobs.requires_grad and not entropies.requires_grad)):
        raise ValueError("entropies: entropy_coef needs the learning policy's token entropies, with their gradient")

    surrogate = clipped_surrogate(
        logprobs,
        old_logprobs,
        advantages,
        clip_low=config.clip_low,
        clip_high=config.clip_high,
        dual_clip=config.dual_clip,
    )
    kl = None if ref_logprobs is None else kl_divergence(logprobs, ref_logprobs, config.kl_estimator)
    token_loss = surrogate
    if config.kl_coef and kl is not None:
        token_loss = token_loss + config.kl_coef * kl
    if config.entropy_coef and entropies is not None:
        token_loss = token_loss - config.entropy_coef * entropies
    loss = (weights * token_loss).sum()

    with torch.no_grad():
        ratio = _bounded_exp(logprobs - old_logprobs)
        good, bad, zero = advantages > 0, advantages < 0, torch.zeros_like(loss)
        stats = LossStats(
            tokens=torch.full_like(loss, len(logprobs)),
            loss=loss.detach(),
            surrogate=surrogate.sum(),
            kl=zero if kl is None else kl.sum(),
            entropy=zero if entropies is None else entropies.sum(),
            kl_old=kl_divergence(old_logprobs, logprobs).sum(),
            clipped_low=(bad & (ratio < 1 - config.clip_low)).float().sum(),
            clipped_high=(good & (ratio > 1 + config.clip_high)).float().sum(),
            dual_clipped=(bad & (ratio > (config.dual_clip or math.inf))).float().sum(),
            max_ratio=torch.cat([ratio, ratio.new_zeros(1)]).amax(),
        )
    return loss, stats


def _bounded_exp(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(max=MAX_EXPONENT).exp()
