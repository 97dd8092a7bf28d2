"""The analyzer's terms, by hand and as Lucene's real analyzer gives them (anserini.json)."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from empg.environments.analysis import MAX_WORD, analyze
from tests.environments.facts import ANSERINI


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("The Women's shoes are for running", ["women", "shoe", "run"]),
        ("women’s MEN'S boys＇s", ["women", "men", "boi"]),
        ("easy-clean, machine/washable", ["easi", "clean", "machin", "washabl"]),
        ("4.5 inch 1,000 pieces", ["4.5", "inch", "1,000", "piec"]),
        ("u.s.a. o'neill color:red", ["u.s.a", "o'neil", "color:r"]),
        ("color: red, and size: x-large", ["color", "red", "size", "x", "larg"]),
        ("xs us s", ["xs", "us", "s"]),
        ("café cafe\u0301 co\u00adop 24w x 36h", ["café", "cafe\u0301", "co\u00adop", "24w", "x", "36h"]),
        ("size_8 _ __a__", ["size_8", "__a__"]),
        ("to be or not", []),
        ("漢字と red カメラ한국어", ["漢", "字", "と", "red", "カメラ", "한국어"]),
        ("usb充電器3個 タブレット用", ["usb", "充", "電", "器", "3", "個", "タブレット", "用"]),
        ("ひらがな々", ["ひ", "ら", "が", "な", "々"]),
        ("★★ ❤️ © 👍🏽 🇺🇸", ["★", "★", "❤️", "©", "👍🏽", "🇺🇸"]),
        ("", []),
    ],
)
def test_terms(text: str, terms: list[str]) -> None:
    assert analyze(text) == terms


@pytest.mark.parametrize("text", ANSERINI["terms"])
def test_terms_are_those_of_lucene(text: str) -> None:
    assert analyze(text) == ANSERINI["terms"][text]


def test_a_long_word_is_cut_into_pieces() -> None:
    assert analyze("b" * (2 * MAX_WORD + 3)) == ["b" * MAX_WORD, "b" * MAX_WORD, "bbb"]
    assert analyze("b" * MAX_WORD + "." + "c" * MAX_WORD) == ["b" * MAX_WORD, "c" * MAX_WORD]


@given(st.text(max_size=300) | st.text("a'.:1_é★\u200d\ufe0f\u0301", max_size=600))
@settings(max_examples=200)
def test_any_text_has_terms_without_white_space(text: str) -> None:
    assert all(term and not any(letter.isspace() for letter in term) for term in analyze(text))


@pytest.mark.parametrize(
    "unit", ["_", "\u200d", "\u0301", "a", "1_", "a'", "1,", 'ש"', "🇺", "★\u200d", "_\u0301", "#\ufe0f"]
)
def test_the_time_is_linear_in_the_text(unit: str) -> None:
    text = unit * (100_000 // len(unit))
    assert len(analyze(text)) <= len(text)  # with quadratic time this takes minutes
    assert len(analyze(f"a{text}")) <= len(text)
