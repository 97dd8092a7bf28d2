"""Text that a model or a file brings is shown, not obeyed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.plain_text import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a mug\tand\na fridge: 3 °C, 冰箱, \u05d0\u05d1, 👍🏽, 1\u00a0kg", None),  # unchanged
        ("left\u202eright\u202c", "left⟦U+202E⟧right⟦U+202C⟧"),
        ("\u2066\u2067\u2068\u2069", "⟦U+2066⟧⟦U+2067⟧⟦U+2068⟧⟦U+2069⟧"),
        ("\u200e\u200f\u061c", "⟦U+200E⟧⟦U+200F⟧⟦U+061C⟧"),
        ("in\u200bvis\u2060ible\ufeff", "in⟦U+200B⟧vis⟦U+2060⟧ible⟦U+FEFF⟧"),
        ("\x1b[2J\x1b]0;title\x07", "⟦U+001B⟧[2J⟦U+001B⟧]0;title⟦U+0007⟧"),
        ("\x9b31m\x00\x7f\b", "⟦U+009B⟧31m⟦U+0000⟧⟦U+007F⟧⟦U+0008⟧"),
        ("one\r\ntwo\rthree\u2028four", "one\ntwo⟦U+000D⟧three⟦U+2028⟧four"),
        ("tag \U000e0041\ud800\ue000", "tag ⟦U+E0041⟧⟦U+D800⟧⟦U+E000⟧"),
    ],
)
def test_control_characters_are_shown(text: str, shown: str | None) -> None:
    assert visible(text) == (text if shown is None else shown)


@given(st.text(st.characters()))
def test_nothing_is_left_to_obey(text: str) -> None:
    shown = visible(text)
    assert all(c.isprintable() or c in "\n\t" or c.isspace() for c in shown)
    assert not set(shown) & set("\x1b\r\x85\u2028\u2029\u202a\u202e\u2066\u2069\u200e\u061c")
    assert visible(shown) == shown
