"""The KV cache of a small Llama gives transformers' logits, and its kernel is attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from empg.policy.llama.decoding import LlamaContexts
from empg.policy.llama.kernel import attend
from empg.policy.model import Policy
from tests.policy.llama.models import SHAPES, make


@pytest.mark.parametrize("name", SHAPES)
@torch.inference_mode()
def test_logits_are_transformers_whatever_was_read_before(name: str) -> None:
    model = make(name)
    contexts = LlamaContexts(Policy(model, None, torch.device("cpu")), 3, 40)
    rng = torch.Generator().manual_seed(3)
    texts: list[list[int]] = [[], [], []]
    for slots, widths in [([2, 0], [9, 1]), ([0, 1, 2], [1, 1, 1]), ([1], [14]), ([2, 1], [1, 5])]:
        chunks = [torch.randint(0, 60, (width,), generator=rng).tolist() for width in widths]
        logits = contexts.read(slots, chunks)
        for slot, chunk, row in zip(slots, chunks, logits, strict=True):
            texts[slot] += chunk
            expected = model(torch.tensor([texts[slot]]), use_cache=False).logits[0, -1]
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-5)
    assert contexts.lengths.tolist() == [len(text) for text in texts]


@torch.inference_mode()
def test_prompts_are_read_in_passes_of_a_bounded_number_of_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy(make("a key for each head"), None, torch.device("cpu"))
    whole, parted = LlamaContexts(policy, 4, 40), LlamaContexts(policy, 4, 40, pass_tokens=8)
    passes: list[tuple[list[int], list[int]]] = []
    forward = parted._forward

    def watched(slots: list[int], chunks: list[list[int]]) -> torch.Tensor:
        passes.append((slots, [len(chunk) for chunk in chunks]))
        return forward(slots, chunks)

    monkeypatch.setattr(parted, "_forward", watched)
    rng = torch.Generator().manual_seed(3)
    for slots, widths in [([3, 0, 2, 1], [5, 19, 2, 1]), ([0, 2], [4, 4])]:
        chunks = [torch.randint(0, 60, (width,), generator=rng).tolist() for width in widths]
        torch.testing.assert_close(parted.read(slots, chunks), whole.read(slots, chunks), atol=1e-4, rtol=1e-5)
    assert parted.lengths.tolist() == whole.lengths.tolist()
    # The second prompt is longer than a pass. What fits into one is read in one.
    assert passes == [([3, 0], [5, 3]), ([0], [8]), ([0], [8]), ([2, 1], [2, 1]), ([0, 2], [4, 4])]


@torch.inference_mode()
def test_a_shared_prompt_is_copied() -> None:
    contexts = LlamaContexts(Policy(make("a key for each head"), None, torch.device("cpu")), 4, 20)
    contexts.read([1], [[3, 4, 5]])
    contexts.share(1, torch.tensor([0, 3]), 3)
    assert contexts.lengths.tolist() == [3, 3, 0, 3]
    logits = contexts.read([3, 1, 0], [[7], [7], [7]])
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 9, 30])
@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 1), (4, 4), (6, 2)])
def test_the_kernel_is_attention_over_the_first_columns(length: int, heads: int, kv_heads: int) -> None:
    rng = np.random.default_rng(length)

    def numbers(*shape: int) -> np.ndarray:
        return (3 * rng.standard_normal(shape)).astype(np.float32)

    keys, values = numbers(3, kv_heads, 30, 8), numbers(3, kv_heads, 30, 8)
    projected, mixed = numbers(2, heads + 2 * kv_heads, 8), np.empty((2, heads, 8), np.float32)
    slots, lengths = np.array([2, 0]), np.array([length, 30])
    attend(projected, keys, values, slots, lengths, np.empty((heads, 30), np.float32), mixed)
    for token in range(2):
        expected = scaled_dot_product_attention(
            torch.from_numpy(projected[token, :heads, None]),
            torch.from_numpy(keys[slots[token], :, : lengths[token]]),
            torch.from_numpy(values[slots[token], :, : lengths[token]]),
            scale=1.0,
            enable_gqa=True,
        )
        torch.testing.assert_close(torch.from_numpy(mixed[token]), expected[:, 0], atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_no_score_is_too_large_for_the_kernel() -> None:
    contexts = LlamaContexts(Policy(make("one layer"), None, torch.device("cpu")), 1, 8)
    contexts._weights.layers[0].qkv.mul_(1e4)  # one key takes everything; exp of the others is 0 and not NaN
    assert bool(contexts.read([0], [[1, 2, 3, 4]]).isfinite().all())


@torch.inference_mode()
def test_weights_that_are_not_finite_give_nan_and_no_error() -> None:
    contexts = LlamaContexts(Policy(make("one layer"), None, torch.device("cpu")), 1, 8)
    contexts._weights.layers[0].qkv[:] = torch.nan
    assert bool(contexts.read([0], [[1, 2, 3]]).isnan().all())
