"""BM25 over a corpus, as Lucene computes it with Anserini's constants (k1 = 0.9, b = 0.4): the default retriever.

bm25s scores every word of every document once and keeps the scores by word. A query then adds up a few short arrays:
in memory for a corpus of thousands, memory-mapped from a folder for one of millions, with the same code and the same
hits. Title and text are indexed as one. Documents without a word of the query are no hits, and equals stand in the
corpus's order.
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
        # (Plain views of mapped arrays: numpy's memmap class makes every slice ten times dearer.)
        self._weights: npt.NDArray[np.float32] = np.asarray(index.scores["data"])
        self._rows: npt.NDArray[np.int32] = np.asarray(index.scores["indices"])
        self._starts: npt.NDArray[np.int64] = np.asarray(index.scores["indptr"])

    @classmethod
    def build(cls, documents: Sequence[Document], progress: Progress | None = None) -> BM25Retriever:
        """Index documents in memory.

        Raises:
            UserError: there is none.
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
        """Map an index that `write_bm25` wrote.

        Raises:
            MissingFileError: there is none.
        """
        if not (folder / "bm25").is_dir():
            raise MissingFileError(f"{folder} holds no BM25 index")
        return cls(StoredDocuments(folder), bm25s.BM25.load(folder / "bm25", mmap=True))

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most `k` hits for each query; scores are BM25's."""
        check_count(k)
        return [self._search(query, k) for query in queries]

    def scores(self, query: str) -> npt.NDArray[np.float32]:
        """`(N,)` the score of every document; a word that the query repeats counts again."""
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
    """Index documents into a folder that `BM25Retriever.open` maps. The folder appears when it is complete.

    Documents are streamed; what stays in memory is about 4 bytes a word, and 12 more while bm25s works.

    Raises:
        UserError: there is none.
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
    """The index of a corpus, made on first use and mapped from then on.

    Args:
        documents: gives the corpus; asked only where there is no index of that fingerprint.
        fingerprint: of the corpus (`fingerprint_files`, `fingerprint_documents`); another one means another index.
        cache: the folder that holds the indices.
        progress: told how many documents are done.
    """
    folder = cache / f"bm25-{fingerprint}"
    if not folder.is_dir():
        write_bm25(documents(), folder, progress)
    return BM25Retriever.open(folder)


def _text(document: Document) -> str:
    return clean_text(f"{document.title}\n{document.text}")


def _index(counter: TermCounter) -> bm25s.BM25:
    index: Any = bm25s.BM25(k1=K1, b=B, method="lucene", csc_backend="numpy", backend="numpy")
    # bm25s cannot index a corpus without any word: the empty one stands in, and no query holds it.
    vocabulary = counter.vocabulary or {"": 0}
    with np.errstate(invalid="ignore"):  # it then divides by a mean length of 0, and uses nothing of it
        index.index((counter.documents, vocabulary), create_empty_token=False, show_progress=False)
    return index
