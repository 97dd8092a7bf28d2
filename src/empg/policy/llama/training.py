"""The layers of a small Llama with hand-written gradients, over the tokens of several rows without padding.

Two things save work. Attention computes blocks of queries, each with the keys up to its last query, so about half of
the score matrix is never computed. The last layer computes queries and MLP only for the tokens that are scored.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu
from torch.utils.checkpoint import checkpoint
from transformers import LlamaForCausalLM

from empg.policy.llama.weights import Layer, Weights, arrange, normalize, rotary_table, rotate_

BLOCK = 128  # queries per block of attention; 64 and 192 were slower (docs/log.md)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of one pass, one after the other in N tokens.

    Attributes:
        spans: first token of each row, and the one after its last.
        cos, sin: (N, 1, head_dim / 2), the rotation of each token.
        future: (BLOCK, 1, BLOCK), minus infinity for later tokens of a block.
        numbers: the model's numbers.
    """

    spans: list[tuple[int, int]]
    cos: Tensor
    sin: Tensor
    future: Tensor
    numbers: Weights

    def blocks(self) -> list[tuple[int, int, int]]:
        """Return for each block of queries: the first token of its row, its first query, and the one after its last."""
        return [
            (start, query, min(query + BLOCK, end)) for start, end in self.spans for query in range(start, end, BLOCK)
        ]


def last_hidden(
    model: LlamaForCausalLM, input_ids: Tensor, rows: Tensor, columns: Tensor, *, recomputed: bool = False
) -> Tensor:
    """Return the last hidden states (M, hidden) at selected places of `input_ids`, in float32.

    Args:
        model: a small Llama (`is_small_llama`); gradients flow if they are enabled.
        input_ids: (B, T) int64. Attention is causal, so what follows the last selected place of a row is not read.
        rows: (M,) int64, the row of each place.
        columns: (M,) int64, its column.
        recomputed: the backward pass computes each layer again (`optimizer.gradient_checkpointing`), with equal bits.
    """
    lengths = torch.zeros(len(input_ids), dtype=torch.long).scatter_reduce_(0, rows, columns + 1, "amax")
    read = torch.arange(input_ids.shape[1]) < lengths[:, None]
    ends = lengths.cumsum(0)
    starts = ends - lengths
    places = starts[rows] + columns
    positions = read.nonzero()[:, 1]
    cos, sin = (table[positions] for table in rotary_table(model, input_ids.shape[1]))
    weights = arrange(model)
    layout = _Rows(
        spans=[(start, end) for start, end in zip(starts.tolist(), ends.tolist(), strict=True) if start < end],
        cos=cos,
        sin=sin,
        future=torch.full((BLOCK, BLOCK), float("-inf")).triu_(1)[:, None],
        numbers=weights,
    )
    states = torch.nn.functional.embedding(input_ids[read], model.model.embed_tokens.weight)
    for layer in weights.layers:
        selected = places if layer is weights.layers[-1] else None
        if recomputed and torch.is_grad_enabled():
            states = checkpoint(_layer, states, layer, layout, selected, use_reentrant=False)
        else:
            states = _layer(states, layer, layout, selected)
    return model.model.norm(states)  # type: ignore[no-any-return]


def _layer(states: Tensor, layer: Layer, rows: _Rows, selected: Tensor | None) -> Tensor:
    states = _Attention.apply(states, layer.qkv, layer.output, rows, selected)  # type: ignore[no-untyped-call]
    return _MLP.apply(states, layer.gate_up, layer.down, rows.numbers.eps)  # type: ignore[no-untyped-call,no-any-return]


class _Attention(torch.autograd.Function):
    """`states + attention(norm(states))`, for all tokens or only for the `selected` ones."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, qkv: Tensor, output: Tensor, rows: _Rows, selected: Tensor | None) -> Tensor:
        heads, kv_heads, head_dim = rows.numbers.heads, rows.numbers.kv_heads, rows.numbers.head_dim
        normed, scale = normalize(states, rows.numbers.eps)
        projected = (normed @ qkv.T).view(len(states), heads + 2 * kv_heads, head_dim)
        rotate_(projected[:, : heads + kv_heads], rows.cos, rows.sin)
        mixed, probabilities = _attend(projected, rows)
        ctx.save_for_backward(normed, scale, projected, mixed, qkv, output, *probabilities)
        ctx.rows, ctx.selected = rows, selected
        mixed = mixed.view(len(states), heads * head_dim)
        if selected is not None:
            mixed, states = mixed[selected], states[selected]
        return torch.addmm(states, mixed, output.T)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normed, scale, projected, mixed, qkv, output, *probabilities = ctx.saved_tensors
        rows, selected = ctx.rows, ctx.selected
        flat = mixed.view(len(mixed), -1)
        grad_output = gradient.T @ (flat if selected is None else flat[selected])
        grad_mixed = gradient @ output
        if selected is not None:
            gradient = torch.zeros_like(scale.expand(-1, gradient.shape[1])).index_add_(0, selected, gradient)
            grad_mixed = torch.zeros_like(flat).index_add_(0, selected, grad_mixed)
        grad_projected = _attend_backward(grad_mixed.view_as(mixed), mixed, projected, probabilities, rows)
        rotate_(grad_projected[:, : rows.numbers.heads + rows.numbers.kv_heads], rows.cos, -rows.sin)
        grad_projected = grad_projected.view(len(mixed), -1)
        grad_states = _normalize_backward(grad_projected @ qkv, normed, scale).add_(gradient)
        return grad_states, grad_projected.T @ normed, grad_output, None, None


class _MLP(torch.autograd.Function):
    """`states + down(silu(gate) * up)` with gate and up from `norm(states)`."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, gate_up: Tensor, down: Tensor, eps: float) -> Tensor:
        normed, scale = normalize(states, eps)
        both = normed @ gate_up.T
        gate, up = both.chunk(2, dim=-1)
        opened = silu(gate)
        inner = opened * up
        ctx.save_for_backward(normed, scale, both, opened, inner, gate_up, down)
        return torch.addmm(states, inner, down.T)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normed, scale, both, opened, inner, gate_up, down = ctx.saved_tensors
        grad_inner = gradient @ down
        grad_both = torch.empty_like(both)
        grad_gate, grad_up = grad_both.chunk(2, dim=-1)
        gate, up = both.chunk(2, dim=-1)
        torch.mul(grad_inner, opened, out=grad_up)
        grad_gate.copy_(torch.ops.aten.silu_backward(grad_inner.mul_(up), gate))
        grad_states = _normalize_backward(grad_both @ gate_up, normed, scale).add_(gradient)
        return grad_states, grad_both.T @ normed, gradient.T @ inner, None


def _normalize_backward(gradient: Tensor, normed: Tensor, scale: Tensor) -> Tensor:
    """Return the gradient of the states from that of `normalize`."""
    along = (gradient * normed).mean(-1, keepdim=True)
    return gradient.addcmul(normed, along, value=-1).mul_(scale)


def _attend(projected: Tensor, rows: _Rows) -> tuple[Tensor, list[Tensor]]:
    """Return attention outputs (N, heads, head_dim) and the probabilities of every block, which backward needs.

    Heads that share a key are rows of one product: those of a block with n queries are (n * group, keys).
    """
    heads, kv_heads = rows.numbers.heads, rows.numbers.kv_heads
    group = heads // kv_heads
    queries, keys, values = projected.split((heads, kv_heads, kv_heads), dim=1)
    mixed, kept = torch.empty_like(queries), []
    for (start, first, end), kv in itertools.product(rows.blocks(), range(kv_heads)):
        mine = slice(kv * group, (kv + 1) * group)
        count = end - first
        scores = queries[first:end, mine].reshape(count * group, -1) @ keys[start:end, kv].T
        own = scores.view(count, group, -1)[..., first - start :]
        own.add_(rows.future[:count, :, :count])
        probabilities = torch.softmax(scores, dim=-1)
        mixed[first:end, mine] = (probabilities @ values[start:end, kv]).view(count, group, -1)
        kept.append(probabilities)
    return mixed, kept


def _attend_backward(gradient: Tensor, mixed: Tensor, projected: Tensor, kept: list[Tensor], rows: _Rows) -> Tensor:
    """Return the gradient of `projected` from that of `mixed`."""
    heads, kv_heads = rows.numbers.heads, rows.numbers.kv_heads
    group = heads // kv_heads
    queries, keys, values = projected.split((heads, kv_heads, kv_heads), dim=1)
    result = torch.zeros_like(projected)
    grad_queries, grad_keys, grad_values = result.split((heads, kv_heads, kv_heads), dim=1)
    along = (gradient * mixed).sum(-1, keepdim=True)  # the sum of probability times its gradient
    for ((start, first, end), kv), probabilities in zip(
        itertools.product(rows.blocks(), range(kv_heads)), kept, strict=True
    ):
        mine = slice(kv * group, (kv + 1) * group)
        wide = (end - first) * group
        outer = gradient[first:end, mine].reshape(wide, -1)
        scores = outer @ values[start:end, kv].T
        scores.sub_(along[first:end, mine].reshape(wide, 1)).mul_(probabilities)
        grad_values[start:end, kv].addmm_(probabilities.T, outer)
        grad_keys[start:end, kv].addmm_(scores.T, queries[first:end, mine].reshape(wide, -1))
        grad_queries[first:end, mine] = (scores @ keys[start:end, kv]).view(end - first, group, -1)
    return result
