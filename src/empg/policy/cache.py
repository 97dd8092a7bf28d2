"""A KV cache with slots that are kept between turns.

Each slot has the keys and values of one episode. Each row of a forward pass has a slot and a start position. So
episodes of different lengths share a batch, grow turn by turn, and a slot is reused when its episode ends. Keys and
values are never moved, and tokens in the cache are not computed again.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer, (slots, kv_heads, length, head_dim), allocated at the first forward."""

    def __init__(self, owner: SlotCache) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # Weak, since the owner refers to its layers: hundreds of MiB would wait for Python's collector of cycles.
        self.owner: SlotCache = weakref.proxy(owner)
        self.keys: Tensor
        self.values: Tensor

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the shapes of the first keys and values seen."""
        _, heads, _, dim = key_states.shape
        shape = (self.owner.num_slots, heads, self.owner.length + 1)  # the last column takes padding past the end
        kind = key_states.device.type
        # Under autocast some keys come in float32 from the rotation, and attention would round them at every token.
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else key_states.dtype
        self.keys = key_states.new_zeros((*shape, dim), dtype=dtype)
        self.values = value_states.new_zeros((*shape, value_states.shape[-1]), dtype=dtype)
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write the new keys and values, and return all keys and values that the rows may attend to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        # With two indices around a slice, the slice comes last: (rows, tokens, heads, dim).
        where = (self.owner.rows[:, None], slice(None), self.owner.positions)
        self.keys[where] = key_states.transpose(1, 2).to(self.keys.dtype)
        self.values[where] = value_states.transpose(1, 2).to(self.values.dtype)
        return self._read(self.keys), self._read(self.values)

    def _read(self, stored: Tensor) -> Tensor:
        owner = self.owner
        # The first n slots are read in place. Other selections must be copied, which costs as much as attention.
        seen = stored[:, :, : owner.visible]
        return seen[: len(owner.rows)] if owner.whole else seen[owner.rows]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return length and offset of the keys that a mask must cover."""
        return self.owner.visible, 0

    def get_seq_length(self) -> int:
        """Unused: positions are always given."""
        return 0

    def get_max_length(self) -> int:
        """Return the number of tokens that fit into a slot."""
        return self.owner.length

    get_max_cache_shape = get_max_length  # its name in older transformers


class SlotCache(Cache):
    """The cache of a decoder: `num_slots` episodes of up to `length` tokens.

    Call `aim` or `aim_at_first` before a forward pass, to set the slots of its rows and the positions that they write.
    """

    def __init__(self, num_layers: int, num_slots: int, length: int, device: torch.device) -> None:
        self.num_slots, self.length, self.device = num_slots, length, device
        self.rows = torch.zeros(0, dtype=torch.long, device=device)
        self.positions = torch.zeros(0, 0, dtype=torch.long, device=device)
        self.visible = 0
        self.whole = False
        super().__init__(layers=[SlotLayer(self) for _ in range(num_layers)])

    def aim(self, rows: Tensor, starts: Tensor, width: int) -> Tensor:
        """Let rows (n,) write `width` tokens from `starts` (n,); return the attention mask (n, 1, width, visible).

        `rows` and `starts` are on the CPU, so that their values are known without waiting for the device.

        A padding token writes past the end of its row. Masks hide it, and the next real token of the row overwrites it.
        Past the end of the slot, all padding goes to one spare column. The caller must ensure that real tokens fit.
        """
        self.visible = min(int(starts.max()) + width, self.length + 1)
        self.whole = len(rows) > 0 and bool((rows == torch.arange(len(rows))).all())
        self.rows = rows.to(self.device, non_blocking=True)
        first = starts.to(self.device, non_blocking=True)
        self.positions = (first[:, None] + torch.arange(width, device=self.device)).clamp_(max=self.length)
        return self._mask()

    def aim_at_first(self, positions: Tensor, visible: int) -> Tensor:
        """Let the first n slots write at `positions` (n, width), which are on the device, and see `visible` tokens."""
        self.visible, self.whole = visible, True
        self.rows, self.positions = torch.arange(len(positions), device=self.device), positions
        return self._mask()

    def _mask(self) -> Tensor:
        keys = torch.arange(self.visible, device=self.device)
        return (keys <= self.positions[..., None])[:, None]

    def copy_slot(self, source: int, targets: Tensor, length: int) -> None:
        """Copy the first `length` tokens of slot `source` to `targets` (the shared prompt of a group)."""
        for layer in self.layers:
            assert isinstance(layer, SlotLayer)
            layer.keys[targets, :, :length] = layer.keys[source, :, :length].clone()
            layer.values[targets, :, :length] = layer.values[source, :, :length].clone()
