"""The CPU attention gives the numbers of the fused kernel, forward and backward."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from empg.policy import attention
from empg.policy.model import Policy


def inputs(heads: int, kv_heads: int, length: int) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(2, h, length, 8, generator=rng, requires_grad=True) for h in (heads, kv_heads, kv_heads)]


def layer(groups: int) -> nn.Module:
    """Return what the attention reads of its layer."""
    return cast("nn.Module", SimpleNamespace(num_key_value_groups=groups))


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("length", [2, 7, 33])
@pytest.mark.parametrize("scaling", [None, 0.2])
def test_equals_the_fused_kernel(kv_heads: int, length: int, scaling: float | None) -> None:
    ours, theirs = inputs(4, kv_heads, length), inputs(4, kv_heads, length)
    query, key, value = ours
    out, _ = attention.attention(layer(4 // kv_heads), query, key, value, None, scaling=scaling)
    query, key, value = theirs
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, is_causal=True, scale=scaling, enable_gqa=True
    ).transpose(1, 2)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad((out * upstream).sum(), ours)
    grads_expected = torch.autograd.grad((expected * upstream).sum(), theirs)
    for name, mine, wanted in zip("qkv", grads, grads_expected, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-5, rtol=1e-4, msg=partial("{}: {}".format, name))


def test_a_whole_model_gives_the_same_hidden_states(policy: Policy) -> None:
    assert policy.model.config._attn_implementation == attention.NAME
    ids = torch.randint(0, 300, (3, 40), generator=torch.Generator().manual_seed(2))
    ours = policy.hidden(ids)
    policy.model.set_attn_implementation("sdpa")
    torch.testing.assert_close(ours, policy.hidden(ids), atol=1e-4, rtol=1e-4)


def test_longer_rows_take_the_fused_kernel(policy: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = torch.randint(0, 300, (1, 40), generator=torch.Generator().manual_seed(2))
    ours = policy.hidden(ids)
    layers: list[int] = []

    def fused(module: Any, *inputs: Any, **options: Any) -> tuple[Tensor, None]:
        layers.append(module.layer_idx)
        return sdpa_attention_forward(module, *inputs, **options)

    monkeypatch.setattr(attention, "LONGEST", 39)
    monkeypatch.setattr(attention, "sdpa_attention_forward", fused)
    torch.testing.assert_close(ours, policy.hidden(ids), atol=1e-4, rtol=1e-4)
    assert layers == [0, 1]


def test_what_is_kept_from_inference_can_train(policy: Policy) -> None:
    ids = torch.randint(0, 300, (1, 23), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        policy.hidden(ids)
    policy.hidden(ids).square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in policy.parameters)


def test_under_autocast_it_works_in_bfloat16_and_stays_close(policy: Policy) -> None:
    query, key, value = inputs(4, 2, 33)
    module = layer(2)
    exact, _ = attention.attention(module, query, key, value, None)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = attention.attention(module, query, key, value, None)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, atol=0.05, rtol=0.05)
