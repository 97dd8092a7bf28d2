"""Hand-computed scores of answers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.environments.deepsearch.scoring import normalize, score


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The  Beatles!", "beatles"),
        ("a tale of an apple", "tale of apple"),
        ("U.S.A.", "usa"),
        ("theatre", "theatre"),  # articles are removed only as whole words
        ("Café  del Mar", "café del mar"),
        ("the", ""),
    ],
)
def test_normalisation(text: str, expected: str) -> None:
    assert normalize(text) == expected


@pytest.mark.parametrize(
    ("given", "right", "em", "f1", "cover"),
    [
        ("Paris", ["paris"], 1, 1, 1),
        ("The city of Paris", ["Paris"], 0, 2 / 4, 1),  # city of paris: 1 of 3 tokens, all of 1
        ("Parisian", ["Paris"], 0, 0, 0),
        ("Barack Obama", ["Barack H. Obama", "Obama"], 0, 4 / 5, 1),  # 2 of 2, 2 of 3
        ("no", ["no"], 1, 1, 1),
        ("no one", ["no"], 0, 0, 1),  # a verdict matches whole or not at all
        ("yes", ["no"], 0, 0, 0),
        ("", ["Paris"], 0, 0, 0),
        ("1,889", ["1889"], 1, 1, 1),
        ("big big dog", ["big dog"], 0, 4 / 5, 1),  # a repeated token counts once
        ("anything", [], 0, 0, 0),
        ("", ["the"], 0, 0, 0),  # if normalisation leaves nothing, the lower-cased text is compared
        ("!", ["The The"], 0, 0, 0),
        ("the  the", ["The The"], 1, 1, 1),
        ("a band the the", ["The The"], 0, 4 / 6, 1),
        ("something", ["the"], 0, 0, 0),
    ],
)
def test_hand_computed_scores(given: str, right: list[str], em: float, f1: float, cover: float) -> None:
    assert score(given, right, "em") == em
    assert score(given, right, "f1") == pytest.approx(f1)
    assert score(given, right, "cover_em") == cover


@pytest.mark.parametrize(
    ("given", "right", "expected"),
    [
        ("Parisian", ["Paris"], 1),  # a substring, not a word
        ("The U.S.A. team", ["usa"], 1),
        ("Paris", ["Parisian"], 0),
        ("nor", ["yes", "no"], 1),
        ("", ["Paris"], 0),
        ("anything", ["the"], 0),  # Search-R1 gives 1: nothing is left of the correct answer
        ("anything", [], 0),
    ],
)
def test_the_substring_match_of_search_r1(given: str, right: list[str], expected: float) -> None:
    assert score(given, right, "sub_em") == expected


@given(st.text(max_size=40), st.lists(st.text(max_size=40), max_size=4))
def test_scores_are_in_0_to_1_and_an_exact_match_scores_1(given: str, right: list[str]) -> None:
    em, f1, cover, contained = (score(given, right, metric) for metric in ("em", "f1", "cover_em", "sub_em"))
    assert 0.0 <= f1 <= 1.0
    assert em in (0.0, 1.0)
    assert contained >= cover
    if em:
        assert f1 == cover == contained == 1.0


@given(st.text(max_size=40), st.lists(st.text(max_size=20), min_size=1, max_size=4))
def test_more_correct_answers_never_lower_the_score(given: str, right: list[str]) -> None:
    for metric in ("em", "f1", "cover_em", "sub_em"):
        assert score(given, right, metric) >= score(given, right[:1], metric)
