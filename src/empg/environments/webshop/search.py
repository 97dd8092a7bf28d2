"""The shop's search: Anserini's BM25 over one text per product; see `environments/analysis.py`.

The index is a bm25s index. It is saved as arrays and memory-mapped.
"""

from __future__ import annotations

from pathlib import Path

import bm25s
import numpy as np
import numpy.typing as npt

from empg.environments.analysis import K1, B, TermCounter, analyze
from empg.environments.webshop.world import HITS, Product


def product_text(product: Product) -> str:
    """Return the searchable text of a product: title, description, first bullet, options."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    first_bullet = product.bullets[0] if product.bullets else ""
    return f"{product.title} {product.description} {first_bullet} {options}".lower()


class SearchIndex:
    """BM25 over documents 0 to N-1. `ranks` `(N,)` orders documents of equal score, lowest first.

    Anserini orders documents of equal score by their ids, which are the asins.
    """

    def __init__(self, index: bm25s.BM25, ranks: npt.NDArray[np.int32]) -> None:
        self._index, self._ranks = index, ranks
        self._vocabulary: dict[str, int] = index.vocab_dict

    @classmethod
    def build(cls, counter: TermCounter, ranks: npt.NDArray[np.int32]) -> SearchIndex:
        """Index the documents of a counter."""
        index = bm25s.BM25(k1=K1, b=B, method="lucene", csc_backend="numpy", backend="numpy")
        vocabulary = counter.vocabulary or {"": 0}
        index.index((counter.documents, vocabulary), create_empty_token=False, show_progress=False)
        return cls(index, ranks)

    @classmethod
    def open(cls, folder: Path, ranks: npt.NDArray[np.int32]) -> SearchIndex:
        """Open a saved index, memory-mapped."""
        return cls(bm25s.BM25.load(folder, mmap=True), ranks)

    def save(self, folder: Path) -> None:
        """Write the index; `open` reads it."""
        self._index.save(folder, show_progress=False)

    def find(self, query: str, count: int = HITS) -> tuple[int, ...]:
        """Return the best documents for a query, at most `count`, best first. Equal scores are ordered by rank.

        Documents that share no term with the query are not returned.
        """
        terms = [self._vocabulary[term] for term in analyze(query) if term in self._vocabulary]
        if not terms:
            return ()
        scores = self._index.get_scores_from_ids(terms)
        hits = np.flatnonzero(scores)
        if len(hits) > count:
            found = scores[hits]
            last = np.sort(found)[-count]  # np.partition is ten times slower here, because most scores are tied
            above = hits[found > last]
            ties, room = hits[found == last], count - len(above)
            hits = np.concatenate([above, ties[np.argpartition(self._ranks[ties], room - 1)[:room]]])
        order = np.lexsort((self._ranks[hits], -scores[hits]))
        return tuple(hits[order].tolist())
