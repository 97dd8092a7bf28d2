"""Query a retrieval server with Search-R1's API: `POST /retrieve {queries, topk, return_scores}`.

The server may be untrusted, so its response is validated completely before it is used or cached.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from empg.environments.deepsearch.retrieval.contents import split_contents
from empg.environments.deepsearch.retrieval.query import check_count, clean_query
from empg.environments.deepsearch.world import Document, Hit
from empg.errors import UserError
from empg.web.cache import DiskCache
from empg.web.client import HttpClient, RequestPolicy
from empg.web.endpoints import endpoint, server_key
from empg.web.errors import ServiceError
from empg.web.text import clean_text

REQUEST_POLICY = RequestPolicy()  # the default
QUERIES_AT_ONCE = 64  # queries per request
MAX_TEXT = 100_000  # characters of a document; the rest is cut
MAX_NAME = 200  # characters of an id that is the beginning of the text


class ServedRetriever:
    """Searches the corpus of a retrieval server; safe to use from several threads.

    Args:
        url: URL of the server, with or without `/retrieve` and a query.
        cache: folder for responses by hash of the URL, query and k; None disables the cache.
        request_policy: timeout, attempts and rate.

    Raises:
        UserError: the URL is not http or https.
    """

    def __init__(self, url: str, cache: Path | None = None, request_policy: RequestPolicy = REQUEST_POLICY) -> None:
        if not url.startswith(("http://", "https://")):
            raise UserError(f"invalid retrieval server URL: expected http://HOST:PORT, got {url!r}")
        self._url = endpoint(url, "/retrieve")
        self._server = server_key(self._url)
        self._http = HttpClient(request_policy)
        self._cache = None if cache is None else DiskCache(cache)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return at most `k` hits per query, in the server's order.

        Raises:
            ServiceError: the server is unavailable, or its response does not follow the protocol.
        """
        check_count(k)
        cleaned = [clean_query(query) for query in queries]
        found: dict[str, list[Hit]] = {}
        missing: list[str] = []
        for query in dict.fromkeys(cleaned):
            cached = None if self._cache is None else unpack_hits(self._cache.get(self._server, query, k))
            if cached is None:
                missing.append(query)
            else:
                found[query] = cached
        for start in range(0, len(missing), QUERIES_AT_ONCE):
            asked = missing[start : start + QUERIES_AT_ONCE]
            for query, hits in zip(asked, self._ask(asked, k), strict=True):
                found[query] = hits
                if self._cache is not None:
                    self._cache.put(pack_hits(hits), self._server, query, k)
        return [list(found[query]) for query in cleaned]

    def _ask(self, queries: list[str], k: int) -> list[list[Hit]]:
        payload = {"queries": queries, "topk": k, "return_scores": True}
        return read_answer(self._http.json("POST", self._url, payload=payload), len(queries), k)


def read_answer(answer: Any, queries: int, k: int) -> list[list[Hit]]:
    """Parse the hits of a `/retrieve` response, at most `k` per query.

    Three formats are accepted: documents with scores (Search-R1's corpus servers), documents without scores (its web
    servers), and bare documents (without `return_scores`). A missing score is replaced by 1 / rank.

    Raises:
        ServiceError: the response does not follow the protocol; the message gives the position.
    """
    lists = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(lists, list) or len(lists) != queries:
        raise ServiceError(f"the retrieval server's answer has no `result` with {queries} lists")
    hits: list[list[Hit]] = []
    for number, entries in enumerate(lists):
        if not isinstance(entries, list):
            raise ServiceError(f"the retrieval server's answer is wrong: result[{number}] must be a list")
        hits.append(_read_hits(entries[:k], f"result[{number}]"))
    return hits


def pack_hits(hits: Sequence[Hit]) -> list[list[str | float]]:
    """Convert hits to JSON for the cache."""
    return [[hit.document.id, hit.document.title, hit.document.text, hit.score] for hit in hits]


def unpack_hits(packed: Any) -> list[Hit] | None:
    """Convert the output of `pack_hits` back to hits. Return None for any other value."""
    try:
        return [Hit(Document(name, title, text), float(score)) for name, title, text, score in packed]
    except (TypeError, ValueError):
        return None


def _read_hits(entries: list[Any], place: str) -> list[Hit]:
    hits, seen = [], Counter[str]()
    for rank, entry in enumerate(entries):
        hit = _read_hit(entry, f"{place}[{rank}]", 1 / (rank + 1))
        name = hit.document.id
        seen[name] += 1
        if seen[name] > 1:  # passages of a page without ids share its title as id, so a number is appended
            hit = replace(hit, document=replace(hit.document, id=f"{name} #{seen[name]}"))
        hits.append(hit)
    return hits


def _read_hit(entry: Any, place: str, unscored: float) -> Hit:
    bare = isinstance(entry, dict) and "document" not in entry
    document = entry if bare else entry.get("document") if isinstance(entry, dict) else None
    contents = document.get("contents") if isinstance(document, dict) else None
    if not isinstance(document, dict) or not isinstance(contents, str):
        raise ServiceError(f"the retrieval server's answer is wrong: {place} has no document with contents")
    score = unscored if bare else entry.get("score", unscored)
    # Compared without conversion, because an integer of a thousand digits cannot become a float.
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not -1e300 < score < 1e300:
        raise ServiceError(f"the retrieval server's answer is wrong: the score of {place} must be a number")
    title, text = split_contents(clean_text(contents[:MAX_TEXT]))
    # Some of Search-R1's servers send no id.
    name = title or " ".join(text[:MAX_NAME].split()) if document.get("id") is None else document["id"]
    if not isinstance(name, (str, int)) or isinstance(name, bool):
        raise ServiceError(f"the retrieval server's answer is wrong: the id of {place} must be a string")
    return Hit(Document(clean_text(str(name)), title, text), float(score))
