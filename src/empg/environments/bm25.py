"""BM25 as Lucene 8 computes it, with Anserini's constants: the same scores to the last bit, so the same order.

    score(query, document) = sum over distinct query terms of w - w / (1 + f * n(document))
    w = count in the query * ln(1 + (D - d + 0.5) / (d + 0.5))
    n(document) = 1 / (K1 * (1 - B + B * length / average length))

f is the term's frequency in the document, d the number of documents with the term, D the number of documents with any
term. Everything is rounded to float32 where Lucene rounds it. Lucene stores a length in one byte: lengths above 39
lose their lower bits (`stored_length`), while the average is of the exact lengths.

The index keeps 1 + f * n for each pair of a term and a document, sorted by term. It is numpy arrays, in memory or
memory-mapped. (bm25s scores by exact lengths and has no way to set them.)
"""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt

from empg.environments.analysis import K1, B, TermCollector, analyze

_ONE = np.float32(1)


def stored_length(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return document lengths as Lucene reads them back from one byte (`SmallFloat.byte4ToInt` of `intToByte4`).

    Up to 39 they are exact. Above, what exceeds 24 keeps its four most significant bits.
    """
    excess = np.maximum(lengths - 24, 0)
    lost = np.maximum(np.frexp(excess.astype(np.float64))[1] - 4, 0)  # bits below the upper four
    return np.where(lengths < 24, lengths, 24 + (excess >> lost << lost))


class BM25Index:
    """BM25 over documents 0 to N-1, read-only.

    `terms` numbers the terms. Term t occurs in the documents `rows[starts[t]:starts[t + 1]]` (int32, ascending), and
    `parts` (float32) has the values 1 + f * n of these. `documents` is N, `worded` the number of documents with a term.
    """

    def __init__(
        self,
        terms: dict[str, int],
        starts: npt.NDArray[np.int64],
        rows: npt.NDArray[np.int32],
        parts: npt.NDArray[np.float32],
        documents: int,
        worded: int,
    ) -> None:
        self._terms, self._documents, self._worded = terms, documents, worded
        self._starts, self._rows, self._parts = starts, rows, parts

    @classmethod
    def build(cls, collector: TermCollector) -> BM25Index:
        """Index the documents of a collector."""
        lengths = np.asarray([len(document) for document in collector.documents], dtype=np.int64)
        worded = int(np.count_nonzero(lengths))
        starts, rows, frequencies = _postings(collector, lengths)
        average = np.float32(lengths.sum() / worded) if worded else _ONE
        k1, b = np.float32(K1), np.float32(B)
        norms = _ONE / (k1 * ((_ONE - b) + b * stored_length(lengths).astype(np.float32) / average))
        parts = _ONE + frequencies * norms[rows]
        return cls(collector.vocabulary, starts, rows, parts, len(lengths), worded)

    @classmethod
    def open(cls, folder: Path) -> BM25Index:
        """Memory-map a saved index."""
        about = json.loads((folder / "terms.json").read_text(encoding="utf-8"))
        # Plain views of mapped arrays, because slicing numpy's memmap class is ten times slower.
        starts, rows, parts = (
            np.asarray(np.load(folder / f"{name}.npy", mmap_mode="r")) for name in ("starts", "rows", "parts")
        )
        terms = {term: number for number, term in enumerate(about["terms"])}
        return cls(terms, starts, rows, parts, about["documents"], about["worded"])

    def save(self, folder: Path) -> None:
        """Write the index into a new folder; `open` reads it."""
        folder.mkdir()
        np.save(folder / "starts.npy", self._starts)
        np.save(folder / "rows.npy", self._rows)
        np.save(folder / "parts.npy", self._parts)
        about = {"documents": self._documents, "worded": self._worded, "terms": list(self._terms)}
        (folder / "terms.json").write_text(json.dumps(about), encoding="utf-8")

    def scores(self, query: str) -> npt.NDArray[np.float32]:
        """Return the scores `(N,)` of all documents; 0 for a document without a query term."""
        scores = np.zeros(self._documents)
        for term, count in Counter(analyze(query)).items():
            number = self._terms.get(term)
            if number is not None:
                start, end = self._starts[number], self._starts[number + 1]
                weight = np.float32(count) * self._rarity(int(end - start))
                scores[self._rows[start:end]] += weight - weight / self._parts[start:end]
        return scores.astype(np.float32)

    def _rarity(self, holding: int) -> np.float32:
        return np.float32(math.log(1 + (self._worded - holding + 0.5) / (holding + 0.5)))


def _postings(
    collector: TermCollector, lengths: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    """Return `starts` and `rows` as in `BM25Index`, and the frequency of each term in each of these documents."""
    pairs = np.empty(int(lengths.sum()), dtype=np.int64)  # term number in the upper half, row in the lower
    end = 0
    for row, document in enumerate(collector.documents):
        start, end = end, end + len(document)
        pairs[start:end] = document
        pairs[start:end] <<= 32
        pairs[start:end] |= row
    pairs.sort()
    is_first = np.ones(len(pairs), dtype=np.bool_)
    np.not_equal(pairs[1:], pairs[:-1], out=is_first[1:])
    first = np.flatnonzero(is_first)
    frequencies = np.diff(first, append=len(pairs)).astype(np.float32)
    pairs = pairs[first]
    starts = np.searchsorted(pairs, np.arange(len(collector.vocabulary) + 1, dtype=np.int64) << 32)
    return starts.astype(np.int64), pairs.astype(np.uint32).view(np.int32), frequencies
