"""Phrases that a world says all the time, found so that each can be one token.

"You arrive at", "I hold nothing." and the like are most of what an agent reads and writes in a world of fixed words.
As one token each they halve the length of an episode, and with it the work of reading, writing and learning. Names and
numbers must stay apart, because they are what a policy copies from place to place.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable

_PIECE = re.compile(r" ?[^\W\d_]+| ?\d+| ?[^\s\w]+|\s+| ?_+")  # as a byte-level BPE cuts text into words
_GOES_ON = 0.5  # how often a piece must be followed by another to be merged with it ...
_PRECEDED = 0.9  # ... or preceded; more, because a name that fills a slot is often preceded by the same words
_ENDS = (".", "!", "?", ":", ";")  # of sentences
_ROUNDS = 24
_PER_ROUND = 8


def find_phrases(texts: Iterable[str], most: int) -> list[str]:
    """At most `most` phrases of two or more words, the greatest saving first; each is in one text of forty at least.

    Neighbours are merged, as in byte-pair encoding but of whole words, where one calls for the other. Text is cut alike
    wherever it stands: a phrase never holds a digit, goes over the end of a sentence, or is the beginning of a longer
    word somewhere in the texts.
    """
    texts = list(texts)
    at_least = max(2, len(texts) // 40)
    lines = [_PIECE.findall(text) for text in texts]
    for _ in range(_ROUNDS):
        merges = _firm_pairs(lines, at_least)
        if not merges:
            break
        lines = [_merged(line, merges) for line in lines]
    counts = Counter(piece for line in lines for piece in line)
    words = {piece: len(_PIECE.findall(piece)) for piece in counts}
    found = [p for p in counts if words[p] > 1 and counts[p] >= at_least and p == p.rstrip(" ")]
    found.sort(key=lambda p: (-counts[p] * (words[p] - 1), p))
    whole = "\n".join(texts)
    ends_a_word = [p for p in found if not (p[-1].isalpha() and re.search(re.escape(p) + r"[^\W\d_]", whole))]
    return ends_a_word[:most]


def _firm_pairs(lines: list[list[str]], at_least: int) -> set[tuple[str, str]]:
    """The most frequent pairs of neighbours that belong together; no piece is in two of them."""
    single = Counter(piece for line in lines for piece in line)
    pairs = Counter(pair for line in lines for pair in itertools.pairwise(line))
    chosen: set[tuple[str, str]] = set()
    taken: set[str] = set()
    for (left, right), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0])):
        if count < at_least or len(chosen) == _PER_ROUND:
            break
        firm = count >= _GOES_ON * single[left] or count >= _PRECEDED * single[right]
        if not firm or {left, right} & taken:
            continue
        if any(c.isdigit() for c in left + right) or "\n" in left + right or left.endswith(_ENDS):
            continue
        chosen.add((left, right))
        taken |= {left, right}
    return chosen


def _merged(line: list[str], merges: set[tuple[str, str]]) -> list[str]:
    out: list[str] = []
    index = 0
    while index < len(line):
        if (pair := tuple(line[index : index + 2])) in merges:
            out.append("".join(pair))
            index += 2
        else:
            out.append(line[index])
            index += 1
    return out
