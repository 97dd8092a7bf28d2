"""The contexts of many episodes in a KV cache, for any transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from empg.policy.cache import SlotCache
from empg.policy.model import Policy


class Contexts(Protocol):
    """Contexts of episodes in numbered slots, which grow turn by turn.

    Attributes:
        lengths: (num_slots,) int64, the number of tokens in each slot. Setting it to 0 clears a slot.
    """

    lengths: Tensor

    def read(self, slots: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Append `chunks` to `slots` and return the logits (n, V) after the last id of each chunk."""

    def share(self, source: int, targets: Tensor, length: int) -> None:
        """Copy the first `length` tokens of slot `source` to the slots `targets`."""


class ModelContexts:
    """Contexts of a transformers model: `num_slots` episodes of up to `length` tokens."""

    def __init__(self, policy: Policy, num_slots: int, length: int) -> None:
        self.policy = policy
        layers = policy.model.config.get_text_config().num_hidden_layers
        self.cache = SlotCache(layers, num_slots, length, policy.device)
        self.lengths = torch.zeros(num_slots, dtype=torch.long)

    def read(self, slots: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Append `chunks` to `slots` and return the logits (n, V) after the last id of each chunk."""
        top = max(slots) + 1
        if max(len(chunk) for chunk in chunks) > 1 or 2 * len(slots) < top:
            return self._forward(slots, chunks)
        # The cache of the first `top` slots is read in place; a selection would have to be copied. So waiting slots in
        # between are computed as well. Their results are not used, and what they write is overwritten.
        whole: list[Sequence[int]] = [[] for _ in range(top)]
        for slot, chunk in zip(slots, chunks, strict=True):
            whole[slot] = chunk
        return self._forward(range(top), whole)[torch.tensor(slots)]

    def _forward(self, slots: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits (n, V) after the last id of each chunk; those of an empty chunk are undefined."""
        device = self.policy.device
        rows = torch.tensor(slots)
        widths = torch.tensor([len(chunk) for chunk in chunks])
        width = int(widths.max())
        ids = torch.tensor([[*chunk, *[0] * (width - len(chunk))] for chunk in chunks])
        mask = self.cache.aim(rows.to(device), self.lengths[rows].to(device), width)
        # Padding past the end of the slot gets the last position, since a table of positions may end with the slot.
        positions = self.cache.positions.clamp(max=self.cache.length - 1)
        cache = {self.policy.cache_argument: self.cache}
        hidden = self.policy.hidden(ids.to(device), mask, position_ids=positions, use_cache=True, **cache)
        self.lengths[rows] += widths
        last = (widths - 1).clamp(min=0).to(device)
        return self.policy.logits(hidden[torch.arange(len(slots), device=device), last])

    def share(self, source: int, targets: Tensor, length: int) -> None:
        """Copy the first `length` tokens of slot `source` to the slots `targets`."""
        self.cache.copy_slot(source, targets.to(self.policy.device), length)
        self.lengths[targets] = length
