"""An encoder without a model."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from empg.environments.deepsearch.retrieval.dense import Vectors


class Hashing:
    """An encoder that hashes trigrams to 64 signs, so that similar texts have similar vectors."""

    name = "hashing"
    dimensions = 64

    def documents(self, texts: Sequence[str]) -> Vectors:
        return self.queries(texts)

    def queries(self, texts: Sequence[str]) -> Vectors:
        vectors = np.zeros((len(texts), 64), dtype=np.float32)
        for row, text in enumerate(texts):
            for start in range(len(text) - 2):
                key = zlib.crc32(text[start : start + 3].lower().encode())
                vectors[row, key % 64] += 1 if key & 64 else -1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1)
