"""YAML from users: the values that people mean, and one line for hostile or mistaken text."""

from __future__ import annotations

import contextlib
import math
import re
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from empg.errors import UserError
from empg.yaml_text import MAX_DEPTH, read_yaml, write_yaml

BOMB = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("a: 1\nb: [x, 2.5, true, null]", {"a": 1, "b": ["x", 2.5, True, None]}),
        ("016", 16),
        ("-0x1f", -31),
        ("0b101", 5),
        ("1_000", 1000),
        ("1:30", "1:30"),
        ("1.0e-4", 1e-4),
        ("[1e-6, 2E5, -1.5e3, .5e1, +1e+2]", [1e-6, 2e5, -1500.0, 5.0, 100.0]),
        ("[1e, e5, 1e5x, '1e5', 0x1e5, 1e-]", ["1e", "e5", "1e5x", "1e5", 0x1E5, "1e-"]),
        (".inf", math.inf),
        ("a: &x {k: 1}\nb: *x", {"a": {"k": 1}, "b": {"k": 1}}),
        ("base: &x {k: 1, l: 2}\nb: {<<: *x, l: 3}", {"base": {"k": 1, "l": 2}, "b": {"k": 1, "l": 3}}),
    ],
)
def test_a_text_has_the_value_that_people_mean(text: str, value: Any) -> None:
    assert read_yaml(text, "x") == value


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("seed: 1\nlr: 2\nseed: 3", "recipe.yaml is not valid YAML: the key 'seed' occurs twice (line 3)"),
        ("a: {b: 1, b: 2}", "the key 'b' occurs twice (line 1)"),
        (BOMB, "recipe.yaml is too large with its aliases expanded"),
        ("a: &a [*a]", "recipe.yaml is too large with its aliases expanded"),
        ("[" * 20_000, f"recipe.yaml is nested too deeply: expected at most {MAX_DEPTH} levels"),
        ("{a: " * 20_000, "nested too deeply"),
        ("- " * 20_000 + "1", "nested too deeply"),
        ("9" * 5_000, "recipe.yaml has a value that cannot be read"),
        ("2026-13-45", "recipe.yaml has a value that cannot be read: month must be in 1..12"),
        ("x" * (1 << 21), "recipe.yaml is too long: expected at most 1,048,576 characters, got 2,097,152"),
        ("a: [1", "recipe.yaml is not valid YAML"),
        ("a: b: c", "recipe.yaml is not valid YAML: mapping values are not allowed here (line 1, column 5)"),
        ("!!python/object/apply:os.getpid []", "recipe.yaml is not valid YAML"),
        ("? [1, 2]\n: 3", "recipe.yaml is not valid YAML"),
        ("a: !!bool maybe", "recipe.yaml has a value that cannot be read"),
        ("a: !!timestamp foo", "recipe.yaml has a value that cannot be read"),
        ("a: !!float ''", "recipe.yaml has a value that cannot be read"),
        ("a: !!set [a]", "recipe.yaml"),
        ("a: !!map [a]", "recipe.yaml"),
        (f"[{'1,' * 400_000}]", "recipe.yaml is too large: expected at most 100,000 values"),
        ("a: \x00", "recipe.yaml is not valid YAML"),
        ("a: 1\n---\nb: 2", "recipe.yaml is not valid YAML"),
    ],
    ids=lambda text: text[:20],
)
def test_anything_else_is_one_short_line_at_once(text: str, complaint: str) -> None:
    began = time.process_time()
    with pytest.raises(UserError, match=re.escape(complaint)) as caught:
        read_yaml(text, "recipe.yaml")
    assert time.process_time() - began < 5
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


NUMBER_LIKE = st.from_regex(r"[-+.0-9eE_:xb]{1,8}")
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), NUMBER_LIKE
)  # fmt: skip


@example({"\x85": "a\u2028b", "c": ["\u2029", "\x85\x85", "1e5", "08", "ü"]})
@given(
    st.recursive(
        PLAIN,
        lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=5), values, max_size=4),
        max_leaves=8,
    )
)
def test_what_is_written_is_read_again(value: Any) -> None:
    for in_one_line in (False, True):
        with contextlib.suppress(UserError):  # a control character
            assert read_yaml(write_yaml(value, in_one_line=in_one_line), "x") == value


@given(st.text(max_size=200))
def test_any_text_is_a_value_or_a_user_error(text: str) -> None:
    with contextlib.suppress(UserError):
        read_yaml(text, "x")
