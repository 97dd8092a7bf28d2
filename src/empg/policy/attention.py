"""Attention for small models on a CPU, by plain matrix products where they are faster than the fused kernel.

With torch's fused CPU kernel, attention takes most of a tiny model's backward pass. At a few hundred tokens the score
matrix is small, and computing it with three matrix products is faster (about 1.7 times with two heads of 64 in
bfloat16, see docs/log.md). Single-token decoding without a mask, long rows and GPUs use the fused kernel.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "empg"  # the attn_implementation of models on a CPU
LONGEST = 1024  # tokens; beyond it the score matrix no longer fits in cache


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Compute attention for transformers: query (B, H, T, D) in, (B, T, H, width of the values) out."""
    batch, heads, length, width = query.shape
    visible = key.shape[2]
    alone = attention_mask is None and length == 1
    biased = attention_mask is not None and attention_mask.dtype != torch.bool  # numbers to add to the scores (Doge)
    if query.device.type != "cpu" or visible > LONGEST or kwargs.get("dropout") or alone or biased:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    # Under autocast torch would compute the softmax in float32 and copy the scores back and forth.
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    groups = getattr(module, "num_key_value_groups", 1)
    with torch.autocast("cpu", enabled=False):
        # Heads that share a key are rows of one product, so keys and values are not copied.
        pairs = batch * heads // groups
        query = (query.to(dtype) * (kwargs.get("scaling") or width**-0.5)).reshape(pairs, groups * length, width)
        key, value = (x.to(dtype).reshape(pairs, visible, x.shape[-1]) for x in (key, value))
        hidden = _future(length, dtype) if attention_mask is None else _unseen(attention_mask, dtype)
        if len(hidden) > 1:  # a row of the batch has one pair for each of its keys
            hidden = hidden.repeat_interleave(heads // groups, 0)
        hidden = hidden.repeat(1, groups, 1)
        scores = torch.baddbmm(hidden, query, key.transpose(1, 2))
        mixed = torch.softmax(scores, dim=-1) @ value
        return mixed.view(batch, heads, length, value.shape[-1]).transpose(1, 2).contiguous(), None


def _unseen(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the bias of the scores, (B, T, visible): minus infinity where the mask (B, 1, T, visible) is False."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(mask.logical_not(), float("-inf"))[:, 0]


@lru_cache(16)
def _future(length: int, dtype: torch.dtype) -> Tensor:
    """Return the causal bias of the scores, (1, T, T): minus infinity for later tokens."""
    return torch.full((1, length, length), float("-inf"), dtype=dtype).triu(1)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
