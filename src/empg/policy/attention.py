"""Attention for small models on a CPU: plain matrix products where they beat the fused kernel.

torch's fused CPU kernel spends most of a tiny model's backward pass in attention. At a few hundred tokens the score
matrix is small, so writing it out and using three matrix products is faster (about 1.7 times with two heads of 64 in
bfloat16, see docs/log.md). Decoding against a cache, long rows and GPUs go to the fused kernel.
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
    """A transformers attention function: query (B, H, T, D) in, (B, T, H, D) out."""
    length = query.shape[2]
    if attention_mask is not None or query.device.type != "cpu" or not 1 < length <= LONGEST or kwargs.get("dropout"):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    # Under autocast torch would compute the softmax in float32 and copy the scores back and forth.
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else query.dtype
    groups = getattr(module, "num_key_value_groups", 1)
    with torch.autocast("cpu", enabled=False):
        batch, heads, _, width = query.shape
        query = query.to(dtype) * (kwargs.get("scaling") or width**-0.5)
        # The heads that share a key are rows of one product: no copies of keys and values.
        query = query.reshape(batch * heads // groups, groups * length, width)
        key, value = (x.to(dtype).reshape(batch * heads // groups, length, width) for x in (key, value))
        scores = torch.baddbmm(_future(length, dtype).repeat(groups, 1), query, key.transpose(1, 2))
        mixed = torch.softmax(scores, dim=-1) @ value
        return mixed.view(batch, heads, length, width).transpose(1, 2).contiguous(), None


@lru_cache(16)
def _future(length: int, dtype: torch.dtype) -> Tensor:
    """What is added to the scores (T, T): minus infinity where a token would look ahead."""
    return torch.full((length, length), float("-inf"), dtype=dtype).triu(1)


AttentionInterface.register(NAME, attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
