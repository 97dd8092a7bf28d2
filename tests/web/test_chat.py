"""The reply in the response of a chat model, whatever the server sent."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from empg.web.chat import NoCompletionError, read_message

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["choices", "message", "content"]), inner, max_size=2)
    ),
)


@given(_JSON)
def test_any_json_is_a_reply_or_an_error(answer: Any) -> None:
    try:
        reply, message = read_message(answer)
    except NoCompletionError:
        return
    assert reply == (message.get("content") or "")
    assert isinstance(reply, str)
