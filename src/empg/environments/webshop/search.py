"""The shop's search: BM25 as Anserini computes it (k1 = 0.9, b = 0.4), over one text per product.

The analyzer is Lucene's English one: words by the Unicode rules that matter for product texts, the possessive 's cut,
lower case, 33 stop words, Porter's stemmer. The index is bm25s's, saved as arrays that are memory-mapped.
"""

from __future__ import annotations

import re
from array import array
from functools import lru_cache
from pathlib import Path

import bm25s
import numpy as np
import Stemmer

from empg.environments.webshop.world import Product

K1, B = 0.9, 0.4
HITS = 50

STOP_WORDS = frozenset(
    """
    a an and are as at be but by for if in into is it no not of on or such that the their then there these they this
    to was will with
    """.split()  # noqa: SIM905
)
# Letters may hold a dot, an apostrophe or a colon between them, digits a dot, a comma or a semicolon.
_WORD = re.compile(r"\w+(?:(?:(?<=[^\W\d_])[.'’:·](?=[^\W\d_])|(?<=\d)[.,;'’](?=\d))\w+)*")
_MAX_WORD = 255


def analyze(text: str) -> list[str]:
    """The terms of a text, in order."""
    stemmed = (_stem(word) for word in _WORD.findall(text.lower()))
    return [term for term in stemmed if term]


@lru_cache(1 << 18)
def _stem(word: str) -> str:
    """The term of a lower-case word, or "" for a stop word."""
    if word.endswith(("'s", "’s")):
        word = word[:-2]
    if word in STOP_WORDS or len(word) > _MAX_WORD:
        return ""
    return str(_stemmer().stemWord(word))


@lru_cache(1)
def _stemmer() -> Stemmer.Stemmer:
    return Stemmer.Stemmer("porter", 0)


def product_text(product: Product) -> str:
    """What is searched: title, description, first bullet, options."""
    options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in product.options.items())
    first_bullet = product.bullets[0] if product.bullets else ""
    return f"{product.title} {product.description} {first_bullet} {options}".lower()


class TermCounter:
    """Documents as arrays of term numbers, while they stream by; four bytes a word."""

    def __init__(self) -> None:
        self.vocabulary: dict[str, int] = {}
        self.documents: list[array[int]] = []

    def add(self, text: str) -> None:
        """The next document."""
        vocabulary = self.vocabulary
        self.documents.append(array("i", (vocabulary.setdefault(term, len(vocabulary)) for term in analyze(text))))


class SearchIndex:
    """BM25 over documents 0 to N-1."""

    def __init__(self, index: bm25s.BM25) -> None:
        self._index = index
        self._vocabulary: dict[str, int] = index.vocab_dict

    @classmethod
    def build(cls, counter: TermCounter) -> SearchIndex:
        """Index the documents of a counter."""
        index = bm25s.BM25(k1=K1, b=B, method="lucene", csc_backend="numpy", backend="numpy")
        vocabulary = counter.vocabulary or {"": 0}
        index.index((counter.documents, vocabulary), create_empty_token=False, show_progress=False)
        return cls(index)

    @classmethod
    def open(cls, folder: Path) -> SearchIndex:
        """A saved index, memory-mapped."""
        return cls(bm25s.BM25.load(folder, mmap=True))

    def save(self, folder: Path) -> None:
        """Write the index; `open` reads it."""
        self._index.save(folder, show_progress=False)

    def find(self, query: str, count: int = HITS) -> tuple[int, ...]:
        """The best documents for a query, at most `count`, best first; equals stand in the catalogue's order.

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
            # Of those that share the last place, the first in the catalogue's order.
            hits = np.concatenate([above, hits[found == last][: count - len(above)]])
        order = np.lexsort((hits, -scores[hits]))
        return tuple(hits[order].tolist())
