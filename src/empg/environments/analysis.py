"""Text analysis for BM25: the terms of Lucene's English analyzer and the BM25 constants of Anserini.

Words follow the Unicode rules that matter for pages and products (each ideograph is one word). The possessive 's is
removed. Words are lower-cased, 33 stop words are dropped, and Porter's stemmer is applied.
"""

from __future__ import annotations

import re
from array import array
from functools import lru_cache

import Stemmer

K1, B = 0.9, 0.4  # Anserini's constants of BM25

STOP_WORDS = frozenset(
    """
    a an and are as at be but by for if in into is it no not of on or such that the their then there these they this
    to was will with
    """.split()  # noqa: SIM905
)
# Each ideograph and each hiragana character is one word; a run of katakana is one word.
_ALONE = (
    r"\u2e80-\u2fd5\u3005\u3007\u3021-\u3029\u3038-\u303b\u3041-\u3096\u309d-\u309f\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufad9\U0001b001-\U0001b11f\U00020000-\U000323af"
)
_KATAKANA = r"\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9d"
_OTHER = rf"[^\W{_ALONE}{_KATAKANA}]+"
# A word may contain a dot, an apostrophe or a colon between letters, and a dot, a comma, a semicolon or an apostrophe
# between digits.
_INSIDE = r"(?<=[^\W\d_])[.'’:·](?=[^\W\d_])|(?<=\d)[.,;'’](?=\d)"
_WORD = re.compile(rf"[{_ALONE}]|[{_KATAKANA}]+|{_OTHER}(?:(?:{_INSIDE}){_OTHER})*")
_MAX_WORD = 255


def analyze(text: str) -> list[str]:
    """Return the terms of a text, in order."""
    stemmed = (_stem(word) for word in _WORD.findall(text.lower()))
    return [term for term in stemmed if term]


@lru_cache(1 << 18)
def _stem(word: str) -> str:
    """Return the term of a lower-case word, or "" for a stop word."""
    if word.endswith(("'s", "’s")):
        word = word[:-2]
    if word in STOP_WORDS or len(word) > _MAX_WORD:
        return ""
    return str(_stemmer().stemWord(word))


@lru_cache(1)
def _stemmer() -> Stemmer.Stemmer:
    return Stemmer.Stemmer("porter", 0)


class TermCounter:
    """Collects streamed documents as arrays of term numbers, with four bytes per word."""

    def __init__(self) -> None:
        self.vocabulary: dict[str, int] = {}
        self.documents: list[array[int]] = []

    def add(self, text: str) -> None:
        """Add the next document."""
        vocabulary = self.vocabulary
        self.documents.append(array("i", (vocabulary.setdefault(term, len(vocabulary)) for term in analyze(text))))
