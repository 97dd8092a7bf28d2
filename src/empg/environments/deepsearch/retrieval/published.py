"""Open a faiss index that somebody has published for a corpus, such as Search-R1's `e5_Flat.index`.

A flat index is memory-mapped and needs no faiss. An HNSW index is opened by faiss. Row i of the index must be the
vector of passage i of the corpus, made by the same encoder; this is checked as far as it can be.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt

from empg.environments.deepsearch.opened_files import require_file
from empg.environments.deepsearch.retrieval.dense import (
    DenseRetriever,
    Encoder,
    ExactIndex,
    FaissIndex,
    VectorIndex,
    document_text,
)
from empg.environments.deepsearch.world import Document
from empg.errors import MissingExtraError, UserError

_FLAT = (b"IxFI", b"IxFl")  # the first four bytes of a file: IndexFlatIP, and IndexFlat with a metric
_GRAPH = (b"IHNf", b"IHNs")  # HNSW over a flat index, and over a quantised one
_HEADER = struct.Struct("<4siqqq?i")  # type, dimensions, vectors, two unused numbers, trained, metric
_COUNT = struct.Struct("<Q")  # numbers in the vectors that follow, each of 4 bytes
_INNER_PRODUCT = 0  # faiss's METRIC_INNER_PRODUCT
_SAMPLE = 8  # passages whose vectors are compared
_MARGIN = 0.01  # by which another vector may be nearer: a passage can be encoded in another precision, or occur twice


def open_published(documents: Sequence[Document], encoder: Encoder, file: Path) -> DenseRetriever:
    """Open a published index of a corpus.

    Args:
        documents: the corpus, in the order of the index.
        encoder: the encoder that made the index.
        file: a flat or an HNSW index of faiss, for inner products.

    Raises:
        MissingFileError: the file does not exist.
        MissingExtraError: it is an HNSW index, and faiss is not installed.
        UserError: the file is a folder or another kind of index, is damaged, or does not fit the corpus or the encoder.
    """
    require_file(file, f"index={file} not found: expected a faiss index of the corpus")
    with file.open("rb") as opened:
        start = opened.read(_HEADER.size + _COUNT.size)
    if start[:4] not in (*_FLAT, *_GRAPH):
        raise UserError(f"index={file}: unsupported file: expected a flat or an HNSW index of faiss, got {start[:4]!r}")
    if len(start) < _HEADER.size + _COUNT.size:
        raise UserError(_truncated(file, "a header", f"{len(start)} bytes"))
    kind, dimensions, count, _, _, _, metric = _HEADER.unpack(start[: _HEADER.size])
    if metric != _INNER_PRODUCT:
        raise UserError(f"index={file}: unsupported metric: expected inner product (0), got {metric}")
    if count != len(documents):
        raise UserError(f"index={file} has {count:,} vectors, but the corpus has {len(documents):,} passages")
    if dimensions != encoder.dimensions:
        raise UserError(f"index={file} has {dimensions} dimensions, but encoder has {encoder.dimensions}")
    index: VectorIndex
    if kind in _FLAT:
        vectors = _mapped(file, count, dimensions, _COUNT.unpack(start[_HEADER.size :])[0])
        _must_fit(file, documents, encoder, lambda row: np.asarray(vectors[row]))
        index = ExactIndex(vectors)
    else:
        if find_spec("faiss") is None:
            raise MissingExtraError("faiss is not installed: pip install 'empg[dense]'")
        index = FaissIndex.read(file)
        _must_fit(file, documents, encoder, index.vector)
    return DenseRetriever(documents, encoder, index)


def _mapped(file: Path, count: int, dimensions: int, numbers: int) -> npt.NDArray[np.float32]:
    offset = _HEADER.size + _COUNT.size
    expected, got = offset + 4 * count * dimensions, file.stat().st_size
    if numbers != count * dimensions or got != expected:
        raise UserError(_truncated(file, f"{expected:,} bytes", f"{got:,}"))
    return np.memmap(file, np.float32, "r", offset=offset, shape=(count, dimensions))


def _truncated(file: Path, expected: str, got: str) -> str:
    return f"index={file} is damaged: expected {expected}, got {got}. Join all its parts, or download it again"


def _must_fit(
    file: Path, documents: Sequence[Document], encoder: Encoder, vector: Callable[[int], npt.NDArray[np.float32]]
) -> None:
    """Check that sampled passages are nearest to their own vectors, not to those of other passages."""
    rows = np.unique(np.linspace(0, len(documents) - 1, _SAMPLE).astype(np.int64)).tolist()
    encoded = encoder.documents([document_text(documents[row]) for row in rows])
    similarities = encoded @ np.stack([vector(row) for row in rows]).T
    fitting = int(np.sum(similarities.diagonal() >= similarities.max(axis=1) - _MARGIN))
    if 2 * fitting <= len(rows):
        raise UserError(
            f"index={file} does not fit: only {fitting} of {len(rows)} sampled passages are nearest to their own "
            "vectors. Check the order of data.corpus, encoder.folder and encoder.document_prefix"
        )
