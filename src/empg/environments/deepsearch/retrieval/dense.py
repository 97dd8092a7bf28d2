"""Searching by meaning: texts as vectors (an encoder), and the nearest of them (a vector index).

The encoder is any sentence-embedding model in a Hugging Face folder (`HuggingFaceEncoder`), or anything else that
turns texts into vectors. The index is exact by default, memory-mapped; faiss (extra `dense`) serves corpora of
millions, with whatever index its factory string names.
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

_BATCH = 64  # documents encoded at once
_DIGITS = 5  # of a similarity that count: encoding in other company moves the digits after them


class Encoder(Protocol):
    """Turns texts into vectors of length 1; the similarity of two is their inner product."""

    name: str  # with the same name, the same vectors: an index is made anew for another

    def documents(self, texts: Sequence[str]) -> Vectors:
        """`(texts, dimensions)`."""
        ...

    def queries(self, texts: Sequence[str]) -> Vectors:
        """`(texts, dimensions)`; some models mark queries."""
        ...


class VectorIndex(Protocol):
    """The nearest of vectors 0 to N-1."""

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
        """Inner products and rows, each `(queries, k)`, best first; the row is -1 where there are no more."""
        ...


class ExactIndex:
    """Compares with every vector."""

    def __init__(self, vectors: Vectors) -> None:
        self._vectors = vectors

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
        """See `VectorIndex`; of those equal in the digits that count, the first rows."""
        similarities = np.round(queries @ self._vectors.T, _DIGITS)
        rows = np.array([best_rows(own, min(k, len(own)), above=-np.inf) for own in similarities])
        return np.take_along_axis(similarities, rows, axis=1), rows


class FaissIndex:
    """A faiss index, memory-mapped where its kind can be."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def make(cls, vectors: Vectors, factory: str) -> FaissIndex:
        """Train and fill the index that a factory string names ("Flat", "HNSW32", "IVF4096,PQ64").

        Raises:
            UserError: faiss knows no such index, or there are too few vectors to train it.
        """
        import faiss

        try:
            index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            if not index.is_trained:
                index.train(vectors)
            index.add(vectors)
        except RuntimeError as error:
            raise UserError(f"faiss cannot make an index {factory!r} of {len(vectors):,} vectors") from error
        return cls(index)

    @classmethod
    def read(cls, file: Path) -> FaissIndex:
        """Map an index that `write` wrote."""
        import faiss

        return cls(faiss.read_index(str(file), faiss.IO_FLAG_MMAP))

    def write(self, file: Path) -> None:
        """Write it to a file."""
        import faiss

        faiss.write_index(self._index, str(file))

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, npt.NDArray[np.int64]]:
        """See `VectorIndex`."""
        similarities, rows = self._index.search(np.ascontiguousarray(queries), k)
        return similarities, rows


class DenseRetriever:
    """The documents whose vectors are nearest to the query's."""

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
            UserError: there is none, or faiss cannot make such an index.
        """
        vectors = np.concatenate(list(_encode(documents, encoder, progress)))
        return cls(documents, encoder, ExactIndex(vectors) if factory is None else FaissIndex.make(vectors, factory))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most `k` hits for each query; scores are inner products, equals stand in the corpus's order."""
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
    """The vectors of a corpus, made on first use and mapped from then on; see `bm25.open_bm25`.

    Args:
        documents: gives the corpus; asked only where there is no index of it.
        fingerprint: of the corpus.
        encoder: another one (by its name) means another index.
        cache: the folder that holds the indices.
        factory: of faiss; None compares with every vector, exactly.
        progress: told how many documents are encoded.

    Raises:
        UserError: the corpus is empty, or faiss cannot make such an index.
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
