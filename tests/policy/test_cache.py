"""The slot cache: any mix of slots, lengths and orders gives the results of separate forward passes."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from empg.policy.cache import SlotCache
from empg.policy.decode import Decoder, Sampling
from empg.policy.load import load_policy
from empg.policy.model import Policy
from empg.recipe import PolicySection, TinyModel

SHAPE = TinyModel(
    hidden_size=16, layers=2, heads=2, kv_heads=1, intermediate_size=16, vocab_size=300, max_positions=128
)
POLICY: Policy = load_policy(PolicySection(model="tiny", tiny=SHAPE, device="cpu"), ["a mug"], seed=1)
BY_TRANSFORMERS = Policy(POLICY.model, POLICY.tokenizer, POLICY.device)
BY_TRANSFORMERS.is_small_llama = False
with torch.no_grad():
    for _parameter in POLICY.parameters:
        if _parameter.ndim >= 2:
            _parameter.mul_(8.0)


def test_the_mask_shows_what_a_row_has_read() -> None:
    cache = SlotCache(1, 3, 8, torch.device("cpu"))
    mask = cache.aim(torch.tensor([2, 0]), torch.tensor([3, 0]), 2)
    assert mask.shape == (2, 1, 2, 5)
    assert mask[:, 0].int().tolist() == [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0]]]
    assert cache.positions.tolist() == [[3, 4], [0, 1]]


def test_padding_past_the_end_goes_to_the_spare_column() -> None:
    cache = SlotCache(1, 1, 4, torch.device("cpu"))
    cache.aim(torch.tensor([0]), torch.tensor([3]), 4)
    assert cache.positions.tolist() == [[3, 4, 4, 4]]
    assert cache.visible == 5


SLOTS = 4
moves = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.lists(st.integers(0, SLOTS - 1), min_size=1, unique=True), st.integers(1, 9)),
        st.tuples(st.just("write"), st.lists(st.integers(0, SLOTS - 1), min_size=1, unique=True), st.just(1)),
        st.tuples(st.just("clear"), st.lists(st.integers(0, SLOTS - 1), min_size=1, unique=True), st.just(0)),
    ),
    min_size=1,
    max_size=8,
)


@settings(max_examples=40)
@given(
    policy=st.sampled_from([POLICY, BY_TRANSFORMERS]),
    moves=moves,
    pass_tokens=st.sampled_from([4, 12, 1 << 14]),
    rng=st.randoms(use_true_random=False),
)
def test_any_play_with_the_slots_equals_plain_forward_passes(policy: Policy, moves, pass_tokens: int, rng) -> None:
    decoder = Decoder(policy, SLOTS, 64, Sampling(), pass_tokens=pass_tokens)
    contexts: list[list[int]] = [[] for _ in range(SLOTS)]
    for verb, slots, longest in moves:
        if verb == "clear":
            for slot in slots:
                decoder.clear(slot)
                contexts[slot] = []
            continue
        if verb == "read":  # rows of unequal length; some slots may get equal prompts
            chunks = [[rng.randrange(5, 250) for _ in range(rng.randint(1, longest))] for _ in slots]
            if rng.random() < 0.5:
                chunks = [chunks[0]] * len(slots)
        else:
            chunks = [[rng.randrange(5, 250)] for _ in slots]
        for slot, chunk in zip(slots, chunks, strict=True):
            contexts[slot] += chunk
        logits = decoder.prefill(slots, chunks) if verb == "read" else decoder.advance(slots, [c[0] for c in chunks])
        for slot, row in zip(slots, logits, strict=True):
            with torch.no_grad():
                expected = POLICY.logits(POLICY.hidden(torch.tensor([contexts[slot]]))[0, -1])
            torch.testing.assert_close(row, expected, atol=1e-4, rtol=1e-4)
    assert decoder.lengths.tolist() == [len(context) for context in contexts]
