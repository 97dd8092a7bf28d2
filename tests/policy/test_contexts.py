"""Contexts of a transformers model: bounded passes, the numbers of the update, and no wait for the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from empg.policy.cache import SlotLayer
from empg.policy.contexts import ModelContexts
from empg.policy.decode import Decoder, Sampling
from empg.policy.model import Policy
from empg.policy.scoring import score_tokens

PROMPTS = [list(range(5, 5 + width)) for width in (3, 11, 2, 11, 7, 26)]
SLOTS = [4, 0, 2, 5, 1, 3]


@pytest.fixture
def policy(policy: Policy) -> Policy:
    """The tiny policy, computed by transformers as any other model."""
    policy.is_small_llama = False
    return policy


def logits(policy: Policy, pass_tokens: int, sizes: list[tuple[int, int]] | None = None) -> Tensor:
    """The logits after all prompts and one more id; `sizes` gets the rows and the width of each forward pass."""
    contexts = ModelContexts(policy, 6, 64, pass_tokens=pass_tokens)
    hidden = policy.hidden

    def watched(input_ids: Tensor, *more: Any, **named: Any) -> Tensor:
        if sizes is not None:
            sizes.append((input_ids.shape[0], input_ids.shape[1]))
        return hidden(input_ids, *more, **named)

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(policy, "hidden", watched)
        contexts.read(SLOTS[:2], PROMPTS[:2])
        contexts.read(SLOTS[2:], PROMPTS[2:])
        return contexts.read(SLOTS, [[50 + slot] for slot in SLOTS])


@pytest.mark.parametrize("pass_tokens", [6, 11, 22, 40])
def test_no_pass_has_more_ids_than_a_pass_may_have(policy: Policy, pass_tokens: int) -> None:
    sizes: list[tuple[int, int]] = []
    found = logits(policy, pass_tokens, sizes)
    assert max(rows * width for rows, width in sizes) <= pass_tokens
    torch.testing.assert_close(found, logits(policy, 1 << 14), atol=1e-5, rtol=1e-5)


def test_prompts_that_fit_into_one_pass_are_read_in_one(policy: Policy) -> None:
    sizes: list[tuple[int, int]] = []
    logits(policy, 4 * 26, sizes)
    assert sizes == [(2, 11), (4, 26), (6, 1)]


def test_prompts_of_similar_length_share_a_pass(policy: Policy) -> None:
    sizes: list[tuple[int, int]] = []
    logits(policy, 26, sizes)
    assert sizes == [(2, 11), (1, 26), (2, 11), (1, 2), (6, 1)]


COPIES = (torch.ops.aten.to, torch.ops.aten._to_copy, torch.ops.aten.copy_)


class Moves(TorchDispatchMode):
    """Records each copy between devices that the host waits for, and each operation on tensors of two devices."""

    def __init__(self) -> None:
        super().__init__()
        self.moved = 0
        self.waits: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t.ndim]
        devices = {t.device for t in tensors}
        if function.overloadpacket in COPIES and len(devices | {result.device}) > 1:
            self.moved += 1
            names = [argument.name for argument in function._schema.arguments]
            if not {**dict(zip(names, args, strict=False)), **(kwargs or {})}.get("non_blocking"):
                self.waits.append(str(function))
        elif len(devices) > 1:
            self.waits.append(str(function))
        return result


@pytest.fixture
def without_numbers(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """A policy on the device `meta`, which is as a GPU here: reading a value from it raises."""

    @contextlib.contextmanager
    def nothing(*which: Any, **more: Any) -> Iterator[None]:
        yield

    monkeypatch.setattr(torch, "autocast", nothing)  # `meta` has none
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: False)
    made = Policy(policy.model.to("meta"), policy.tokenizer, torch.device("meta"))
    assert not made.is_small_llama
    return made


def test_reading_never_waits_for_the_device(without_numbers: Policy) -> None:
    decoder = Decoder(without_numbers, 6, 64, Sampling(), pass_tokens=30)
    with Moves() as moves:
        decoder.prefill(SLOTS, [*PROMPTS[:-1], PROMPTS[0]])  # two of them are the same
        decoder.advance(SLOTS, SLOTS)
        found = decoder.advance([2, 5], [1, 1])  # a selection of the slots
    assert found.device.type == "meta"
    assert moves.moved > 3 * 4  # at least ids, slots, starts and ends of each pass
    assert moves.waits == []


def test_a_wait_would_be_seen(without_numbers: Policy) -> None:
    here, there = torch.arange(3), torch.zeros(3, device="meta")
    with Moves() as moves:
        here.to("meta")
        there[here]
        with torch.inference_mode():
            here.to(device="meta")
            here.to("meta", non_blocking=True)
    assert len(moves.waits) == 3
    with pytest.raises((RuntimeError, NotImplementedError)):
        there.tolist()
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(there.any())


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 0.5), Sampling(greedy=True)])
def test_choosing_waits_once_per_token(policy: Policy, sampling: Sampling, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = Decoder(policy, 2, 64, sampling)
    logits = decoder.prefill([0, 1], PROMPTS[:2])
    reads = []

    def watched(name: str) -> Any:
        original = getattr(Tensor, name)

        def read(tensor: Tensor, *args: Any) -> Any:
            reads.append(name)
            return original(tensor, *args)

        return read

    for name in ("tolist", "item", "cpu", "numpy", "__bool__", "__int__", "__float__", "nonzero", "unique"):
        monkeypatch.setattr(Tensor, name, watched(name))
    ids, logprobs, entropies = decoder.choose(logits, torch.tensor([0.3, 0.6]))
    assert reads == ["tolist"]
    assert [type(value) for value in (ids[0], logprobs[0], entropies[0])] == [int, float, float]


def dtypes(policy: Policy) -> Any:
    """Record the type of what a product in the layers returns."""
    found: list[torch.dtype] = []
    layer = policy.model.model.layers[0].self_attn.q_proj
    handle = layer.register_forward_hook(lambda module, args, output: found.append(output.dtype))
    return found, handle


@pytest.mark.parametrize("autocast", [True, False])
def test_sampling_and_update_compute_in_the_same_type(policy: Policy, autocast: bool) -> None:
    wanted = torch.bfloat16 if autocast else torch.float32
    decoder = Decoder(policy, 2, 64, Sampling(), autocast=autocast)
    found, handle = dtypes(policy)
    first = decoder.prefill([0, 1], PROMPTS[:2])
    decoder.advance([0, 1], [9, 9])
    ids = torch.tensor([[*PROMPTS[1], 9]])
    with policy.autocast(autocast):
        logprobs, _ = score_tokens(policy, ids, torch.tensor([0]), torch.tensor([len(PROMPTS[1])]))
    handle.remove()
    assert found == [wanted] * 3
    assert isinstance(decoder.contexts, ModelContexts)
    cache = decoder.contexts.cache.layers[0]
    assert isinstance(cache, SlotLayer)
    assert (cache.keys.dtype, cache.values.dtype) == (wanted, wanted)
    assert first.dtype == torch.float32  # the head, of which probabilities are made, is not rounded
    assert {p.dtype for p in policy.parameters} == {torch.float32}
    # The tiny weights are spread out on purpose, so that rounding shows: float32 sampling would be off by more.
    torch.testing.assert_close(torch.log_softmax(first[1], -1)[9], logprobs[0], atol=0.1 if autocast else 1e-5, rtol=0)


def test_the_own_passes_do_not_sample_under_autocast(policy: Policy) -> None:
    policy.is_small_llama = True
    assert not isinstance(Decoder(policy, 2, 64, Sampling()).contexts, ModelContexts)
    assert not isinstance(Decoder(policy, 2, 64, Sampling(), autocast="auto").contexts, ModelContexts)
    assert isinstance(Decoder(policy, 2, 64, Sampling(), autocast=True).contexts, ModelContexts)


def test_a_rollout_rounds_each_weight_once(policy: Policy) -> None:
    shape = policy.model.model.layers[0].mlp.gate_proj.weight.shape
    rounded = []

    class Casts(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if function.overloadpacket in COPIES and args[0].shape == shape:
                rounded.append(args[0])
            return function(*args, **(kwargs or {}))

    decoder = Decoder(policy, 2, 64, Sampling(), autocast=True)
    with policy.keeping_casts(), Casts():
        decoder.prefill([0, 1], PROMPTS[:2])
        for _ in range(3):
            decoder.advance([0, 1], [9, 9])
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32  # what else computes is not rounded
    layers = len(policy.model.model.layers)
    assert len(rounded) == 2 * layers  # gate and up have this shape
    policy.hidden(torch.tensor(PROMPTS[:1])).sum().backward()
    with policy.autocast(True):
        policy.hidden(torch.tensor(PROMPTS[:1])).sum().backward()  # the copies of the rollout are gone
    assert all(p.grad is not None for p in policy.parameters)
