"""Gradient checkpointing keeps less for the backward pass; compiled layers compute the same; nothing else changes."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from empg.errors import UserError
from empg.policy.layers import replaced_layers, training_layers
from empg.policy.model import Policy
from empg.policy.scoring import score_tokens

IDS = torch.randint(5, 300, (3, 40), generator=torch.Generator().manual_seed(0))
WHERE = torch.arange(3).repeat_interleave(39), torch.arange(1, 40).repeat(3)


@pytest.fixture
def policy(policy: Policy) -> Policy:
    """The tiny policy, computed by transformers as any other model."""
    policy.is_small_llama = False
    return policy


def trained(policy: Policy, wanted: bool, autocast: bool = False) -> tuple[Tensor, list[Tensor], int, Counter[int]]:
    """Log-probabilities, gradients, bytes kept for the backward pass, and forward passes of each layer."""
    kept: dict[int, int] = {}
    passes: Counter[int] = Counter()
    handles = [
        layer.mlp.register_forward_pre_hook(lambda *_, number=number: passes.update([number]))
        for number, layer in enumerate(policy.model.model.layers)
    ]

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    policy.model.zero_grad()
    with training_layers(policy, recomputed=wanted, compiled=False):
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), policy.autocast(autocast):
            logprobs, entropies = score_tokens(policy, IDS, *WHERE)
        (logprobs.sum() + entropies.sum()).backward()
    for handle in handles:
        handle.remove()
    gradients = [p.grad.clone() for p in policy.parameters if p.grad is not None]
    return logprobs.detach(), gradients, sum(kept.values()), passes


@pytest.mark.parametrize("autocast", [False, True])
def test_gradients_stay_and_each_layer_is_computed_twice(policy: Policy, autocast: bool) -> None:
    logprobs, gradients, kept, once = trained(policy, False, autocast)
    again, recomputed, less, twice = trained(policy, True, autocast)
    assert torch.equal(logprobs, again)
    assert len(recomputed) == len(policy.parameters)
    for mine, theirs in zip(recomputed, gradients, strict=True):
        assert torch.equal(mine, theirs)
    assert (set(once.values()), set(twice.values())) == ({1}, {2})
    assert less < 0.6 * kept


def test_the_own_passes_of_a_small_llama_keep_less_too(policy: Policy) -> None:
    policy.is_small_llama = True
    logprobs, gradients, kept, _ = trained(policy, False)
    again, recomputed, less, called = trained(policy, True)
    assert torch.equal(logprobs, again)
    for mine, theirs in zip(recomputed, gradients, strict=True):
        assert torch.equal(mine, theirs)
    assert not called  # they compute without the layers of transformers
    assert less < 0.6 * kept


def test_passes_without_gradient_are_as_before(policy: Policy) -> None:
    layer = policy.model.model.layers[0]
    calls: list[Any] = []
    layer.mlp.register_forward_hook(lambda *_: calls.append(torch.is_grad_enabled()))
    with torch.no_grad(), training_layers(policy, recomputed=True, compiled=False):
        score_tokens(policy, IDS, *WHERE)
    assert calls == [False]
    assert not any(module.training for module in policy.model.modules())  # dropout stays off


def test_after_the_block_the_model_is_as_it_was(policy: Policy) -> None:
    with pytest.raises(RuntimeError, match="inside"), training_layers(policy, recomputed=True, compiled=False):
        raise RuntimeError("inside")
    assert all("forward" not in module.__dict__ for module in policy.model.modules())
    assert not policy.recomputed


def test_a_model_without_such_layers_is_an_error() -> None:
    other: Any = SimpleNamespace(model=nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(UserError, match=r"^optimizer\.gradient_checkpointing: the layers of Sequential are not known"):
        replaced_layers(other, recomputed=True, compiled=True)
    with pytest.raises(UserError, match=r"^optimizer\.compile: the layers of Sequential are not known"):
        replaced_layers(other, recomputed=False, compiled=True)


@pytest.mark.slow
@pytest.mark.parametrize(("recomputed", "autocast"), [(False, True), (True, False)])
def test_compiled_layers_have_the_same_gradients(policy: Policy, recomputed: bool, autocast: bool) -> None:
    for ids in (IDS, IDS[:, :23], IDS[:1]):
        logprobs, gradients = compared(policy, ids, autocast=autocast, recomputed=recomputed, compiled=False)
        again, compiled = compared(policy, ids, autocast=autocast, recomputed=recomputed, compiled=True)
        assert torch.allclose(logprobs, again, atol=0.05 if autocast else 1e-5)
        for mine, theirs in zip(compiled, gradients, strict=True):
            assert (mine - theirs).norm() <= (0.05 if autocast else 1e-4) * theirs.norm() + 1e-6


def compared(policy: Policy, ids: Tensor, *, autocast: bool, **layers: bool) -> tuple[Tensor, list[Tensor]]:
    policy.model.zero_grad()
    rows, columns = torch.arange(len(ids)).repeat_interleave(ids.shape[1] - 1), torch.arange(1, ids.shape[1])
    with training_layers(policy, **layers):
        with policy.autocast(autocast):
            logprobs, entropies = score_tokens(policy, ids, rows, columns.repeat(len(ids)))
        (logprobs.sum() + entropies.sum()).backward()
    return logprobs.detach(), [p.grad.clone() for p in policy.parameters if p.grad is not None]


def test_a_machine_that_cannot_compile_is_an_error(policy: Policy) -> None:
    from torch._inductor import config

    torch.compiler.reset()
    wanted = r"^optimizer\.compile: torch cannot compile .*/nowhere.*\. Set it to false$"
    with config.patch({"cpp.cxx": (None, "/nowhere")}), pytest.raises(UserError, match=wanted):
        compared(policy, IDS, autocast=False, recomputed=False, compiled=True)
    assert all("forward" not in module.__dict__ for module in policy.model.modules())


def test_the_own_passes_of_a_small_llama_are_not_compiled(policy: Policy) -> None:
    policy.is_small_llama = True
    with training_layers(policy, recomputed=False, compiled=True):
        assert not policy.compiled
