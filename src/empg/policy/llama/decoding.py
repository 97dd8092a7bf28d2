"""The KV cache of a small Llama: contexts that grow turn by turn, read without padding."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from empg.policy.llama.kernel import attend
from empg.policy.llama.weights import arrange, normalize, rotary_table, rotate_
from empg.policy.model import Policy


class LlamaContexts:
    """The contexts of `num_slots` episodes, each of up to `length` tokens, for a policy whose weights do not change.

    `pass_tokens` is `optimizer.micro_batch_tokens`: a pass reads at most as many ids.

    Attributes:
        lengths: (num_slots,) int64, the number of tokens in each slot.
    """

    def __init__(self, policy: Policy, num_slots: int, length: int, *, pass_tokens: int = 1 << 14) -> None:
        self.pass_tokens = pass_tokens
        self.lengths = torch.zeros(num_slots, dtype=torch.long)
        model: Any = policy.model
        with torch.no_grad():
            self._weights = arrange(model)
            self._head = (model.get_output_embeddings().weight * model.model.norm.weight).T
        self._embedding = model.model.embed_tokens.weight.detach()
        self._cos, self._sin = rotary_table(model, length)
        numbers = self._weights
        shape = (len(numbers.layers), num_slots, numbers.kv_heads, length, numbers.head_dim)
        self._keys, self._values = torch.zeros(shape), torch.zeros(shape)
        self._scores = torch.zeros(numbers.heads, length).numpy()

    def read(self, slots: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        """Append `chunks` to `slots` and return the logits (n, V) after the last id of each chunk."""
        if sum(map(len, chunks)) <= self.pass_tokens:
            return self._forward(slots, chunks)
        logits = torch.empty(len(slots), self._head.shape[1])
        for rows, parts in _passes(chunks, self.pass_tokens):
            logits[rows] = self._forward([slots[row] for row in rows], parts)  # of a chunk, its last part stays
        return logits

    def _forward(self, slots: Sequence[int], chunks: Sequence[Sequence[int]]) -> Tensor:
        numbers = self._weights
        heads, kv_heads, head_dim = numbers.heads, numbers.kv_heads, numbers.head_dim
        widths = torch.tensor([len(chunk) for chunk in chunks])
        targets = torch.tensor(slots)
        starts = self.lengths[targets]
        ends = widths.cumsum(0)
        slot = targets.repeat_interleave(widths)
        position = torch.arange(int(ends[-1])) + (starts - ends + widths).repeat_interleave(widths)
        cos, sin = self._cos[position], self._sin[position]
        states = self._embedding[torch.tensor(list(itertools.chain.from_iterable(chunks)))]
        count = len(states)
        mixed = torch.empty(count, heads, head_dim)
        where = (slot.numpy(), (position + 1).numpy())
        for keys, values, layer in zip(self._keys, self._values, numbers.layers, strict=True):
            normed, _ = normalize(states, numbers.eps)
            projected = (normed @ layer.qkv.T).view(count, heads + 2 * kv_heads, head_dim)
            rotate_(projected[:, : heads + kv_heads], cos, sin)
            keys[slot, :, position] = projected[:, heads : heads + kv_heads]
            values[slot, :, position] = projected[:, heads + kv_heads :]
            attend(projected.numpy(), keys.numpy(), values.numpy(), *where, self._scores, mixed.numpy())
            inner = mixed.view(count, heads * head_dim)
            if layer is numbers.layers[-1]:
                inner, states = inner[ends - 1], states[ends - 1]
            states = torch.addmm(states, inner, layer.output.T)
            normed, _ = normalize(states, numbers.eps)
            gate, up = (normed @ layer.gate_up.T).chunk(2, dim=-1)
            states = torch.addmm(states, silu(gate).mul_(up), layer.down.T)
        self.lengths[targets] += widths
        normed, _ = normalize(states, numbers.eps)
        return normed @ self._head  # type: ignore[no-any-return]

    def share(self, source: int, targets: Tensor, length: int) -> None:
        """Copy the first `length` tokens of slot `source` to `targets` (the shared prompt of a group)."""
        for cache in (self._keys, self._values):
            cache[:, targets, :, :length] = cache[:, source, :, :length].unsqueeze(1)
        self.lengths[targets] = length


def _passes(chunks: Sequence[Sequence[int]], most: int) -> Iterator[tuple[list[int], list[Sequence[int]]]]:
    """Yield, for each pass of at most `most` ids, the rows of the chunks that it reads and their parts, in order."""
    rows: list[int] = []
    parts: list[Sequence[int]] = []
    for row, chunk in enumerate(chunks):
        while chunk:
            part = chunk[: most - sum(map(len, parts))]
            rows.append(row)
            parts.append(part)
            chunk = chunk[len(part) :]
            if sum(map(len, parts)) == most:
                yield rows, parts
                rows, parts = [], []
    if rows:
        yield rows, parts
