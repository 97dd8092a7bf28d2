"""Web search through a provider's API. Responses are validated, and each search is paid for only once (`cache`).

A `Provider` describes the request and the position of the results in the response. API keys come from environment
variables and are sent in a header; they never appear in a URL, a message or the cache. A URL that comes from a variable
may contain a password, so the cache has its hash only.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empg.environments.deepsearch.retrieval.query import check_count, clean_query
from empg.environments.deepsearch.retrieval.served import pack_hits, unpack_hits
from empg.environments.deepsearch.world import Document, Hit
from empg.errors import UserError
from empg.web.cache import DiskCache
from empg.web.client import HttpClient, RequestPolicy, read_variable
from empg.web.endpoints import endpoint, server_key
from empg.web.errors import ServiceError
from empg.web.text import clean_text

REQUEST_POLICY = RequestPolicy()  # the default
MAX_SNIPPET = 4_000  # characters
MAX_TITLE = 300
MAX_ADDRESS = 2_000
_SHORT = 400  # characters; two of the providers reject longer queries
_TAG = re.compile(r"</?[a-zA-Z][^<>]{0,200}>")


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to a provider."""

    method: str
    headers: dict[str, str] = field(default_factory=dict)
    params: dict[str, str | int] | None = None
    payload: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Provider:
    """A search engine with an API.

    Attributes:
        name: name in recipes.
        variable: environment variable of its API key, or of its URL if it has no key.
        url: its URL; "" if the variable contains it.
        ask: builds the request from query, number of hits and key.
        path: keys that lead to the list of results in the response.
        keys: keys of a result's address, title and snippet.
    """

    name: str
    variable: str
    url: str
    ask: Callable[[str, int, str], Ask]
    path: tuple[str, ...]
    keys: tuple[str, str, str]


def _serper(query: str, k: int, key: str) -> Ask:
    return Ask("POST", {"X-API-KEY": key}, payload={"q": query, "num": k})


def _tavily(query: str, k: int, key: str) -> Ask:
    payload = {"query": query[:_SHORT], "max_results": min(k, 20)}
    return Ask("POST", {"Authorization": f"Bearer {key}"}, payload=payload)


def _brave(query: str, k: int, key: str) -> Ask:
    short = " ".join(query.split()[:50])[:_SHORT]  # it also rejects queries of more than 50 words
    return Ask(
        "GET", {"X-Subscription-Token": key, "Accept": "application/json"}, params={"q": short, "count": min(k, 20)}
    )


def _searxng(query: str, k: int, key: str) -> Ask:
    return Ask("GET", params={"q": query, "format": "json"})


PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider(
            "serper", "SERPER_API_KEY", "https://google.serper.dev/search", _serper,
            ("organic",), ("link", "title", "snippet"),
        ),
        Provider(
            "tavily", "TAVILY_API_KEY", "https://api.tavily.com/search", _tavily,
            ("results",), ("url", "title", "content"),
        ),
        Provider(
            "brave", "BRAVE_API_KEY", "https://api.search.brave.com/res/v1/web/search", _brave,
            ("web", "results"), ("url", "title", "description"),
        ),
        Provider("searxng", "SEARXNG_URL", "", _searxng, ("results",), ("url", "title", "content")),
    )
}  # fmt: skip


class WebSearch:
    """A web search engine as a retriever; safe to use from several threads.

    The document of a hit has the address (`id`), title and snippet of a page. Its score is 1 / rank.

    Args:
        provider: a `Provider`, or the name of one in `PROVIDERS`.
        cache: folder for results by provider (of SearXNG the hash of its URL), query and k; None disables the cache.
        request_policy: timeout, attempts and rate (`per_second`: providers allow 1 to 50).

    Raises:
        UserError: the provider is unknown, or its environment variable is not set.
    """

    def __init__(
        self, provider: str | Provider, cache: Path | None = None, request_policy: RequestPolicy = REQUEST_POLICY
    ) -> None:
        self._provider = PROVIDERS.get(provider) if isinstance(provider, str) else provider
        if self._provider is None:
            raise UserError(f"unknown search provider {provider!r}: expected one of {', '.join(PROVIDERS)}")
        setting = read_variable(self._provider.variable, f"{self._provider.name} requires this environment variable")
        self._key, self._url = setting, self._provider.url
        self._server = self._url  # in the keys of the cache
        if not self._url:
            if not setting.startswith(("http://", "https://")):
                raise UserError(f"{self._provider.variable} is not a URL: expected http://HOST:PORT")
            self._key, self._url = "", endpoint(setting, "/search")
            self._server = server_key(self._url)
        self._http = HttpClient(request_policy)
        self._cache = None if cache is None else DiskCache(cache)

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return at most `k` hits per query, in the provider's order. An empty query has no hits.

        Raises:
            ServiceError: the provider is unavailable, rejects the request, or sends an invalid response.
        """
        check_count(k)
        return [self._search(clean_query(query), k) for query in queries]

    def _search(self, query: str, k: int) -> list[Hit]:
        if not query:
            return []
        assert self._provider is not None
        key = (self._provider.name, self._server, query, k)
        cached = None if self._cache is None else unpack_hits(self._cache.get(*key))
        if cached is not None:
            return cached
        ask = self._provider.ask(query, k, self._key)
        answer = self._http.json(ask.method, self._url, headers=ask.headers, params=ask.params, payload=ask.payload)
        hits = read_results(answer, self._provider, k)
        if self._cache is not None and hits:  # an empty result may be temporary, so it is not cached
            self._cache.put(pack_hits(hits), *key)
        return hits


def read_results(answer: Any, provider: Provider, k: int) -> list[Hit]:
    """Return the first `k` pages of a provider's response with distinct addresses.

    Results without an address or a title are skipped.

    Raises:
        ServiceError: the response does not have the provider's format.
    """
    for name in provider.path:
        if not isinstance(answer, dict):
            raise ServiceError(f"{provider.name} returned an invalid response: expected a list of results")
        answer = answer.get(name, {} if name != provider.path[-1] else [])
    if not isinstance(answer, list):
        raise ServiceError(f"{provider.name} returned an invalid response: expected a list of results")
    pages: dict[str, Document] = {}
    for result in answer:
        if not isinstance(result, dict):
            raise ServiceError(f"{provider.name} returned an invalid response: expected a list of results")
        address, title, snippet = (result.get(name) for name in provider.keys)
        if not isinstance(address, str) or not isinstance(title, str):
            continue
        address = clean_text(address.strip())
        if not address.isprintable() or " " in address or len(address) > MAX_ADDRESS:
            continue  # it could look like several lines, and no browser would open it
        if address.startswith(("http://", "https://")) and len(pages) < k:
            shown = _plain(snippet, MAX_SNIPPET) if isinstance(snippet, str) else ""
            pages.setdefault(address, Document(address, _plain(title, MAX_TITLE), shown))
    return [Hit(page, 1 / rank) for rank, page in enumerate(pages.values(), 1)]


def _plain(text: str, longest: int) -> str:
    """Return a text on one line, without the tags that mark matching words, cut to `longest` characters."""
    return " ".join(html.unescape(_TAG.sub("", clean_text(text[: 2 * longest]))).split())[:longest]
