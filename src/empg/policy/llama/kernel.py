"""Attention of single tokens over the KV cache, compiled by numba.

A decoding step reads the whole cache, so its time is that of the memory. Batched matrix products read every slot up to
the longest one's length; this loop reads each slot up to its own, and at the speed of the memory (docs/performance.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]


# With numpy's error model, scores that are not finite give NaN as in torch, and not a ZeroDivisionError.
_OPTIONS: dict[str, Any] = {"fastmath": True, "error_model": "numpy"}


def _compiled(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a function at its first call, and keep the result on disk if there is a folder to write to."""
    try:
        return njit(cache=True, **_OPTIONS)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(**_OPTIONS)(function)  # type: ignore[no-any-return]


@_compiled
def attend(
    projected: Floats, keys: Floats, values: Floats, slots: Integers, lengths: Integers, scores: Floats, mixed: Floats
) -> None:
    """Write the attention outputs of N tokens to `mixed`.

    Args:
        projected: (N, heads + 2 kv_heads, head_dim), contiguous; the first `heads` are the queries, scaled.
        keys: (slots, kv_heads, columns, head_dim), the cache of one layer.
        values: (slots, kv_heads, columns, head_dim).
        slots: (N,), the slot of each token.
        lengths: (N,), how many columns of its slot a token attends to, at least 1.
        scores: (heads, columns), scratch memory.
        mixed: (N, heads, head_dim), the result.
    """
    count, heads, width = mixed.shape
    kv_heads = keys.shape[1]
    group = heads // kv_heads
    for token in range(count):
        length = lengths[token]
        for kv in range(kv_heads):
            stored_keys, stored_values = keys[slots[token], kv], values[slots[token], kv]
            for column in range(length):
                key = stored_keys[column]
                for member in range(group):
                    query = projected[token, kv * group + member]
                    total = np.float32(0.0)
                    for i in range(width):
                        total += query[i] * key[i]
                    scores[member, column] = total
            for member in range(group):
                row, out = scores[member], mixed[token, kv * group + member]
                largest = row[0]
                for column in range(length):
                    largest = max(largest, row[column])
                total = np.float32(0.0)
                for column in range(length):
                    row[column] = np.exp(row[column] - largest)
                    total += row[column]
                for column in range(length):
                    row[column] /= total
                out[:] = np.float32(0.0)
            whole = length - length % 4  # four columns at a time, so that outputs are read and written less often
            for column in range(0, whole, 4):
                first, second = stored_values[column], stored_values[column + 1]
                third, fourth = stored_values[column + 2], stored_values[column + 3]
                for member in range(group):
                    out = mixed[token, kv * group + member]
                    a, b = scores[member, column], scores[member, column + 1]
                    c, d = scores[member, column + 2], scores[member, column + 3]
                    for i in range(width):
                        out[i] += a * first[i] + b * second[i] + c * third[i] + d * fourth[i]
            for column in range(whole, length):
                value = stored_values[column]
                for member in range(group):
                    out, weight = mixed[token, kv * group + member], scores[member, column]
                    for i in range(width):
                        out[i] += weight * value[i]
