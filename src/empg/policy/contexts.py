"""The contexts of many episodes in a KV cache, for any transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from empg.policy.cache import SlotCache
from empg.policy.model import Policy
from empg.policy.step_graphs import StepGraphs


class Contexts(Protocol):
    """Contexts of episodes in numbered slots, which grow turn by turn.

    Attributes:
        lengths: (num_slots,) int64 on the CPU, the number of tokens in each slot. Setting it to 0 clears a slot.
    """

    lengths: Tensor

    def read(self, slots: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Append `chunks` to `slots` and return the logits (n, V) after the last id of each chunk."""

    def share(self, source: int, targets: Tensor, length: int) -> None:
        """Copy the first `length` tokens of slot `source` to the slots `targets`."""


class ModelContexts:
    """Contexts of a transformers model: `num_slots` episodes of up to `length` tokens.

    `autocast` and `pass_tokens` are `optimizer.autocast` and `optimizer.micro_batch_tokens`: forward passes are
    computed as in the update, and have at most as many ids. Nothing here waits for the device.
    """

    def __init__(
        self, policy: Policy, num_slots: int, length: int, *, autocast: bool | str = False, pass_tokens: int = 1 << 14
    ) -> None:
        self.policy, self.autocast, self.pass_tokens = policy, autocast, pass_tokens
        layers = policy.model.config.get_text_config().num_hidden_layers
        self.cache = SlotCache(layers, num_slots, length, policy.device)
        self.lengths = torch.zeros(num_slots, dtype=torch.long)
        self._step_graphs = StepGraphs(num_slots, length, policy.device)

    def read(self, slots: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Append `chunks` to `slots` and return the logits (n, V) after the last id of each chunk."""
        top = max(slots) + 1
        few = 2 * len(slots) < top and not self._step_graphs.recordable
        if max(len(chunk) for chunk in chunks) > 1 or few:
            return self._read_in_passes(slots, chunks)
        # The cache of the first `top` slots is read in place; a selection would have to be copied. So waiting slots in
        # between are computed as well. Their results are not used, and what they write is overwritten.
        wanted = torch.tensor(slots)
        ids = torch.zeros(top, dtype=torch.long)
        ids[wanted] = torch.tensor([chunk[0] for chunk in chunks])
        hidden = self._step_graphs(self._step, ids, self.lengths)
        self.lengths[wanted] += 1
        return self.policy.logits(hidden[self._moved(wanted)])

    def _read_in_passes(self, slots: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Read in passes of at most `pass_tokens` ids, padding included; chunks of similar length go together."""
        rests: list[Sequence[int]] = []
        for slot, chunk in zip(slots, chunks, strict=True):
            while len(chunk) > self.pass_tokens:
                self._forward([slot], [chunk[: self.pass_tokens]])
                chunk = chunk[self.pass_tokens :]
            rests.append(chunk)
        if len(slots) * max(map(len, rests)) <= self.pass_tokens:
            return self._forward(slots, rests)
        order = sorted(range(len(slots)), key=lambda row: -len(rests[row]))
        logits = []
        start = 0
        while start < len(order):
            rows = order[start : start + self.pass_tokens // len(rests[order[start]])]
            logits.append(self._forward([slots[row] for row in rows], [rests[row] for row in rows]))
            start += len(rows)
        return torch.cat(logits)[self._moved(torch.tensor(order).argsort())]

    def _forward(self, slots: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits (n, V) after the last id of each chunk; those of an empty chunk are undefined."""
        rows = torch.tensor(slots)
        widths = torch.tensor([len(chunk) for chunk in chunks])
        width = int(widths.max())
        ids = torch.tensor([[*chunk, *[0] * (width - len(chunk))] for chunk in chunks])
        hidden = self._hidden(self._moved(ids), self.cache.aim(rows, self.lengths[rows], width))
        self.lengths[rows] += widths
        last = self._moved((widths - 1).clamp(min=0))
        return self.policy.logits(hidden[torch.arange(len(slots), device=last.device), last])

    def _step(self, ids: Tensor, positions: Tensor, visible: int) -> Tensor:
        """Return the hidden states (n, hidden) of ids (n, 1) at positions (n, 1) of the first n slots."""
        return self._hidden(ids, self.cache.aim_at_first(positions, visible))[:, 0]

    def _hidden(self, ids: Tensor, mask: Tensor) -> Tensor:
        # Padding past the end of the slot gets the last position, since a table of positions may end with the slot.
        positions = self.cache.positions.clamp(max=self.cache.length - 1)
        cache = {self.policy.cache_argument: self.cache}
        with self.policy.autocast(self.autocast):
            return self.policy.hidden(ids, mask, position_ids=positions, use_cache=True, **cache)

    def share(self, source: int, targets: Tensor, length: int) -> None:
        """Copy the first `length` tokens of slot `source` to the slots `targets`."""
        self.cache.copy_slot(source, self._moved(targets), length)
        self.lengths[targets] = length

    def _moved(self, values: Tensor) -> Tensor:
        """Return values of the CPU on the device, without waiting for the work that the device still has."""
        return values.to(self.policy.device, non_blocking=True)
