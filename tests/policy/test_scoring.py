"""Scores of selected tokens equal those of the whole log-softmax, for any chunk size."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from empg.policy import scoring
from empg.policy.decode import Decoder, Sampling
from empg.policy.fused import FusedScores
from empg.policy.model import Policy
from empg.policy.scoring import log_softmax_and_entropy, score_tokens

IDS = torch.randint(10, 300, (3, 17), generator=torch.Generator().manual_seed(3))
ROWS = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 1])
COLUMNS = torch.tensor([1, 5, 16, 2, 9, 3, 4, 5, 6, 1])


def plain(policy: Policy, temperature: float) -> tuple[Tensor, Tensor]:
    """Straight from transformers: every logit of every position."""
    logits = policy.model(input_ids=IDS).logits[ROWS, COLUMNS - 1] / temperature
    distribution = torch.distributions.Categorical(logits=logits)
    return distribution.log_prob(IDS[ROWS, COLUMNS]), distribution.entropy()


def gradients(policy: Policy, values: tuple[Tensor, Tensor]) -> list[Tensor]:
    weights = torch.linspace(-1, 1, len(ROWS))
    total = (weights * values[0]).sum() + (weights.flip(0) * values[1]).sum()
    return list(torch.autograd.grad(total, policy.parameters))


@pytest.mark.parametrize("tokens_a_chunk", [1, 3, 9, 10, 1000])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_scores_and_gradients_do_not_depend_on_the_chunks(
    policy: Policy, monkeypatch: pytest.MonkeyPatch, tokens_a_chunk: int, temperature: float
) -> None:
    monkeypatch.setattr(scoring, "LOGIT_BUDGET", tokens_a_chunk * policy.model.config.vocab_size)
    scores = score_tokens(policy, IDS, ROWS, COLUMNS, temperature)
    expected = plain(policy, temperature)
    torch.testing.assert_close(scores, expected, atol=2e-5, rtol=1e-4)
    for ours, theirs in zip(gradients(policy, scores), gradients(policy, expected), strict=True):
        torch.testing.assert_close(ours, theirs, atol=2e-4, rtol=2e-3)
    with torch.no_grad():
        torch.testing.assert_close(
            score_tokens(policy, IDS, ROWS, COLUMNS, temperature), expected, atol=2e-5, rtol=1e-4
        )


def test_no_chunk_holds_more_logits_than_the_budget(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "LOGIT_BUDGET", 4 * policy.model.config.vocab_size)
    sizes: list[int] = []
    logits = Policy.logits

    def counted(self: Policy, hidden: torch.Tensor) -> torch.Tensor:
        sizes.append(len(hidden))
        return logits(self, hidden)

    monkeypatch.setattr(Policy, "logits", counted)
    score_tokens(policy, IDS, ROWS, COLUMNS)
    assert sizes == [4, 4, 2]


def test_padding_changes_nothing(policy: Policy) -> None:
    alone = score_tokens(policy, IDS[:1, :9], torch.zeros(8, dtype=torch.long), torch.arange(1, 9))
    padded = torch.zeros(2, 17, dtype=torch.long)
    padded[0, :9], padded[1] = IDS[0, :9], IDS[1]
    beside = score_tokens(policy, padded, torch.zeros(8, dtype=torch.long), torch.arange(1, 9))
    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=1e-5)


def test_entropy_by_hand() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [1.0, 1.0, 1.0]]))
    log_probs, entropy = log_softmax_and_entropy(logits, 1.0)
    torch.testing.assert_close(log_probs[0], logits[0])
    torch.testing.assert_close(entropy, torch.tensor([1.0397208, 1.0986123]))  # 1.5 ln 2 and ln 3
    cold, _ = log_softmax_and_entropy(logits, 0.5)  # probabilities squared: 4 : 1 : 1
    torch.testing.assert_close(cold[0].exp(), torch.tensor([4 / 6, 1 / 6, 1 / 6]))


def test_masked_tokens_add_nothing_to_the_entropy() -> None:
    masked = torch.finfo(torch.float32).min  # becomes minus infinity when it is divided by the temperature
    logits = torch.tensor([[0.0, math.log(2.0), -math.inf, masked], [-math.inf, 5.0, -math.inf, -math.inf]])
    logits.requires_grad_()
    log_probs, entropy = log_softmax_and_entropy(logits, 0.5)
    # Probabilities 1/5 and 4/5; and one token that is certain.
    assert entropy.tolist() == pytest.approx([math.log(5) - 0.8 * math.log(4), 0.0])
    assert log_probs[0].tolist() == pytest.approx([math.log(0.2), math.log(0.8), -math.inf, -math.inf])
    (gradient,) = torch.autograd.grad(entropy.sum(), logits)
    # d entropy / d logit = -p (log p + entropy) / temperature
    by_hand = [-p * (math.log(p) + entropy[0].item()) / 0.5 for p in (0.2, 0.8)]
    assert gradient.tolist() == [pytest.approx([*by_hand, 0.0, 0.0]), pytest.approx([0.0] * 4)]


def test_bfloat16_logits_are_scored_in_float32() -> None:
    log_probs, entropy = log_softmax_and_entropy(torch.zeros(2, 1000, dtype=torch.bfloat16), 1.0)
    assert log_probs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(entropy, torch.full((2,), 6.9077554))  # ln 1000


@pytest.mark.parametrize("sampling", [Sampling(1.3), Sampling(0.5, top_p=0.4), Sampling(0.8, greedy=True)])
def test_sampled_scores_are_rescored_at_the_same_temperature_whatever_was_cut(
    policy: Policy, sampling: Sampling
) -> None:
    prompts = [[40, 41, 42, 43], [50, 51]]
    decoder = Decoder(policy, 2, 32, sampling)
    rng = torch.Generator().manual_seed(5)
    logits = decoder.prefill([0, 1], prompts)
    sampled: list[list[tuple[int, float, float]]] = [[], []]
    for _ in range(8):
        choice = list(zip(*decoder.choose(logits, torch.rand(2, generator=rng)), strict=True))
        for lane, token in zip(sampled, choice, strict=True):
            lane.append(token)
        logits = decoder.advance([0, 1], [token for token, _, _ in choice])
    for prompt, lane in zip(prompts, sampled, strict=True):
        ids, logprobs, entropies = zip(*lane, strict=True)
        columns = torch.arange(len(prompt), len(prompt) + len(ids))
        with torch.no_grad():
            again = score_tokens(
                policy, torch.tensor([[*prompt, *ids]]), torch.zeros_like(columns), columns, sampling.temperature
            )
        torch.testing.assert_close((torch.tensor(logprobs), torch.tensor(entropies)), again, atol=2e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torch's compiler warns of its own parts
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_compiled_scores_are_the_same(policy: Policy, monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    monkeypatch.setattr(scoring, "LOGIT_BUDGET", 3 * policy.model.config.vocab_size)
    expected = score_tokens(policy, IDS, ROWS, COLUMNS, temperature)
    policy.compiled = True
    scores = score_tokens(policy, IDS, ROWS, COLUMNS, temperature)
    torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(gradients(policy, scores), gradients(policy, expected), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_scores_of_masked_tokens_are_finite() -> None:
    logits = torch.tensor([[0.0, -math.inf, 1.0], [-math.inf, 2.0, -math.inf]], requires_grad=True)
    logprobs, entropies = FusedScores.apply(logits, torch.tensor([2, 1]), 1.0)
    (logprobs.sum() + entropies.sum()).backward()
    wanted = log_softmax_and_entropy(logits.detach(), 1.0)
    torch.testing.assert_close(logprobs.detach(), wanted[0][[0, 1], [2, 1]])
    torch.testing.assert_close(entropies.detach(), wanted[1])
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
