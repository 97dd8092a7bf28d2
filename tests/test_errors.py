"""What the errors of other libraries become: one line of bounded length."""

from __future__ import annotations

from empg.errors import described, message_of


def test_the_message_of_an_error_is_one_line_of_bounded_length() -> None:
    assert message_of(ValueError("two\n  lines\tof text")) == "two lines of text"
    assert message_of(ValueError("x" * 1_000)) == "x" * 200
    assert message_of(OSError("x" * 1_000), 400) == "x" * 400
    assert message_of(KeyError()) == ""


def test_an_unknown_error_is_described_with_its_class() -> None:
    assert described(KeyError("a\nb")) == r"KeyError: 'a\nb'"
    assert described(RuntimeError("a\nb")) == "RuntimeError: a b"
    assert len(described(RuntimeError("x" * 1_000))) == 300
