"""Attention for small models on a CPU: plain matrix products where they beat the fused kernel.

torch's fused CPU kernel spends most of a tiny model's backward pass in attention. At a few hundred tokens the score
matrix is small, so writing it out and using three matrix products is faster (about 1.7 times with two heads of 64 in
bfloat16, see docs/log.md). Decoding against a cache, long rows and GPUs go to the fused kernel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "empg"  # the attn_implementation of models on a CPU
LONGEST = 1024  # tokens; beyond it the score matrix no longer fits in cache


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """A transformers attention function: query (B, H, T, D) in, (B, T, H, D) out."""
    length = query.shape[2]
    if attention_mask is not None or query.device.type != "cpu" or not 1 < length <= LONGEST or kwargs.get("dropout"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)  # type: ignore[no-any-return]
    # Under autocast torch would compute the softmax in float32 and copy the scores back and forth.
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    groups = getattr(module, "num_key_value_groups", 1)
    with torch.autocast("cpu", enabled=False):
        query, key, value = (x.to(dtype) for x in (query, key, value))
        query = query * (kwargs.get("scaling") or query.shape[-1] ** -0.5)
        scores = query @ repeat_kv(key, groups).transpose(-1, -2)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = torch.softmax(scores.masked_fill(future, float("-inf")), dim=-1)
        return (weights @ repeat_kv(value, groups)).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
