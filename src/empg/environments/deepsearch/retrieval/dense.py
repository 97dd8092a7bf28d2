"""Dense retrieval: an encoder maps texts to vectors, and a vector index finds the nearest ones.

The encoder is a sentence-embedding model in a Hugging Face folder (`HuggingFaceEncoder`), or any other `Encoder`. The
default index is exact and memory-mapped. For corpora of millions, faiss (extra `dense`) builds any index that its
factory string describes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from empg.environments.deepsearch.retrieval.query import check_count, clean_query
from empg.environments.deepsearch.retrieval.ranking import best_rows
from empg.environments.deepsearch.retrieval.stored import Progress, StoredDocuments, store_documents
from empg.environments.deepsearch.world import Document, Hit
from empg.environments.publishing import publish
from empg.errors import UserError

Vectors = npt.NDArray[np.float32]  # (texts, dimensions)

_BATCH = 64  # documents per batch of the encoder
_DIGITS = 5  # decimal places of a similarity; later ones depend on the composition of the batch


class Encoder(Protocol):
    """Maps texts to vectors of length 1. The similarity of two texts is the inner product of their vectors."""

    name: str  # equal names mean equal vectors; an index is rebuilt for another name

    def documents(self, texts: Sequence[str]) -> Vectors:
        """Encode documents to `(texts, dimensions)`."""
        ...

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Encode queries to `(texts, dimensions)`; some models use a prefix for queries."""
        ...


class VectorIndex(Protocol):
    """Finds the nearest of vectors 0 to N-1."""

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
        """Return inner products and rows, each `(queries, k)`, best first; missing rows are -1."""
        ...


class ExactIndex:
    """Compares a query with every vector."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
        """Implement `VectorIndex`. Similarities that are equal after rounding are ordered by row."""
        similarities = np.round(queries @ self._vectors.T, _DIGITS)
        rows = np.array([best_rows(own, min(k, len(own)), above=-np.inf) for own in similarities])
        return np.take_along_axis(similarities, rows, axis=1), rows


class FaissIndex:
    """A faiss index, memory-mapped if its type supports it."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def make(cls, vectors: Vectors, factory: str) -> FaissIndex:
        """Train and fill the index of a factory string ("Flat", "HNSW32", "IVF4096,PQ64").

        Raises:
            UserError: the factory string is invalid, or there are too few vectors to train the index.
        """
        import faiss

        try:
            index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            if not index.is_trained:
                index.train(vectors)
            index.add(vectors)
        except RuntimeError as error:
            raise UserError(f"faiss cannot build the index {factory!r} from {len(vectors):,} vectors") from error
        return cls(index)

    @classmethod
    def read(cls, file: Path) -> FaissIndex:
        """Memory-map an index that `write` wrote."""
        import faiss

        return cls(faiss.read_index(str(file), faiss.IO_FLAG_MMAP))

    def write(self, file: Path) -> None:
        """Write the index to a file."""
        import faiss

        faiss.write_index(self._index, str(file))

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
        """Implement `VectorIndex`."""
        similarities, rows = self._index.search(np.ascontiguousarray(queries), k)
        return similarities, rows


class DenseRetriever:
    """Returns the documents whose vectors are nearest to that of the query."""

    def __init__(self, documents: Sequence[Document], encoder: Encoder, index: VectorIndex) -> None:
        self.documents = documents
        self._encoder, self._index = encoder, index

    @classmethod
    def build(
        cls,
        documents: Sequence[Document],
        encoder: Encoder,
        factory: str | None = None,
        progress: Progress | None = None,
    ) -> DenseRetriever:
        """Encode and index documents in memory; see `open_dense`.

        Raises:
            UserError: the corpus is empty, or faiss cannot build the index.
        """
        vectors = np.concatenate(list(_encode(documents, encoder, progress)))
        return cls(documents, encoder, ExactIndex(vectors) if factory is None else FaissIndex.make(vectors, factory))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return at most `k` hits per query. Scores are inner products; equal scores are in corpus order."""
        check_count(k)
        cleaned = [clean_query(query) for query in queries]
        if not cleaned:
            return []
        similarities, rows = self._index.nearest(self._encoder.queries(cleaned), k)
        return [self._hits(*found) for found in zip(similarities, rows, strict=True)]

    def _hits(self, similarities: npt.NDArray[np.float32], rows: npt.NDArray[np.int64]) -> list[Hit]:
        found = [(-round(float(score), _DIGITS), int(row)) for score, row in zip(similarities, rows, strict=True)]
        return [Hit(self.documents[row], -score) for score, row in sorted(found) if row >= 0]


def open_dense(
    documents: Callable[[], Iterable[Document]],
    fingerprint: str,
    encoder: Encoder,
    cache: Path,
    factory: str | None = None,
    progress: Progress | None = None,
) -> DenseRetriever:
    """Open the vectors of a corpus, which are encoded on first use and then memory-mapped; see `bm25.open_bm25`.

    Args:
        documents: returns the corpus; called only if there is no index of it.
        fingerprint: fingerprint of the corpus.
        encoder: the encoder; its name is part of the name of the index.
        cache: the folder that contains the indexes.
        factory: faiss factory string; None means exact search.
        progress: receives the number of encoded documents.

    Raises:
        UserError: the corpus is empty, or faiss cannot build the index.
    """
    kind = hashlib.sha256(f"{encoder.name}/{factory}".encode()).hexdigest()[:8]
    folder = cache / f"dense-{fingerprint}-{kind}"
    if not folder.is_dir():

        def write(work: Path) -> None:
            vectors = np.concatenate(list(_encode(store_documents(documents(), work), encoder, progress)))
            if factory is None:
                np.save(work / "vectors.npy", vectors)
            else:
                FaissIndex.make(vectors, factory).write(work / "vectors.faiss")
            (work / "encoder.json").write_text(json.dumps({"encoder": encoder.name, "faiss": factory}))

        publish(folder, write)
    index: VectorIndex
    if factory is None:
        index = ExactIndex(np.load(folder / "vectors.npy", mmap_mode="r"))
    else:
        index = FaissIndex.read(folder / "vectors.faiss")
    return DenseRetriever(StoredDocuments(folder), encoder, index)


def _encode(documents: Iterable[Document], encoder: Encoder, progress: Progress | None) -> Iterator[Vectors]:
    batch: list[str] = []
    done = 0
    for document in documents:
        batch.append(f"{document.title}\n{document.text}")
        if len(batch) == _BATCH:
            yield encoder.documents(batch)
            done += len(batch)
            batch = []
            if progress is not None:
                progress(done)
    if batch:
        yield encoder.documents(batch)
        done += len(batch)
        if progress is not None:
            progress(done)
    if not done:
        raise UserError("the corpus is empty: there is nothing to search")
