"""The decoder samples from the model's distribution, whatever else is in the cache."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from empg.policy.decode import Decoder, Sampling, _invert, _truncate
from empg.policy.model import Policy
from empg.policy.scoring import score_tokens


@pytest.fixture(params=["own passes", "transformers"])
def policy(request: pytest.FixtureRequest, policy: Policy) -> Policy:
    """The tiny policy, computed by this package or by transformers as any other model."""
    assert policy.is_small_llama
    policy.is_small_llama = request.param == "own passes"
    return policy


PROMPTS = [[7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17, 18, 19, 20, 21]]


def score(policy: Policy, ids: list[int], first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities and entropies of ids[first:] by one plain forward pass."""
    columns = torch.arange(first, len(ids))
    with torch.no_grad():
        return score_tokens(policy, torch.tensor([ids]), torch.zeros_like(columns), columns)


def write(decoder: Decoder, slots: list[int], logits: torch.Tensor, tokens: int, rng: torch.Generator):
    """Sample `tokens` ids in every slot; the last one is not read yet, as after a turn."""
    out: list[tuple[list[Any], list[Any], list[Any]]] = [([], [], []) for _ in slots]
    for step in range(tokens):
        chosen = decoder.choose(logits, torch.rand(len(slots), generator=rng))
        for lane, values in zip(out, zip(*chosen, strict=True), strict=True):
            for column, value in zip(lane, values, strict=True):
                column.append(value)
        if step < tokens - 1:
            logits = decoder.advance(slots, [lane[0][-1] for lane in out])
    return out


def test_sampled_scores_are_those_of_a_plain_forward_pass(policy: Policy) -> None:
    decoder = Decoder(policy, 4, 64, Sampling())
    slots = [2, 0, 3]
    written = write(decoder, slots, decoder.prefill(slots, PROMPTS), 6, torch.Generator().manual_seed(1))
    for prompt, (ids, logprobs, entropies) in zip(PROMPTS, written, strict=True):
        expected_logprobs, expected_entropies = score(policy, prompt + ids, len(prompt))
        torch.testing.assert_close(torch.tensor(logprobs), expected_logprobs, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(torch.tensor(entropies), expected_entropies, atol=1e-5, rtol=1e-5)


def test_a_slot_is_kept_between_turns_and_clean_when_reused(policy: Policy) -> None:
    decoder = Decoder(policy, 2, 64, Sampling())
    rng = torch.Generator().manual_seed(2)
    [(first, *_)] = write(decoder, [1], decoder.prefill([1], [PROMPTS[0]]), 4, rng)
    # A longer neighbour comes in between; then slot 1 reads its own last id and the next observation.
    decoder.prefill([0], [PROMPTS[2] * 3])
    context = PROMPTS[0] + first + [30, 31]
    [(second, logprobs, _)] = write(decoder, [1], decoder.prefill([1], [[first[-1], 30, 31]]), 3, rng)
    expected, _ = score(policy, context + second, len(context))
    torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-5, rtol=1e-5)

    decoder.clear(1)
    [(third, logprobs, _)] = write(decoder, [1], decoder.prefill([1], [PROMPTS[1]]), 3, rng)
    expected, _ = score(policy, PROMPTS[1] + third, len(PROMPTS[1]))
    torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-5, rtol=1e-5)


def test_a_groups_prompt_is_prefilled_once(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(policy, 4, 64, Sampling())
    chunks: list[Sequence[Sequence[int]]] = []
    read = decoder.contexts.read

    def watched(slots: Sequence[int], prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        chunks.append(prompts)
        return read(slots, prompts)

    monkeypatch.setattr(decoder.contexts, "read", watched)
    logits = decoder.prefill([0, 1, 2, 3], [PROMPTS[2], PROMPTS[2], PROMPTS[1], PROMPTS[2]])
    assert chunks == [[PROMPTS[2], PROMPTS[1]]]
    torch.testing.assert_close(logits[0], logits[3])
    written = write(decoder, [0, 1, 2, 3], logits, 4, torch.Generator().manual_seed(3))
    for prompt, (ids, logprobs, _) in zip([PROMPTS[2], PROMPTS[2], PROMPTS[1], PROMPTS[2]], written, strict=True):
        torch.testing.assert_close(
            torch.tensor(logprobs), score(policy, prompt + ids, len(prompt))[0], atol=1e-5, rtol=1e-5
        )


def test_padding_may_reach_the_end_of_a_slot(policy: Policy) -> None:
    decoder = Decoder(policy, 2, 12, Sampling())
    decoder.prefill([0], [list(range(10, 20))])  # 10 of 12 tokens used; the neighbour's prompt is 8 wide
    logits = decoder.prefill([0, 1], [[21], PROMPTS[2]])
    expected = policy.logits(policy.hidden(torch.tensor([[*range(10, 20), 21]]))[0, -1])
    torch.testing.assert_close(logits[0], expected, atol=1e-5, rtol=1e-5)


def test_too_much_for_a_slot_is_an_error(policy: Policy) -> None:
    decoder = Decoder(policy, 1, 4, Sampling())
    with pytest.raises(ValueError, match="expected at most 4 tokens per slot, got"):
        decoder.prefill([0], [[5, 6, 7, 8, 9]])


def test_inverse_cdf_by_hand() -> None:
    probs = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).expand(4, -1)
    uniforms = torch.tensor([0.0, 0.19, 0.2, 0.999999])
    assert _invert(probs, uniforms).tolist() == [0, 0, 2, 3]


def test_top_p_keeps_the_smallest_set_that_reaches_it() -> None:
    probs = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    assert _truncate(probs, 0.6).ne(0).tolist() == [[False, True, False, True]]
    assert _truncate(probs, 0.05).ne(0).tolist() == [[False, True, False, False]]
    assert _truncate(probs, 1.0) is probs


def test_entropy_is_of_the_untruncated_distribution(policy: Policy) -> None:
    logits = torch.tensor([[3.0, 1.0, 0.0, -1.0]])
    full = torch.distributions.Categorical(logits=logits / 0.7).entropy().item()
    for sampling in (Sampling(0.7, 1.0), Sampling(0.7, 0.5), Sampling(0.7, 1.0, greedy=True)):
        _, logprobs, entropies = Decoder(policy, 1, 8, sampling).choose(logits, torch.tensor([0.0]))
        assert entropies == [pytest.approx(full, abs=1e-6)]
        assert logprobs == [pytest.approx(torch.log_softmax(logits / 0.7, -1)[0, 0].item(), abs=1e-6)]


def test_sampling_follows_the_distribution(policy: Policy) -> None:
    logits = torch.tensor([[1.0, 0.0, -1.0]]).expand(20000, -1)
    ids, _, _ = Decoder(policy, 1, 8, Sampling()).choose(
        logits, torch.rand(20000, generator=torch.Generator().manual_seed(0))
    )
    shares = torch.bincount(torch.tensor(ids), minlength=3) / 20000
    torch.testing.assert_close(shares, torch.softmax(logits[0], -1), atol=0.015, rtol=0)
