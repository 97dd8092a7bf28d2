"""Porter's stemmer: the paper's examples, Lucene's departures, and the stems that Lucene gives (anserini.json)."""

from __future__ import annotations

import pytest

from empg.environments.analysis import STOP_WORDS
from empg.environments.porter import stem
from tests.environments.facts import ANSERINI


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("caresses", "caress"), ("ponies", "poni"), ("feed", "feed"), ("agreed", "agre"), ("plastered", "plaster"),
        ("bled", "bled"), ("motoring", "motor"), ("sing", "sing"), ("conflated", "conflat"), ("sized", "size"),
        ("hopping", "hop"), ("falling", "fall"), ("filing", "file"), ("happy", "happi"), ("sky", "sky"),
        ("relational", "relat"), ("conditional", "condit"), ("vietnamization", "vietnam"), ("hopefulness", "hope"),
        ("triplicate", "triplic"), ("electrical", "electr"), ("adoption", "adopt"), ("probate", "probat"),
        ("rate", "rate"), ("controll", "control"), ("roll", "roll"),
        ("assembly", "assembl"), ("technology", "technolog"),  # departures of Porter's later programs
        ("trekking", "trek"),  # any double consonant
        ("xs", "xs"), ("s", "s"), ("", ""),  # words of two letters stay
    ],
)  # fmt: skip
def test_stems(word: str, expected: str) -> None:
    assert stem(word) == expected


def test_stems_are_those_of_lucene() -> None:
    words = {word: expected for word, expected in ANSERINI["stems"].items() if word not in STOP_WORDS}
    assert len(words) > 1_000
    assert {word: stem(word) for word in words} == words
