"""Dense retrieval: an encoder maps texts to vectors, and a vector index finds the nearest ones.

The encoder is a sentence-embedding model in a Hugging Face folder (`HuggingFaceEncoder`), or any other `Encoder`. The
default index is exact: it compares a query with every vector. For corpora of millions, faiss (extra `dense`) builds any
index that its factory string describes. `published.py` opens indexes that others have published.

Vectors are stored in half precision, once per corpus and encoder. They are appended to a file batch by batch, so that
memory holds one batch and an interrupted encoding continues with the next batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from empg.environments.deepsearch.retrieval.query import check_corpus, check_count, clean_query
from empg.environments.deepsearch.retrieval.ranking import best_rows
from empg.environments.deepsearch.world import Document, Hit
from empg.environments.progress_bar import Done, Stage, no_bars
from empg.environments.publishing import build_once
from empg.errors import UserError

Vectors = npt.NDArray[np.float32]  # (texts, dimensions)
Stored = npt.NDArray[np.float16] | npt.NDArray[np.float32]  # (documents, dimensions), in memory or memory-mapped
Rows = npt.NDArray[np.int64]

BATCH = 64  # texts per batch of the encoder
_BLOCK = 4_096  # stored vectors that are compared at once
_QUERIES = 1_024  # queries that are compared at once; their similarities to a block take 16 MB
_TRAINING = 1 << 31  # bytes of vectors, at most, that faiss trains an index on
_SIGN_AND_NUMBER = np.int32(0x8FFFE000 - (1 << 32))  # the bits of a shifted half-precision number
_DIGITS = 5  # decimal places of a similarity; later ones depend on the composition of the batch


class Encoder(Protocol):
    """Maps texts to vectors of length 1. The similarity of two texts is the inner product of their vectors."""

    name: str  # equal names mean equal vectors; an index is rebuilt for another name
    dimensions: int  # length of a vector

    def documents(self, texts: Sequence[str]) -> Vectors:
        """Encode documents to `(texts, dimensions)`."""
        ...

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Encode queries to `(texts, dimensions)`; some models use a prefix for queries."""
        ...


class VectorIndex(Protocol):
    """Finds the nearest of vectors 0 to N-1."""

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Return inner products and rows, each `(queries, k)`, best first; missing rows are -1."""
        ...


class ExactIndex:
    """Compares queries with every vector, in blocks: memory does not grow with the corpus or with the queries."""

    def __init__(self, vectors: Stored) -> None:
        self._vectors = vectors

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Implement `VectorIndex`. Similarities that are equal after rounding are ordered by row."""
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        rows = np.full((len(queries), k), -1, dtype=np.int64)
        for first, block in _blocks(self._vectors):
            for start in range(0, len(queries), _QUERIES):
                part = slice(start, start + _QUERIES)
                similarities = queries[part] @ block.T
                np.round(similarities, _DIGITS, out=similarities)
                # Only rows that beat the worst hit so far matter; an equal one comes later in the order of rows.
                better = np.flatnonzero(similarities.max(axis=1) > scores[part, -1])
                for number in better + start:
                    _merge(scores[number], rows[number], similarities[number - start], first)
        return scores, rows


def _merge(scores: npt.NDArray[np.float32], rows: Rows, found: npt.NDArray[np.float32], first: int) -> None:
    """Merge the similarities of the rows from `first` into the k best of the rows before them, in place."""
    new = np.array(best_rows(found, len(scores), above=float(scores[-1])), dtype=np.int64)
    both_scores, both_rows = np.concatenate([scores, found[new]]), np.concatenate([rows, new + first])
    order = np.argsort(-both_scores, kind="stable")[: len(scores)]
    scores[:], rows[:] = both_scores[order], both_rows[order]


class FaissIndex:
    """A faiss index."""

    def __init__(self, index: Any) -> None:
        self._index = index

    @classmethod
    def make(cls, vectors: Stored, factory: str, done: Done) -> FaissIndex:
        """Train and fill the index of a factory string ("SQfp16", "HNSW32", "IVF4096,PQ64"), block by block.

        Raises:
            UserError: the factory string is invalid, or there are too few vectors to train the index.
        """
        import faiss

        count, dimensions = vectors.shape
        try:
            index = faiss.index_factory(dimensions, factory, faiss.METRIC_INNER_PRODUCT)
            if not index.is_trained:
                step = -(-count * dimensions * 4 // _TRAINING)  # every row if they fit
                index.train(np.ascontiguousarray(vectors[::step], dtype=np.float32))
            for first, block in _blocks(vectors):
                index.add(block)
                done(first + len(block))
        except RuntimeError as error:
            raise UserError(f"faiss cannot build the index {factory!r} from {count:,} vectors") from error
        return cls(index)

    @classmethod
    def read(cls, file: Path) -> FaissIndex:
        """Open a file of faiss, memory-mapped if its type and the version of faiss support it.

        Raises:
            UserError: faiss cannot read the file.
        """
        import faiss

        with file.open("rb") as opened:
            lists = opened.read(2) == b"Iw"  # inverted lists have a mapping of their own
        flags = faiss.IO_FLAG_MMAP if lists else getattr(faiss, "IO_FLAG_MMAP_IFC", 0)
        try:
            return cls(faiss.read_index(str(file), flags))
        except RuntimeError as error:
            problem = f"{file} is damaged or truncated: faiss cannot read it"
            raise UserError(f"{problem}. Download or build it again") from error

    def write(self, file: Path) -> None:
        """Write the index to a file."""
        import faiss

        faiss.write_index(self._index, str(file))

    def nearest(self, queries: Vectors, k: int) -> tuple[Vectors, Rows]:
        """Implement `VectorIndex`."""
        similarities, rows = self._index.search(np.ascontiguousarray(queries), k)
        return similarities, rows

    def vector(self, row: int) -> npt.NDArray[np.float32]:
        """Return a stored vector `(dimensions,)`, exact or as the index approximates it."""
        return np.asarray(self._index.reconstruct(row), dtype=np.float32)


class DenseRetriever:
    """Returns the documents whose vectors are nearest to that of the query."""

    def __init__(self, documents: Sequence[Document], encoder: Encoder, index: VectorIndex) -> None:
        self.documents = documents
        self._encoder, self._index = encoder, index

    @classmethod
    def build(
        cls, documents: Sequence[Document], encoder: Encoder, factory: str | None = None, stage: Stage = no_bars
    ) -> DenseRetriever:
        """Encode and index documents in memory; see `open_dense`.

        Raises:
            UserError: the corpus is empty, or faiss cannot build the index.
        """
        check_corpus(documents)
        vectors = np.empty((len(documents), encoder.dimensions), dtype=np.float16)
        done = stage("embeddings", len(documents))
        for first, batch in _encoded(documents, encoder, 0):
            vectors[first : first + len(batch)] = batch
            done(first + len(batch))
        if factory is None:
            return cls(documents, encoder, ExactIndex(vectors))
        return cls(documents, encoder, FaissIndex.make(vectors, factory, stage("faiss index", len(documents))))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return at most `k` hits per query. Scores are inner products; equal scores are in corpus order."""
        check_count(k)
        cleaned = [clean_query(query) for query in queries]
        if not cleaned:
            return []
        batches = (cleaned[start : start + BATCH] for start in range(0, len(cleaned), BATCH))
        encoded = np.concatenate([self._encoder.queries(batch) for batch in batches])
        return [self._hits(*found) for found in zip(*self._index.nearest(encoded, k), strict=True)]

    def _hits(self, similarities: npt.NDArray[np.float32], rows: Rows) -> list[Hit]:
        pairs = zip(similarities.tolist(), rows.tolist(), strict=True)
        found = sorted((-round(score, _DIGITS), row) for score, row in pairs if row >= 0)
        return [Hit(self.documents[row], -score) for score, row in found]


def open_dense(
    documents: Sequence[Document],
    fingerprint: str,
    encoder: Encoder,
    cache: Path,
    factory: str | None = None,
    stage: Stage = no_bars,
) -> DenseRetriever:
    """Open the vectors of a corpus, which are encoded on first use and then memory-mapped; see `bm25.open_bm25`.

    An interrupted encoding continues where it stopped. A faiss index is built from the stored vectors, so another
    factory string needs no second encoding.

    Args:
        documents: the corpus.
        fingerprint: fingerprint of the corpus.
        encoder: the encoder; its name is part of the name of the folder.
        cache: the folder that contains the indexes.
        factory: faiss factory string; None means exact search.
        stage: receives the number of encoded documents, and of documents in the faiss index.

    Raises:
        UserError: the corpus is empty, faiss cannot build the index, or see `build_once`.
    """
    count = len(documents)
    folder = vectors_folder(cache, fingerprint, encoder)
    build_once(folder, lambda work: _write_vectors(documents, encoder, work, stage), resume=True)
    vectors = np.memmap(folder / _VECTORS, np.float16, "r", shape=(count, encoder.dimensions))
    if factory is None:
        return DenseRetriever(documents, encoder, ExactIndex(vectors))
    file = faiss_folder(cache, fingerprint, encoder, factory) / "vectors.faiss"

    def write(work: Path) -> None:
        FaissIndex.make(vectors, factory, stage(f"faiss index {factory}", count)).write(work / file.name)

    build_once(file.parent, write)
    return DenseRetriever(documents, encoder, FaissIndex.read(file))


_VECTORS = "vectors.f16"  # half precision, `(documents, dimensions)`, without a header


def vectors_folder(cache: Path, fingerprint: str, encoder: Encoder) -> Path:
    """Return the folder of the vectors of a corpus."""
    return cache / f"vectors-{fingerprint}-{_short(encoder.name)}"


def faiss_folder(cache: Path, fingerprint: str, encoder: Encoder, factory: str) -> Path:
    """Return the folder of the faiss index of a corpus."""
    return cache / f"faiss-{fingerprint}-{_short(encoder.name, factory)}"


def document_text(document: Document) -> str:
    """Return the text of a document that is encoded."""
    return f"{document.title}\n{document.text}"


def _write_vectors(documents: Sequence[Document], encoder: Encoder, work: Path, stage: Stage) -> None:
    """Append the vectors that the file does not have yet.

    The file is not written through a memory map, because a full disk would then kill the process.
    """
    check_corpus(documents)
    done = stage("embeddings", len(documents))
    with (work / _VECTORS).open("ab") as file:
        size = encoder.dimensions * 2 * BATCH  # bytes of a batch; a torn one is encoded again
        complete = file.tell() // size
        if file.tell() < len(documents) * encoder.dimensions * 2:
            file.truncate(complete * size)
            for first, batch in _encoded(documents, encoder, complete * BATCH):
                file.write(batch.astype(np.float16).tobytes())
                file.flush()
                done(first + len(batch))
    done(len(documents))


def _encoded(documents: Sequence[Document], encoder: Encoder, start: int) -> Iterator[tuple[int, Vectors]]:
    """Yield the vectors of batches of documents from row `start`, each with its first row."""
    for first in range(start, len(documents), BATCH):
        batch = encoder.documents([document_text(document) for document in documents[first : first + BATCH]])
        if not np.isfinite(batch).all():
            raise UserError(f"encoder {encoder.name}: not a number in the vector of a document after row {first}")
        yield first, batch


def _blocks(vectors: Stored) -> Iterator[tuple[int, Vectors]]:
    """Yield blocks of vectors in single precision, each with its first row."""
    for first in range(0, len(vectors), _BLOCK):
        block = np.ascontiguousarray(vectors[first : first + _BLOCK])
        yield first, _widened(block) if block.dtype == np.float16 else np.asarray(block, dtype=np.float32)


def _widened(half: npt.NDArray[Any]) -> Vectors:
    """Convert finite numbers of half precision exactly, five times faster than numpy.

    Exponent and fraction move to their places in single precision, and the product corrects the bias of the exponent.
    """
    bits = half.view(np.int16).astype(np.int32)
    bits <<= 13
    bits &= _SIGN_AND_NUMBER
    single = bits.view(np.float32)
    single *= np.float32(2.0 ** (127 - 15))
    return single


def _short(*names: str) -> str:
    return hashlib.sha256("/".join(names).encode()).hexdigest()[:8]
