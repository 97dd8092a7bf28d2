"""What the errors of other libraries become: one line of bounded length."""

from __future__ import annotations

import pytest

from empg.errors import UserError, described, failures_as, message_of


def test_the_message_of_an_error_is_one_line_of_bounded_length() -> None:
    assert message_of(ValueError("two\n  lines\tof text")) == "two lines of text"
    assert message_of(ValueError("x" * 1_000)) == "x" * 200
    assert message_of(OSError("x" * 1_000), 400) == "x" * 400
    assert message_of(KeyError()) == ""


def test_an_unknown_error_is_described_with_its_class() -> None:
    assert described(KeyError("a\nb")) == r"KeyError: 'a\nb'"
    assert described(RuntimeError("a\nb")) == "RuntimeError: a b"
    assert len(described(RuntimeError("x" * 1_000))) == 300


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (OSError("full"), UserError, "no space: full"),
        (OSError(), OSError, ""),
        (KeyboardInterrupt("stop"), KeyboardInterrupt, "stop"),
        (UserError("one line"), UserError, "one line"),
    ],
)
def test_a_failure_becomes_a_user_error_where_there_is_a_line_for_it(
    raised: BaseException, kind: type[BaseException], message: str
) -> None:
    with pytest.raises(kind) as caught, failures_as(lambda error: f"no space: {error}" if str(error) else None):
        raise raised
    assert str(caught.value) == message
