"""What the hardware allows: the model's matrix products at the speed of a large one, its bytes at that of memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

_REPEATS = 5


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Measured speed of the threads in use: float32 matrix products (FLOP/s) and reading memory (bytes/s)."""

    flops: float
    bandwidth: float


def measure(side: int = 2048, numbers: int = 1 << 27) -> Machine:
    """Measure with one square matrix product and one sum over an array that does not fit in a cache; best of five."""
    matrix, array = torch.randn(side, side), torch.ones(numbers)
    product = min(_seconds(lambda: matrix @ matrix) for _ in range(_REPEATS))
    total = min(_seconds(array.sum) for _ in range(_REPEATS))
    return Machine(flops=2 * side**3 / product, bandwidth=4 * numbers / total)


def _seconds(call: Any) -> float:
    """Seconds of a call that keeps all threads busy, even if other programs use the processor."""
    began = time.process_time()
    call()
    return (time.process_time() - began) / torch.get_num_threads()


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The matrix products of a Llama.

    Attributes:
        weights: numbers in the matrices of its layers, each of which is multiplied once per token.
        head: numbers in the matrix that gives the logits.
        attended: query heads times their width, times the number of layers.
        cached: numbers per token in the KV cache.
    """

    weights: int
    head: int
    attended: int
    cached: int

    @classmethod
    def of(cls, config: Any) -> Shape:
        """Read the shape of a configuration."""
        heads = config.num_attention_heads * config.head_dim
        keys = config.num_key_value_heads * config.head_dim
        layer = config.hidden_size * (2 * heads + 2 * keys + 3 * config.intermediate_size)
        layers = config.num_hidden_layers
        head = config.hidden_size * config.vocab_size
        return cls(weights=layers * layer, head=head, attended=layers * heads, cached=2 * layers * keys)

    def training_flops(self, lengths: Sequence[int], scored: int) -> int:
        """Count a forward and a backward pass over rows without padding, with logits for `scored` tokens.

        The backward pass is twice the forward pass. Attention counts only the tokens that each token sees.
        """
        pairs = sum(n * (n + 1) // 2 for n in lengths)
        return 3 * 2 * (sum(lengths) * self.weights + scored * self.head + 2 * pairs * self.attended)

    def decoding_flops(self, contexts: Sequence[float]) -> float:
        """Count one decoding step of rows with these contexts (tokens)."""
        return 2 * (len(contexts) * (self.weights + self.head) + 2 * sum(contexts) * self.attended)

    def decoding_bytes(self, contexts: Sequence[float]) -> float:
        """Count the keys, values and weights that such a step reads, in float32."""
        return 4 * (sum(contexts) * self.cached + self.weights + self.head)
