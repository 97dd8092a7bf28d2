"""The policy that the tests of both engines train."""

from __future__ import annotations

from typing import Any

POLICY: dict[str, Any] = {
    "device": "cpu",
    "tiny": {
        "hidden_size": 32,
        "layers": 2,
        "heads": 2,
        "kv_heads": 1,
        "intermediate_size": 64,
        "vocab_size": 400,
        "embedding_std": 0.3,  # so that entropies differ by more than the rounding of two ways to compute them
    },
}
