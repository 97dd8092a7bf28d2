"""Find frequent phrases of an environment, so that each can be one token.

"You arrive at", "I hold nothing." and similar phrases are most of the text in an environment with fixed wording. With
one token each, an episode has half as many tokens, and rollout and update need less computation. Names and numbers must
stay separate tokens, because the policy copies them.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterable

_PIECE = re.compile(r" ?[^\W\d_]+| ?\d+| ?[^\s\w]+|\s+| ?_+")  # words as in byte-level BPE
_FOLLOWED = 0.5  # minimum share of a piece's occurrences that the next piece follows ...
_PRECEDED = 0.9  # ... or that the previous piece precedes; higher, since the words before a name are often equal
_ENDS = (".", "!", "?", ":", ";")  # ends of sentences
_ROUNDS = 24
_PER_ROUND = 8


def find_phrases(texts: Iterable[str], most: int) -> list[str]:
    """Return at most `most` phrases of two or more words, the largest saving first.

    Each phrase occurs at least once per forty texts. Neighbours are merged, as in byte-pair encoding but with whole
    words, where one predicts the other. So that text is split in the same way everywhere, a phrase never contains a
    digit, never crosses the end of a sentence, and is never the beginning of a longer word in the texts.
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
    """Return the most frequent pairs of neighbours that predict each other; a piece is in at most one of them."""
    single = Counter(piece for line in lines for piece in line)
    pairs = Counter(pair for line in lines for pair in itertools.pairwise(line))
    chosen: set[tuple[str, str]] = set()
    taken: set[str] = set()
    for (left, right), count in sorted(pairs.items(), key=lambda item: (-item[1], item[0])):
        if count < at_least or len(chosen) == _PER_ROUND:
            break
        firm = count >= _FOLLOWED * single[left] or count >= _PRECEDED * single[right]
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
