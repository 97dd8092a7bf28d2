"""A KV cache whose slots outlive a turn.

Each slot holds one episode's keys and values. Rows of a forward pass name the slots they belong to and the position
they start at, so episodes of any length sit side by side, grow turn by turn, and a slot is reused when its episode
ends. Nothing is moved, and what a slot holds is not read again.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, (slots, kv_heads, length, head_dim), allocated at the first forward."""

    def __init__(self, owner: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.owner = owner
        self.keys: Tensor
        self.values: Tensor

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the shapes of the first keys and values seen."""
        _, heads, _, dim = key_states.shape
        shape = (self.owner.num_slots, heads, self.owner.length + 1)  # the last column takes padding past the end
        self.keys = key_states.new_zeros((*shape, dim))
        self.values = value_states.new_zeros((*shape, value_states.shape[-1]))
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new keys and values, and return all that the rows may attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        # Two indices around a slice put the slice last: (rows, tokens, heads, dim).
        where = (self.owner.rows[:, None], slice(None), self.owner.positions)
        self.keys[where] = key_states.transpose(1, 2).to(self.keys.dtype)
        self.values[where] = value_states.transpose(1, 2).to(self.values.dtype)
        return self._read(self.keys), self._read(self.values)

    def _read(self, stored: Tensor) -> Tensor:
        owner = self.owner
        # The first n slots are read in place; any others have to be copied together, which costs as much as attention.
        seen = stored[:, :, : owner.visible]
        return seen[: len(owner.rows)] if owner.whole else seen[owner.rows]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys a mask must cover."""
        return self.owner.visible, 0

    def get_seq_length(self) -> int:
        """Unused: positions are always given."""
        return 0

    def get_max_length(self) -> int:
        """Tokens a slot can hold."""
        return self.owner.length

    get_max_cache_shape = get_max_length  # its name in older transformers


class SlotCache(Cache):
    """The cache of a decoder: `num_slots` episodes of up to `length` tokens.

    `aim` says, before a forward, which slots its rows are and where they write.
    """

    def __init__(self, num_layers: int, num_slots: int, length: int, device: torch.device) -> None:
        self.num_slots, self.length = num_slots, length
        self.rows = torch.zeros(0, dtype=torch.long, device=device)
        self.positions = torch.zeros(0, 0, dtype=torch.long, device=device)
        self.visible = 0
        self.whole = False
        super().__init__(layers=[SlotLayer(self) for _ in range(num_layers)])

    def aim(self, rows: Tensor, starts: Tensor, width: int) -> Tensor:
        """Rows (n,) write `width` tokens from `starts` (n,); returns the attention mask (n, 1, width, visible).

        A padded token writes past its row's end: no mask shows it, and the row's next real token overwrites it. Past
        the slot's end all padding goes to one spare column. The caller sees to it that real tokens fit.
        """
        self.rows = rows
        self.positions = (starts[:, None] + torch.arange(width, device=rows.device)).clamp_(max=self.length)
        self.visible = min(int(starts.max()) + width, self.length + 1)
        self.whole = len(rows) > 0 and bool((rows == torch.arange(len(rows), device=rows.device)).all())
        keys = torch.arange(self.visible, device=rows.device)
        return (keys <= self.positions[..., None])[:, None]

    def copy_slot(self, source: int, targets: Tensor, length: int) -> None:
        """Give `targets` the first `length` tokens of slot `source` (a group's shared prompt)."""
        for layer in self.layers:
            assert isinstance(layer, SlotLayer)
            layer.keys[targets, :, :length] = layer.keys[source, :, :length].clone()
            layer.values[targets, :, :length] = layer.values[source, :, :length].clone()
