"""The loss of a policy update: clipped surrogate, KL to a reference, entropy regularisation.

All tensors are flat, `(M,)`: the agent tokens of several episodes, without padding. Log-probabilities are in nats and
finite: a token with a non-finite one must be dropped (and counted) by the caller. All is computed in float32, also from
bfloat16 and float16; float64 stays float64. The gradient has the dtype of its input.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Literal, get_args

import torch
from torch import Tensor

from empg.credit.checks import LARGEST, require_between, require_choice, require_shape, require_vector
from empg.credit.reduce import Reduce
from empg.credit.segments import segments_of

KLEstimator = Literal["k1", "k2", "k3"]

MAX_EXPONENT = 10.0
"""Upper bound, in nats, of a log-ratio that is exponentiated: exp(10) = 22,026. Beyond it the gradient is zero."""


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """The terms of the loss. The weight of each token comes from `token_weights`.

    Attributes:
        clip_low: lower clip bound: the ratio is clipped at 1 - clip_low (PPO, GRPO, DAPO: 0.2).
        clip_high: upper clip bound: the ratio is clipped at 1 + clip_high (PPO, GRPO: 0.2; clip-higher of DAPO: 0.28).
        dual_clip: bound of the ratio where the advantage is negative; None = off.
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
            raise ValueError(f"clip_low: expected a number between 0 and 1, got {self.clip_low}")
        if not 0 < self.clip_high <= LARGEST:
            raise ValueError(f"clip_high: expected a number > 0 and <= {LARGEST:g}, got {self.clip_high}")
        if self.dual_clip is not None and not 1 < self.dual_clip <= LARGEST:
            raise ValueError(f"dual_clip: expected None or a number > 1 and <= {LARGEST:g}, got {self.dual_clip}")
        require_between("kl_coef", self.kl_coef, 0.0, LARGEST)
        require_choice("kl_estimator", self.kl_estimator, get_args(KLEstimator))
        require_between("entropy_coef", self.entropy_coef, -LARGEST, LARGEST)


Reduction = Literal["mean", "sum", "max"]
SUM: dict[str, Reduction] = {"reduction": "sum"}
MAX: dict[str, Reduction] = {"reduction": "max"}
"""How a field of `LossStats` is combined over micro-batches and workers, unless it is a mean over tokens."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LossStats:
    """The statistics of a policy loss. Each is a sum over tokens unless its metadata says otherwise.

    Those of micro-batches are combined with `a + b`.

    A field is named once, here: it becomes the metric `policy/<field>` of a run. To add one, declare it here (it is a
    mean over tokens unless its metadata is `SUM` or `MAX`) and compute it in `policy_loss`. The values are 0-d float32
    tensors without gradient; nothing waits for the device until `metrics`.

    Attributes:
        tokens: number of tokens, over which the means are taken; not a metric.
        loss: the weighted loss itself; the sum over micro-batches is the loss of the update.
        surrogate: clipped surrogate.
        entropy: token entropy, nats; 0 if none was given.
        kl_old: KL from the policy that sampled to the one that learns (k3), nats.
        kl_reference: KL to the reference, nats; 0 if none was given.
        clip_low: tokens without gradient because of 1 - clip_low.
        clip_high: tokens without gradient because of 1 + clip_high.
        dual_clip: tokens without gradient because of the dual clip.
        max_ratio: largest ratio of the new to the old probability, of a token or of a sequence.
    """

    tokens: Tensor = field(metadata=SUM)
    loss: Tensor = field(metadata=SUM)
    surrogate: Tensor
    entropy: Tensor
    kl_old: Tensor
    kl_reference: Tensor
    clip_low: Tensor
    clip_high: Tensor
    dual_clip: Tensor
    max_ratio: Tensor = field(metadata=MAX)

    def __add__(self, other: LossStats) -> LossStats:
        sums, largest = self._by_name(largest=False), self._by_name(largest=True)
        return type(self)(
            **{name: value + getattr(other, name) for name, value in sums.items()},
            **{name: torch.maximum(value, getattr(other, name)) for name, value in largest.items()},
        )

    def over_workers(self, reduce: Reduce) -> LossStats:
        """Combine the statistics of all workers; two collectives."""
        sums, largest = self._by_name(largest=False), self._by_name(largest=True)
        return type(self)(
            **dict(zip(sums, reduce(torch.stack([*sums.values()]), "sum"), strict=True)),
            **dict(zip(largest, reduce(torch.stack([*largest.values()]), "max"), strict=True)),
        )

    def metrics(self) -> dict[str, float]:
        """Return each statistic by name, without `tokens`: a sum and a maximum unchanged, a mean per token."""
        tokens = max(1.0, float(self.tokens))
        divisors = {name: tokens if reduction == "mean" else 1.0 for name, reduction in self._reductions().items()}
        return {name: float(getattr(self, name)) / divisor for name, divisor in divisors.items() if name != "tokens"}

    def _reductions(self) -> dict[str, Reduction]:
        return {each.name: each.metadata.get("reduction", "mean") for each in fields(self)}

    def _by_name(self, *, largest: bool) -> dict[str, Tensor]:
        names = (name for name, reduction in self._reductions().items() if (reduction == "max") is largest)
        return {name: getattr(self, name) for name in names}


def log_ratios(logprobs: Tensor, old_logprobs: Tensor, sequences: Tensor | None = None) -> Tensor:
    """Return log r of each token, from which the surrogate is computed.

        log r(u) = logprobs(u) - old_logprobs(u)                                       without sequences
        log r(u) = mean over the sequence y of u of that difference                    with sequences, as in GSPO

    With sequences, the value is the same for all tokens of a sequence: r = (pi(y) / pi_old(y))^(1/|y|). The gradient of
    a token is that of its own log-probability (GSPO-token, section 4.3 of arXiv 2507.18071), so that a step keeps its
    own advantage. Where the advantage is the same for the whole sequence, the gradient of the sequence is that of GSPO.

    Args:
        logprobs: `(M,)` under the policy that learns; the gradient flows here.
        old_logprobs: `(M,)` under the policy that sampled.
        sequences: `(M,)` int, the sequence of each token; any ids, in any order, with all tokens of each sequence.

    Returns:
        `(M,)` nats.

    Raises:
        ValueError: shapes differ.
    """
    require_vector("logprobs", logprobs, "token", "M")
    require_shape("old_logprobs", old_logprobs, logprobs.shape, of="logprobs")
    difference = _at_least_float32(logprobs) - _at_least_float32(old_logprobs.detach())
    if sequences is None:
        return difference
    require_shape("sequences", sequences, logprobs.shape, of="logprobs")
    segments, value = segments_of(sequences), difference.detach()
    mean = (segments.sum(value) / segments.sizes)[segments.index]
    return mean + (difference - value)


def clipped_surrogate(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
    sequences: Tensor | None = None,
) -> Tensor:
    """Compute the clipped surrogate of PPO as a loss.

    With r = exp(`log_ratios`), the exponent bounded above by `MAX_EXPONENT`:

        L = -min(r A, clip(r, 1 - clip_low, 1 + clip_high) A)
        L = min(L, -dual_clip A)                                  where A < 0, with dual clip

    Args:
        logprobs: `(M,)` under the policy that learns; the gradient flows here.
        old_logprobs: `(M,)` under the policy that sampled.
        advantages: `(M,)` advantage of the step of each token.
        clip_low: see `LossConfig`.
        clip_high: see `LossConfig`.
        dual_clip: see `LossConfig`.
        sequences: see `log_ratios`.

    Returns:
        `(M,)` loss of each token.

    Raises:
        ValueError: shapes differ.
    """
    require_shape("advantages", advantages, logprobs.shape, of="logprobs")
    ratio = _bounded_exp(log_ratios(logprobs, old_logprobs, sequences))
    return _clipped(ratio, advantages.detach(), clip_low, clip_high, dual_clip)


def _clipped(ratio: Tensor, advantages: Tensor, clip_low: float, clip_high: float, dual_clip: float | None) -> Tensor:
    advantages = _at_least_float32(advantages)
    loss = -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -dual_clip * advantages), loss)
    return loss


def kl_divergence(logprobs: Tensor, ref_logprobs: Tensor, estimator: KLEstimator = "k3") -> Tensor:
    """Estimate KL(policy || reference) per token, from tokens that the policy sampled.

    With x = ref_logprobs - logprobs (estimators as named by J. Schulman, "Approximating KL divergence"):

        k1 = -x                unbiased; may be negative; as a loss, its expected gradient is zero
        k2 = x^2 / 2           biased, never negative; as a loss, its expected gradient is that of the KL
        k3 = exp(x) - x - 1    unbiased, never negative; usual in GRPO; x is bounded above by `MAX_EXPONENT`

    Args:
        logprobs: `(M,)` under the policy that learns; the gradient flows here.
        ref_logprobs: `(M,)` under the reference.
        estimator: `k1`, `k2` or `k3`.

    Returns:
        `(M,)` nats.

    Raises:
        ValueError: shapes differ, or an unknown estimator.
    """
    require_choice("estimator", estimator, get_args(KLEstimator))
    require_vector("logprobs", logprobs, "token", "M")
    require_shape("ref_logprobs", ref_logprobs, logprobs.shape, of="logprobs")
    x = _at_least_float32(ref_logprobs.detach()) - _at_least_float32(logprobs)
    if estimator == "k1":
        return -x
    if estimator == "k2":
        return x.square() / 2
    x = x.clamp(max=MAX_EXPONENT)
    return torch.expm1(x) - x


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    config: LossConfig,
    *,
    ref_logprobs: Tensor | None = None,
    entropies: Tensor | None = None,
    sequences: Tensor | None = None,
) -> tuple[Tensor, LossStats]:
    """Compute one loss: the sum over tokens of weights * (surrogate + kl_coef * KL - entropy_coef * entropy).

    Args:
        logprobs: `(M,)` under the policy that learns; the gradient flows here.
        old_logprobs: `(M,)` under the policy that sampled.
        advantages: `(M,)` advantage of the step of each token.
        weights: `(M,)` from `token_weights` for the whole update, so that the losses of micro-batches add up.
        config: the terms.
        ref_logprobs: `(M,)` under the reference; needed for `kl_coef`, otherwise only for the statistics.
        entropies: `(M,)` under the policy that learns, nats; needed, with gradient, for `entropy_coef`.
        sequences: `(M,)` int, the sequence of each token, for the ratio of GSPO; None = each token has its own ratio.
            A sequence must not be split over micro-batches.

    Returns:
        The 0-d loss, and its statistics. A micro-batch without tokens gives 0.

    Raises:
        ValueError: shapes differ, or a term with a coefficient lacks its tensor or gradient.
    """
    _require_inputs(logprobs, old_logprobs, advantages, weights, config, ref_logprobs, entropies, sequences)
    logprobs = _at_least_float32(logprobs)  # here, so that the gradients of all terms are added before they are rounded
    ratio = _bounded_exp(log_ratios(logprobs, old_logprobs, sequences))
    surrogate = _clipped(ratio, advantages.detach(), config.clip_low, config.clip_high, config.dual_clip)
    kl = None if ref_logprobs is None else kl_divergence(logprobs, ref_logprobs, config.kl_estimator)
    entropies = None if entropies is None else _at_least_float32(entropies)
    token_loss = surrogate
    if config.kl_coef and kl is not None:
        token_loss = token_loss + config.kl_coef * kl
    if config.entropy_coef and entropies is not None:
        token_loss = token_loss - config.entropy_coef * entropies
    loss = (weights * token_loss).sum()

    with torch.no_grad():
        good, bad, nothing = advantages > 0, advantages < 0, loss.new_zeros(0)
        stats = LossStats(
            tokens=torch.full_like(loss, len(logprobs), dtype=torch.float32),
            loss=loss.detach().float(),
            surrogate=_total(surrogate),
            entropy=_total(nothing if entropies is None else entropies),
            kl_old=_total(kl_divergence(old_logprobs, logprobs)),
            kl_reference=_total(nothing if kl is None else kl),
            clip_low=_total(bad & (ratio < 1 - config.clip_low)),
            clip_high=_total(good & (ratio > 1 + config.clip_high)),
            dual_clip=_total(bad & (ratio > (config.dual_clip or math.inf))),
            max_ratio=torch.cat([ratio, ratio.new_zeros(1)]).amax().float(),
        )
    return loss, stats


def _require_inputs(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    weights: Tensor,
    config: LossConfig,
    ref_logprobs: Tensor | None,
    entropies: Tensor | None,
    sequences: Tensor | None,
) -> None:
    require_vector("logprobs", logprobs, "token", "M")
    given = {"old_logprobs": old_logprobs, "advantages": advantages, "weights": weights}
    optional = {"ref_logprobs": ref_logprobs, "entropies": entropies, "sequences": sequences}
    for name, values in {**given, **optional}.items():
        if values is not None:
            require_shape(name, values, logprobs.shape, of="logprobs")
    if config.kl_coef and ref_logprobs is None:
        raise ValueError("ref_logprobs: kl_coef needs the log-probabilities of the reference, got None")
    if config.entropy_coef and (entropies is None or (logprobs.requires_grad and not entropies.requires_grad)):
        raise ValueError(
            "entropies: entropy_coef needs the token entropies of the learning policy, with their gradient"
        )


def _bounded_exp(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(max=MAX_EXPONENT).exp()


def _at_least_float32(values: Tensor) -> Tensor:
    """Return `values` unchanged if they are float64, else as float32."""
    return values if values.dtype == torch.float64 else values.float()


def _total(values: Tensor) -> Tensor:
    """Return the sum of `values`, which are no shorter than float32 or are flags, as a 0-d float32."""
    return values.sum().float()
