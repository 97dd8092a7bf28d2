"""Addresses of APIs: where a request goes, and by what name a cache knows the server."""

from __future__ import annotations

import hashlib


def endpoint(url: str, path: str) -> str:
    """Return the address of a path of an API.

    Args:
        url: URL of the API, with or without the path, a slash at its end, and a query, which is kept (Azure OpenAI
            needs `?api-version=`). Its fragment is left out, because it is never sent.
        path: the path, such as `/retrieve`.
    """
    address, mark, query = url.partition("#")[0].partition("?")
    address = address.rstrip("/")
    return (address if address.endswith(path) else address + path) + mark + query


def server_key(url: str) -> str:
    """Return the SHA-256 of a URL, for the key of a cache; the URL itself may contain a password."""
    return hashlib.sha256(url.encode("utf-8", "replace")).hexdigest()
