"""The shop's search: Anserini's BM25 over one text per product (`environments/bm25.py`), and its order."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from empg.environments.analysis import TermCollector
from empg.environments.bm25 import BM25Index
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

    def __init__(self, index: BM25Index, ranks: npt.NDArray[np.int32]) -> None:
        self._index, self._ranks = index, ranks

    @classmethod
    def build(cls, collector: TermCollector, ranks: npt.NDArray[np.int32]) -> SearchIndex:
        """Index the documents of a collector."""
        return cls(BM25Index.build(collector), ranks)

    @classmethod
    def open(cls, folder: Path, ranks: npt.NDArray[np.int32]) -> SearchIndex:
        """Open a saved index, memory-mapped."""
        return cls(BM25Index.open(folder), ranks)

    def save(self, folder: Path) -> None:
        """Write the index into a new folder; `open` reads it."""
        self._index.save(folder)

    def find(self, query: str, count: int = HITS) -> tuple[int, ...]:
        """Return the best documents for a query, at most `count`, best first. Equal scores are ordered by rank.

        Documents that share no term with the query are not returned.
        """
        scores = self._index.scores(query)
        hits = np.flatnonzero(scores)
        if len(hits) > count:
            found = scores[hits]
            last = np.sort(found)[-count]  # np.partition is ten times slower here, because most scores are tied
            above = hits[found > last]
            ties, room = hits[found == last], count - len(above)
            hits = np.concatenate([above, ties[np.argpartition(self._ranks[ties], room - 1)[:room]]])
        order = np.lexsort((self._ranks[hits], -scores[hits]))
        return tuple(hits[order].tolist())
