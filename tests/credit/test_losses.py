"""Losses: clipping by hand, KL estimators, the entropy bonus, and statistics that add up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from empg.credit import (
    MAX_EXPONENT,
    KLEstimator,
    LossConfig,
    LossStats,
    Reduce,
    clipped_surrogate,
    kl_divergence,
    log_ratios,
    outcome_advantages,
    policy_loss,
    token_weights,
)
from tests.credit import reference
from tests.credit.batches import on_workers


def ratios(*values: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities, new (a leaf) and old, with these ratios."""
    old = torch.full((len(values),), -1.5)
    return (old + torch.tensor(values).log()).requires_grad_(), old


class TestClippedSurrogate:
    @pytest.mark.parametrize(
        ("ratio", "advantage", "loss", "flows"),
        [
            (1.0, 2.0, -2.0, True),
            (1.1, 2.0, -2.2, True),
            (1.5, 2.0, -2.56, False),  # cut at 1 + 0.28
            (0.5, 2.0, -1.0, True),  # a good token that became less likely: no cut
            (0.5, -2.0, 1.6, False),  # cut at 1 - 0.2
            (0.9, -2.0, 1.8, True),
            (2.5, -2.0, 5.0, True),  # a bad token that became more likely
            (9.0, -2.0, 6.0, False),  # ... cut by the dual clip at 3 |A|
            (9.0, 0.0, 0.0, False),
        ],
    )
    def test_by_hand(self, ratio: float, advantage: float, loss: float, flows: bool) -> None:
        logprobs, old = ratios(ratio)
        out = clipped_surrogate(logprobs, old, torch.tensor([advantage]), clip_low=0.2, clip_high=0.28, dual_clip=3.0)
        out.sum().backward()
        assert out.item() == pytest.approx(loss, rel=1e-5)
        assert bool(logprobs.grad) is flows

    def test_without_dual_clip_a_bad_tokens_loss_grows_with_the_ratio(self) -> None:
        logprobs, old = ratios(9.0)
        assert clipped_surrogate(logprobs, old, torch.tensor([-2.0])).item() == pytest.approx(18, rel=1e-5)

    @given(
        st.lists(st.tuples(st.floats(-8, 0), st.floats(-8, 0), st.floats(-3, 3)), min_size=1, max_size=8),
        st.sampled_from([0.1, 0.2]),
        st.sampled_from([0.2, 0.28]),
        st.sampled_from([None, 1.5, 3.0]),
    )
    def test_equals_the_reference(
        self, tokens: list[tuple[float, float, float]], low: float, high: float, dual: float | None
    ) -> None:
        logprobs, old, advantages = torch.tensor(tokens).T
        out = clipped_surrogate(logprobs, old, advantages, clip_low=low, clip_high=high, dual_clip=dual)
        expected = [reference.surrogate(*token, low=low, high=high, dual=dual) for token in tokens]
        np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)

    def test_on_policy_its_gradient_is_that_of_reinforce(self) -> None:
        logprobs, old = ratios(1.0, 1.0)
        clipped_surrogate(logprobs, old, torch.tensor([0.7, -1.3])).sum().backward()
        torch.testing.assert_close(logprobs.grad, torch.tensor([-0.7, 1.3]))

    @pytest.mark.parametrize("advantage", [1.0, -1.0])
    def test_an_extreme_ratio_stays_finite(self, advantage: float) -> None:
        logprobs = torch.tensor([-0.1], requires_grad=True)
        loss = clipped_surrogate(logprobs, torch.tensor([-1e6]), torch.tensor([advantage]))
        loss.sum().backward()
        assert loss.isfinite().all()
        assert logprobs.grad is not None
        assert logprobs.grad.item() == 0
        assert abs(loss.item()) <= math.exp(MAX_EXPONENT) * 1.001


class TestSequenceRatio:
    """The ratio of GSPO: one per sequence, the geometric mean of those of its tokens."""

    sequences = torch.tensor([4, 4, 9, 4])

    def test_by_hand(self) -> None:
        logprobs, old = ratios(1.0, 2.0, 3.0, 4.0)
        values = log_ratios(logprobs, old, self.sequences)
        torch.testing.assert_close(values.exp(), torch.tensor([2.0, 2.0, 3.0, 2.0]))  # (1 * 2 * 4)^(1/3) = 2

    def test_a_sequence_is_clipped_as_a_whole(self) -> None:
        logprobs, old = ratios(1.0, 2.0, 1.0, 4.0)
        loss = clipped_surrogate(logprobs, old, torch.ones(4), clip_high=0.28, sequences=self.sequences)
        loss.sum().backward()
        torch.testing.assert_close(loss, torch.tensor([-1.28, -1.28, -1.0, -1.28]))
        torch.testing.assert_close(logprobs.grad, torch.tensor([0.0, 0.0, -1.0, 0.0]))

    def test_with_one_advantage_per_sequence_the_gradient_is_that_of_the_published_ratio(self) -> None:
        """s(y) = exp(mean log-ratio), differentiated through the mean, as in equations 5 and 7 of the paper."""
        advantages, weights = torch.tensor([0.7, 0.7, -1.3, 0.7]), token_weights(self.sequences, "episode_mean")
        logprobs, old = ratios(1.1, 0.9, 1.05, 1.2)
        loss, _ = policy_loss(logprobs, old, advantages, weights, LossConfig(), sequences=self.sequences)
        loss.backward()
        mine, logprobs.grad = logprobs.grad, None
        whole = torch.zeros(())
        for sequence, advantage in ((4, 0.7), (9, -1.3)):
            chosen = self.sequences == sequence
            whole = whole - (logprobs - old)[chosen].mean().exp() * advantage / 2
        torch.testing.assert_close(loss, whole)
        whole.backward()
        torch.testing.assert_close(mine, logprobs.grad)

    def test_each_step_of_a_sequence_keeps_its_own_advantage(self) -> None:
        logprobs, old = ratios(1.0, 1.0, 1.0, 1.0)
        clipped_surrogate(logprobs, old, torch.tensor([1.0, -2.0, 0.5, 3.0]), sequences=self.sequences).sum().backward()
        torch.testing.assert_close(logprobs.grad, torch.tensor([-1.0, 2.0, -0.5, -3.0]))

    def test_sequences_of_one_token_have_the_ratio_of_the_token(self) -> None:
        logprobs, old = ratios(1.0, 2.0, 0.5)
        assert torch.equal(log_ratios(logprobs, old, torch.arange(3)), log_ratios(logprobs, old))

    def test_statistics_are_of_the_ratio_that_was_used(self) -> None:
        logprobs, old = ratios(1.0, 2.0, 3.0, 4.0)
        ones = torch.ones(4)
        _, stats = policy_loss(logprobs, old, ones, ones, LossConfig(), sequences=self.sequences)
        assert stats.max_ratio.item() == pytest.approx(3.0)
        assert stats.clip_high.item() == 4
        assert policy_loss(logprobs, old, ones, ones, LossConfig())[1].clip_high.item() == 3

    def test_there_is_one_sequence_per_token(self) -> None:
        one = torch.zeros(1)
        with pytest.raises(ValueError, match=r"^sequences: expected shape \(1,\), the shape of logprobs, got \(2,\)"):
            policy_loss(one, one, one, one, LossConfig(), sequences=torch.zeros(2, dtype=torch.long))


class TestKL:
    def test_by_hand(self) -> None:
        logprobs, ref = torch.tensor([math.log(0.5)]), torch.tensor([math.log(0.25)])
        assert kl_divergence(logprobs, ref, "k1").item() == pytest.approx(math.log(2))
        assert kl_divergence(logprobs, ref, "k2").item() == pytest.approx(math.log(2) ** 2 / 2)
        assert kl_divergence(logprobs, ref, "k3").item() == pytest.approx(0.5 - 1 + math.log(2))

    @pytest.mark.parametrize("estimator", ["k1", "k3"])
    def test_k1_and_k3_are_unbiased(self, estimator: KLEstimator) -> None:
        p, q = torch.tensor([0.1, 0.2, 0.7]).double(), torch.tensor([0.3, 0.3, 0.4]).double()
        expected = (p * (p.log() - q.log())).sum()
        torch.testing.assert_close((p * kl_divergence(p.log(), q.log(), estimator)).sum(), expected)

    def test_expected_gradients(self) -> None:
        logits, q = torch.tensor([0.1, -0.4, 0.9], dtype=torch.double), torch.tensor([0.3, 0.3, 0.4]).double()

        def gradient(estimate: KLEstimator | None) -> Tensor:
            leaf = logits.clone().requires_grad_()
            logp = leaf.log_softmax(0)
            if estimate is None:
                (logp.exp() * (logp - q.log())).sum().backward()
            else:
                (logp.exp().detach() * kl_divergence(logp, q.log(), estimate)).sum().backward()
            assert leaf.grad is not None
            return leaf.grad

        torch.testing.assert_close(gradient("k1"), torch.zeros(3).double())
        torch.testing.assert_close(gradient("k2"), gradient(None))

    @pytest.mark.parametrize("estimator", ["k2", "k3"])
    @given(st.lists(st.tuples(st.floats(-50, 0), st.floats(-50, 0)), min_size=1, max_size=8))
    def test_never_negative(self, estimator: KLEstimator, tokens: list[tuple[float, float]]) -> None:
        logprobs, ref = torch.tensor(tokens).T
        assert (kl_divergence(logprobs, ref, estimator) >= 0).all()

    def test_unknown_estimator(self) -> None:
        with pytest.raises(ValueError, match=r"^estimator: expected one of k1, k2, k3, got 'k4'"):
            kl_divergence(torch.zeros(1), torch.zeros(1), "k4")  # type: ignore[arg-type]


class TestPolicyLoss:
    def test_sums_its_terms_by_weight(self) -> None:
        logprobs, old = ratios(1.0, 1.5)
        ref, advantages, weights = old - 0.3, torch.tensor([1.0, -2.0]), torch.tensor([0.25, 0.75])
        entropies = torch.tensor([0.4, 0.8], requires_grad=True)
        config = LossConfig(kl_coef=0.1, kl_estimator="k2", entropy_coef=0.01)
        loss, stats = policy_loss(logprobs, old, advantages, weights, config, ref_logprobs=ref, entropies=entropies)
        kl = [0.3**2 / 2, (0.3 + math.log(1.5)) ** 2 / 2]
        tokens = [-1.0 + 0.1 * kl[0] - 0.01 * 0.4, 3.0 + 0.1 * kl[1] - 0.01 * 0.8]
        assert loss.item() == pytest.approx(0.25 * tokens[0] + 0.75 * tokens[1], rel=1e-5)
        means = stats.metrics()
        assert means["surrogate"] == pytest.approx(1.0, rel=1e-5)
        assert means["kl_reference"] == pytest.approx(sum(kl) / 2, rel=1e-5)
        assert means["entropy"] == pytest.approx(0.6)
        assert means["max_ratio"] == pytest.approx(1.5)
        assert means["kl_old"] == pytest.approx((1.5 - 1 - math.log(1.5)) / 2, rel=1e-4)

    def test_the_entropy_bonus_has_a_gradient_that_raises_entropy(self) -> None:
        logits = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
        logp = logits.log_softmax(-1)
        entropies = -(logp.exp() * logp).sum(-1)
        loss, _ = policy_loss(
            logp[:, 0],
            logp[:, 0].detach(),
            torch.zeros(1),
            torch.ones(1),
            LossConfig(entropy_coef=0.5),
            entropies=entropies,
        )
        loss.backward()
        assert logits.grad is not None
        after = (logits - 0.1 * logits.grad).detach().log_softmax(-1)
        assert -(after.exp() * after).sum() > entropies.sum()

    def test_without_coefficients_kl_and_entropy_are_only_statistics(self) -> None:
        logprobs, old = ratios(1.0)
        entropies = torch.tensor([3.0], requires_grad=True)
        given_ref = {"ref_logprobs": old - 5, "entropies": entropies}
        loss, stats = policy_loss(logprobs, old, torch.ones(1), torch.ones(1), LossConfig(), **given_ref)
        loss.backward()
        assert loss.item() == pytest.approx(-1)
        assert entropies.grad is None
        assert stats.kl_reference.item() > 0
        assert stats.entropy.item() == 3

    def test_clipped_tokens_are_counted(self) -> None:
        logprobs, old = ratios(1.5, 1.5, 0.5, 0.5, 4.0, 1.0)
        advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0, 1.0])
        _, stats = policy_loss(logprobs, old, advantages, torch.ones(6), LossConfig(dual_clip=3.0))
        assert stats.clip_high.item() == 1
        assert stats.clip_low.item() == 1
        assert stats.dual_clip.item() == 1
        assert stats.tokens.item() == 6
        assert stats.metrics()["clip_high"] == pytest.approx(1 / 6)

    def test_micro_batches_add_up_to_the_update(self) -> None:
        torch.manual_seed(0)
        episode = torch.randint(0, 7, (100,))
        old, ref, advantages = -torch.rand(100) * 3, -torch.rand(100) * 3, torch.randn(100)
        config = LossConfig(kl_coef=0.1)
        weights = token_weights(episode, "episode_mean")

        def update(parts: list[Tensor]) -> tuple[Tensor, LossStats]:
            logprobs = (old + 0.1 * advantages).requires_grad_()
            stats = None
            for part in parts:
                inputs = (logprobs[part], old[part], advantages[part], weights[part], config)
                loss, new = policy_loss(*inputs, ref_logprobs=ref[part])
                loss.backward()
                stats = new if stats is None else stats + new
            assert logprobs.grad is not None
            assert stats is not None
            return logprobs.grad, stats

        gradient, stats = update([torch.arange(100)])
        split_gradient, split_stats = update(list(torch.randperm(100).split(9)))
        torch.testing.assert_close(split_gradient, gradient)
        assert split_stats.metrics() == pytest.approx(stats.metrics(), rel=1e-4)

    def test_statistics_over_workers(self) -> None:
        parts = [ratios(1.0, 2.0), ratios(0.5), ratios()]

        def work(rank: int, reduce: Reduce) -> dict[str, float]:
            logprobs, old = parts[rank]
            ones = torch.ones_like(old)
            return policy_loss(logprobs, old, ones, ones, LossConfig())[1].over_workers(reduce).metrics()

        whole = policy_loss(*ratios(1.0, 2.0, 0.5), torch.ones(3), torch.ones(3), LossConfig())[1].metrics()
        assert all(means == pytest.approx(whole) for means in on_workers(3, work))

    def test_a_micro_batch_without_tokens(self) -> None:
        logprobs = torch.zeros(0, requires_grad=True)
        nothing = torch.zeros(0)
        loss, stats = policy_loss(logprobs, nothing, nothing, nothing, LossConfig())
        loss.backward()
        assert loss.item() == 0
        assert all(value == 0 for value in stats.metrics().values())

    @pytest.mark.parametrize(
        ("config", "given", "message"),
        [
            (LossConfig(kl_coef=0.1), {}, "^ref_logprobs: "),
            (LossConfig(entropy_coef=0.1), {}, "^entropies: "),
            (LossConfig(entropy_coef=0.1), {"entropies": torch.ones(1)}, "^entropies: .* with their gradient"),
            (
                LossConfig(),
                {"entropies": torch.ones(2)},
                r"^entropies: expected shape \(1,\), the shape of logprobs, got \(2,\)",
            ),
        ],
    )
    def test_a_term_without_its_tensor(self, config: LossConfig, given: dict[str, Tensor], message: str) -> None:
        logprobs, old = ratios(1.0)
        with pytest.raises(ValueError, match=message):
            policy_loss(logprobs, old, torch.ones(1), torch.ones(1), config, **given)

    def test_padded_tensors_are_refused(self) -> None:
        square = torch.zeros(2, 2)
        with pytest.raises(ValueError, match=r"^logprobs: expected one value per token, shape \(M,\), got \(2, 2\)"):
            policy_loss(square, square, square, square, LossConfig())

    @pytest.mark.parametrize(
        "wrong",
        [
            {"clip_low": 1.0},
            {"clip_high": 0.0},
            {"dual_clip": 1.0},
            {"kl_coef": -0.1},
            {"kl_estimator": "k4"},
            {"entropy_coef": math.nan},
        ],
    )
    def test_invalid_configurations_are_named(self, wrong: dict) -> None:
        with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: "):
            LossConfig(**wrong)


HALF = [torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", HALF)
class TestHalfPrecision:
    """Half-precision input is computed in float32: the result is that of the same numbers as float32."""

    def test_the_ratio_of_a_long_sequence(self, dtype: torch.dtype) -> None:
        old = torch.full((5000,), 0.01, dtype=dtype)
        ratio = log_ratios(torch.zeros(5000, dtype=dtype), old, torch.zeros(5000, dtype=torch.long))
        torch.testing.assert_close(ratio, -old.float(), rtol=1e-4, atol=0)

    def test_each_function_equals_float32(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        given = [torch.randn(100).to(dtype) for _ in range(3)]
        whole = [values.float() for values in given]
        assert torch.equal(log_ratios(*given[:2]), log_ratios(*whole[:2]))
        assert torch.equal(clipped_surrogate(*given, dual_clip=1.3), clipped_surrogate(*whole, dual_clip=1.3))
        for estimator in get_args(KLEstimator):
            found = kl_divergence(given[0], given[1], estimator)
            assert torch.equal(found, kl_divergence(whole[0], whole[1], estimator))

    def test_the_loss_and_its_gradient(self, dtype: torch.dtype) -> None:
        config = LossConfig(kl_coef=0.1, entropy_coef=0.01)
        gradients = []
        for kind in (dtype, torch.float32):
            torch.manual_seed(0)
            logprobs, old, advantages, ref = (torch.randn(50).to(dtype).to(kind) for _ in range(4))
            entropies = torch.rand(50).to(dtype).to(kind).requires_grad_()
            logprobs.requires_grad_()
            terms = {"ref_logprobs": ref, "entropies": entropies}
            loss, stats = policy_loss(logprobs, old, advantages, torch.full((50,), 1 / 50), config, **terms)
            loss.backward()
            assert logprobs.grad is not None
            assert entropies.grad is not None
            assert logprobs.grad.dtype == entropies.grad.dtype == kind
            gradients.append((loss, stats.metrics(), logprobs.grad.to(dtype), entropies.grad.to(dtype)))
        assert gradients[0][:2] == gradients[1][:2]
        assert all(torch.equal(half, whole) for half, whole in zip(gradients[0][2:], gradients[1][2:], strict=True))


@pytest.mark.parametrize("dtype", [*HALF, torch.float32, torch.float64])
def test_statistics_are_finite_float32_for_every_dtype(dtype: torch.dtype) -> None:
    some = torch.ones(70_000, dtype=dtype)  # float16 ends at 65,504
    _, stats = policy_loss(some, some, some, some, LossConfig(), ref_logprobs=some, entropies=some)
    values = vars(stats)
    assert all(value.dtype == torch.float32 and value.ndim == 0 for value in values.values())
    assert stats.tokens.item() == stats.entropy.item() == 70_000


def test_float64_stays_float64() -> None:
    some = torch.ones(3, dtype=torch.float64)
    assert log_ratios(some, some).dtype == kl_divergence(some, some).dtype == torch.float64
    assert policy_loss(some, some, some, some, LossConfig())[0].dtype == torch.float64


class TestShapes:
    """Vectors of one length only: others would be broadcast to pairs of tokens."""

    vector, column = torch.zeros(4), torch.zeros(4, 1)

    @pytest.mark.parametrize("function", [log_ratios, kl_divergence])
    def test_of_log_probabilities(self, function: Callable[..., Tensor]) -> None:
        with pytest.raises(ValueError, match=r"^logprobs: expected one value per token, shape \(M,\), got \(4, 1\)"):
            function(self.column, self.column)
        with pytest.raises(ValueError, match=r"logprobs: expected shape \(4,\), the shape of logprobs, got \(4, 1\)"):
            function(self.vector, self.column)

    def test_of_sequences(self) -> None:
        with pytest.raises(ValueError, match=r"^sequences: expected shape \(4,\), the shape of logprobs, got \(3,\)"):
            log_ratios(self.vector, self.vector, torch.zeros(3, dtype=torch.long))

    def test_of_advantages(self) -> None:
        with pytest.raises(ValueError, match=r"^advantages: expected shape \(4,\), the shape of logprobs, got \(1,\)"):
            clipped_surrogate(self.vector, self.vector, torch.zeros(1))


def test_the_parts_fit_together() -> None:
    """Rewards to one gradient, on policy: good tokens become likelier, bad ones less so."""
    advantages = outcome_advantages(torch.tensor([1.0, 0.0]), torch.tensor([0, 0]))
    episode = torch.tensor([0, 0, 0, 1])
    logprobs, old = ratios(1.0, 1.0, 1.0, 1.0)
    loss, _ = policy_loss(logprobs, old, advantages[episode], token_weights(episode, "episode_mean"), LossConfig())
    loss.backward()
    half = math.sqrt(0.5) / 2  # advantage 1/sqrt(2), weight 1/2 to the episode
    torch.testing.assert_close(logprobs.grad, torch.tensor([-half / 3] * 3 + [half]), rtol=1e-4, atol=0)
