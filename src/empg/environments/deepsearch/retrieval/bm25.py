"""The default retriever: Lucene's BM25 over a corpus with Anserini's constants (k1 = 0.9, b = 0.4).

bm25s scores every word of every document once and stores the scores by word. A query then adds a few short arrays, in
memory for a corpus of thousands, memory-mapped from a folder for a corpus of millions. Code and hits are the same in
both cases. Title and text are indexed together. Documents without a query word are not hits. Equal scores are in corpus
order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt

from empg.environments.analysis import K1, B, TermCounter, analyze
from empg.environments.deepsearch.retrieval.query import check_corpus, check_count, clean_query, clean_text
from empg.environments.deepsearch.retrieval.ranking import best_rows
from empg.environments.deepsearch.retrieval.stored import Progress, StoredDocuments, store_documents
from empg.environments.deepsearch.world import Document, Hit
from empg.environments.publishing import publish
from empg.errors import MissingFileError


class BM25Retriever:
    """BM25 over documents 0 to N-1; safe to use from several threads."""

    def __init__(self, documents: Sequence[Document], index: bm25s.BM25) -> None:
        self.documents = documents
        self._vocabulary: dict[str, int] = index.vocab_dict
        # Word w scores weights[starts[w]:starts[w+1]] in the documents rows[starts[w]:starts[w+1]].
        # (Plain views of mapped arrays, because slicing numpy's memmap class is ten times slower.)
        self._weights: npt.NDArray[np.float32] = np.asarray(index.scores["data"])
        self._rows: npt.NDArray[np.int32] = np.asarray(index.scores["indices"])
        self._starts: npt.NDArray[np.int64] = np.asarray(index.scores["indptr"])

    @classmethod
    def build(cls, documents: Sequence[Document], progress: Progress | None = None) -> BM25Retriever:
        """Index documents in memory.

        Raises:
            UserError: the corpus is empty.
        """
        check_corpus(documents)
        counter = TermCounter()
        for number, document in enumerate(documents, 1):
            counter.add(_text(document))
            if progress is not None:
                progress(number)
        return cls(documents, _index(counter))

    @classmethod
    def open(cls, folder: Path) -> BM25Retriever:
        """Memory-map an index that `write_bm25` wrote.

        Raises:
            MissingFileError: the folder is not a BM25 index.
        """
        if not (folder / "bm25").is_dir():
            raise MissingFileError(f"{folder} is not a BM25 index: {folder / 'bm25'} not found")
        return cls(StoredDocuments(folder), bm25s.BM25.load(folder / "bm25", mmap=True))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return at most `k` hits per query, with BM25 scores."""
        check_count(k)
        return [self._search(query, k) for query in queries]

    def scores(self, query: str) -> npt.NDArray[np.float32]:
        """Return the scores `(N,)` of all documents. A repeated query word counts each time."""
        scores = np.zeros(len(self.documents), dtype=np.float32)
        for term in analyze(clean_query(query)):
            number = self._vocabulary.get(term)
            if number is not None:
                start, end = self._starts[number], self._starts[number + 1]
                scores[self._rows[start:end]] += self._weights[start:end]
        return scores

    def _search(self, query: str, k: int) -> list[Hit]:
        scores = self.scores(query)
        return [Hit(self.documents[row], float(scores[row])) for row in best_rows(scores, k)]


def write_bm25(documents: Iterable[Document], folder: Path, progress: Progress | None = None) -> None:
    """Index documents into a folder for `BM25Retriever.open`. The folder appears when it is complete.

    Documents are streamed. Memory holds about 4 bytes per word, and 12 more while bm25s builds the index.

    Raises:
        UserError: the corpus is empty.
    """

    def write(work: Path) -> None:
        counter = TermCounter()
        for document in store_documents(documents, work, progress):
            counter.add(_text(document))
        _index(counter).save(work / "bm25", show_progress=False)

    publish(folder, write)


def open_bm25(
    documents: Callable[[], Iterable[Document]], fingerprint: str, cache: Path, progress: Progress | None = None
) -> BM25Retriever:
    """Open the index of a corpus, which is built on first use and then memory-mapped.

    Args:
        documents: returns the corpus; called only if there is no index with this fingerprint.
        fingerprint: fingerprint of the corpus (`fingerprint_files`, `fingerprint_documents`), which names the index.
        cache: the folder that contains the indexes.
        progress: receives the number of indexed documents.
    """
    folder = cache / f"bm25-{fingerprint}"
    if not folder.is_dir():
        write_bm25(documents(), folder, progress)
    return BM25Retriever.open(folder)


def _text(document: Document) -> str:
    return clean_text(f"{document.title}\n{document.text}")


def _index(counter: TermCounter) -> bm25s.BM25:
    index: Any = bm25s.BM25(k1=K1, b=B, method="lucene", csc_backend="numpy", backend="numpy")
    # bm25s cannot index a corpus without words. The empty word is a placeholder that no query contains.
    vocabulary = counter.vocabulary or {"": 0}
    with np.errstate(invalid="ignore"):  # it then divides by a mean length of 0, but the result is unused
        index.index((counter.documents, vocabulary), create_empty_token=False, show_progress=False)
    return index
