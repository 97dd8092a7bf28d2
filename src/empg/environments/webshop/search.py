"""The shop's search: BM25 as Anserini computes it, over one text per product; see `environments/analysis.py`.

The index is bm25s's, saved as arrays that are memory-mapped.
"""

from __future__ import annotations

from pathlib import Path

import bm25s
import numpy as np
import numpy.typing as npt

from empg.environments.analysis import K1, B, TermCounter, analyze
from empg.environments.webshop.world import HITS, Product


def product_text(product: Product) -> str:
    """What is searched: title, description, first bullet, options."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    first_bullet = product.bullets[0] if product.bullets else ""
    return f"{product.title} {product.description} {first_bullet} {options}".lower()


class SearchIndex:
    """BM25 over documents 0 to N-1. `ranks` `(N,)` order documents of equal score, lowest first.

    Anserini orders them by their ids, which are the asins.
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
        """A saved index, memory-mapped."""
        return cls(bm25s.BM25.load(folder, mmap=True), ranks)

    def save(self, folder: Path) -> None:
        """Write the index; `open` reads it."""
        self._index.save(folder, show_progress=False)

    def find(self, query: str, count: int = HITS) -> tuple[int, ...]:
        """The best documents for a query, at most `count`, best first; equals stand in the order of their ranks.

        Documents that share no term with the query are no hits.
        """
        terms = [self._vocabulary[term] for term in analyze(query) if term in self._vocabulary]
        if not terms:
            return ()
        scores = self._index.get_scores_from_ids(terms)
        hits = np.flatnonzero(scores)
        if len(hits) > count:
            found = scores[hits]
            last = np.sort(found)[-count]  # np.partition is ten times slower: most scores are equal to many others
            above = hits[found > last]
            equals, room = hits[found == last], count - len(above)
            hits = np.concatenate([above, equals[np.argpartition(self._ranks[equals], room - 1)[:room]]])
        order = np.lexsort((self._ranks[hits], -scores[hits]))
        return tuple(hits[order].tolist())
