"""Texts and numbers of a run on their way into a page."""

from __future__ import annotations

import math

import pytest

from empg.report.markup import embed_json, encodable, extent, short


def test_json_in_a_page_cannot_end_its_element_and_shows_controls() -> None:
    text = str(embed_json({"a": "</script><!--\u202e"}))
    assert "<" not in text
    assert "U+202E" in text


@pytest.mark.parametrize(
    ("values", "ends"),
    [([0.5, -1.0, 0.2], [-1.0, 0.5]), ([0.5, 0.5], [0.5]), ([None, math.nan, 2], [2.0]), ([None], []), ([], [])],
)
def test_an_extent_is_of_the_finite_numbers(values: list[float | None], ends: list[float]) -> None:
    assert extent(values) == ends


def test_a_number_that_json_cannot_hold_is_null_wherever_it_is() -> None:
    assert embed_json({"a": [math.inf, (1.5, -math.inf)], "b": math.nan}) == '{"a":[null,[1.5,null]],"b":null}'
    assert encodable({"a": [math.inf, "\x1b", 2, True]}) == {"a": [None, "⟦U+001B⟧", 2, True]}


def test_a_long_text_says_how_much_is_left_out() -> None:
    assert short("x" * 12, 10) == "x" * 10 + " … (2 more characters)"
    assert short(None, 10) == ""
