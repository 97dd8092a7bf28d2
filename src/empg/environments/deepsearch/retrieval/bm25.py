"""The default retriever: Lucene's BM25 over a corpus with Anserini's constants (k1 = 0.9, b = 0.4).

bm25s scores every word of every document once and stores the scores by word. A query then adds a few short arrays, in
memory for a corpus of thousands, memory-mapped from a folder for a corpus of millions. Code and hits are the same in
both cases. Title and text are indexed together. Documents without a query word are not hits. Equal scores are in corpus
order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import numpy.typing as npt

from empg.environments.analysis import K1, B, TermCollector, analyze
from empg.environments.deepsearch.retrieval.query import check_corpus, check_count, clean_query
from empg.environments.deepsearch.retrieval.ranking import best_rows
from empg.environments.deepsearch.world import Document, Hit
from empg.environments.progress_bar import Done, Stage, no_bars
from empg.environments.publishing import build_once
from empg.web.text import clean_text

logging.getLogger("bm25s").setLevel(logging.WARNING)  # its import sets DEBUG, so it would write into anybody's log


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
    def build(cls, documents: Sequence[Document]) -> BM25Retriever:
        """Index documents in memory.

        Raises:
            UserError: the corpus is empty.
        """
        check_corpus(documents)
        return cls(documents, _index(documents, no_bars("", None)))

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


def open_bm25(documents: Sequence[Document], fingerprint: str, cache: Path, stage: Stage = no_bars) -> BM25Retriever:
    """Open the index of a corpus, which is built on first use and then memory-mapped.

    Building takes about 4 bytes of memory per word, and 40 while bm25s builds the index.

    Args:
        documents: the corpus; read only if there is no index with this fingerprint.
        fingerprint: fingerprint of the corpus, which names the index; see `stored.open_documents`.
        cache: the folder that contains the indexes.
        stage: receives the number of indexed documents.

    Raises:
        UserError: the corpus is empty, or see `build_once`.
    """
    folder = bm25_folder(cache, fingerprint)

    def write(work: Path) -> None:
        check_corpus(documents)
        _index(documents, stage("words", len(documents))).save(work, show_progress=False)

    build_once(folder, write)
    return BM25Retriever(documents, bm25s.BM25.load(folder, mmap=True))


def bm25_folder(cache: Path, fingerprint: str) -> Path:
    """Return the folder of the index of a corpus."""
    return cache / f"bm25-{fingerprint}"


def _index(documents: Iterable[Document], done: Done) -> bm25s.BM25:
    collector = TermCollector()
    for number, document in enumerate(documents, 1):
        collector.add(clean_text(f"{document.title}\n{document.text}"))
        done(number)
    index: Any = bm25s.BM25(k1=K1, b=B, method="lucene", csc_backend="numpy", backend="numpy")
    # bm25s cannot index a corpus without words. The empty word is a placeholder that no query contains.
    vocabulary = collector.vocabulary or {"": 0}
    with np.errstate(invalid="ignore"):  # it then divides by a mean length of 0, but the result is unused
        index.index((collector.documents, vocabulary), create_empty_token=False, show_progress=False)
    return index
