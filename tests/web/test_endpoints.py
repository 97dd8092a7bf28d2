"""The addresses of APIs are completed, and cached only as a hash."""

from __future__ import annotations

import pytest

from empg.web.endpoints import endpoint, server_key

AZURE = "https://x.openai.azure.com/openai/deployments/g"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://h/v1", "https://h/v1/chat/completions"),
        ("https://h/v1/", "https://h/v1/chat/completions"),
        ("https://h/v1/chat/completions", "https://h/v1/chat/completions"),
        ("https://h/v1/chat/completions/", "https://h/v1/chat/completions"),
        ("https://h", "https://h/chat/completions"),
        (f"{AZURE}?api-version=2024-06-01", f"{AZURE}/chat/completions?api-version=2024-06-01"),
        (f"{AZURE}/chat/completions?api-version=a/b", f"{AZURE}/chat/completions?api-version=a/b"),
        ("http://user:word@[::1]:80/#part", "http://user:word@[::1]:80/chat/completions"),
    ],
)
def test_a_path_is_added_once_and_the_query_is_kept(given: str, expected: str) -> None:
    assert endpoint(given, "/chat/completions") == expected


def test_the_key_of_a_server_differs_by_address_and_hides_it() -> None:
    keys = {server_key(f"http://user:{word}@h") for word in ("one", "two", "\ud800")}
    assert {len(key) for key in keys} == {64}
    assert len(keys) == 3
