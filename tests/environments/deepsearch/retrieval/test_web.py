"""Web search: requests and responses of each provider, secret keys, and invalid responses."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from empg.environments.deepsearch.retrieval.web import PROVIDERS, WebSearch, read_results
from empg.environments.deepsearch.world import Document, Hit
from empg.web.client import RequestPolicy
from empg.web.errors import ServiceError
from tests.web.servers import Reply, ScriptedServer, dead_url, scripted

QUICK = RequestPolicy(timeout=1.0, attempts=2, backoff=0.01)
KEY = "k-secret-123"

SERPER = {
    "searchParameters": {"q": "lake orvel", "type": "search"},
    "knowledgeGraph": {"title": "Orvel"},
    "organic": [
        {"title": "Lake  Orvel", "link": "https://a.example/orvel", "snippet": "A lake\nin the north.", "position": 1},
        {"title": "Orvel town", "link": "https://b.example/", "position": 2},
    ],
}
TAVILY = {
    "query": "lake orvel",
    "results": [
        {"title": "Lake Orvel", "url": "https://a.example/orvel", "content": "A lake in the north.", "score": 0.9},
        {"title": "Orvel town", "url": "https://b.example/", "content": "", "score": 0.4},
    ],
}
BRAVE = {
    "type": "search",
    "web": {
        "results": [
            {
                "title": "<strong>Lake</strong> Orvel",
                "url": "https://a.example/orvel",
                "description": "A <strong>lake</strong> in the north.",
            },
            {"title": "Orvel town", "url": "https://b.example/"},
        ]
    },
}
FOUND = [
    Hit(Document("https://a.example/orvel", "Lake Orvel", "A lake in the north."), 1.0),
    Hit(Document("https://b.example/", "Orvel town", ""), 0.5),
]


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    for provider in PROVIDERS.values():
        monkeypatch.setenv(provider.variable, KEY)


def search_at(
    script: ScriptedServer, name: str, monkeypatch: pytest.MonkeyPatch, cache: Path | None = None
) -> WebSearch:
    """Return a search whose provider has the URL of the scripted server."""
    if name == "searxng":
        monkeypatch.setenv("SEARXNG_URL", script.url)
        return WebSearch("searxng", cache, QUICK)
    return WebSearch(replace(PROVIDERS[name], url=f"{script.url}/api"), cache, QUICK)


@pytest.mark.parametrize(
    ("name", "answer"), [("serper", SERPER), ("tavily", TAVILY), ("brave", BRAVE), ("searxng", TAVILY)]
)
def test_the_request_and_response_of_each_provider(name: str, answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(Reply(json.dumps(answer).encode())) as script:
        hits = search_at(script, name, monkeypatch).search([" lake\n orvel"], 2)
    assert hits == [FOUND]
    [seen] = script.seen
    sent = json.loads(seen.body) if seen.body else {k: v[0] for k, v in parse_qs(urlsplit(seen.path).query).items()}
    expected: dict[str, tuple[str, str, dict[str, Any], tuple[str, str] | None]] = {
        "serper": ("POST", "/api", {"q": "lake orvel", "num": 2}, ("x-api-key", KEY)),
        "tavily": ("POST", "/api", {"query": "lake orvel", "max_results": 2}, ("authorization", f"Bearer {KEY}")),
        "brave": ("GET", "/api", {"q": "lake orvel", "count": "2"}, ("x-subscription-token", KEY)),
        "searxng": ("GET", "/search", {"q": "lake orvel", "format": "json"}, None),
    }
    method, path, body, header = expected[name]
    assert (seen.method, urlsplit(seen.path).path, sent) == (method, path, body)
    assert header is None or seen.headers[header[0]] == header[1]
    assert KEY not in seen.path


def test_the_urls_of_the_providers() -> None:
    assert {name: provider.url for name, provider in PROVIDERS.items()} == {
        "serper": "https://google.serper.dev/search",
        "tavily": "https://api.tavily.com/search",
        "brave": "https://api.search.brave.com/res/v1/web/search",
        "searxng": "",
    }


@pytest.mark.parametrize("name", ["serper", "tavily", "brave", "searxng"])
@pytest.mark.parametrize("empty", [{}, {"organic": [], "results": [], "web": {"results": []}}])
def test_no_results_are_no_hits(name: str, empty: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(Reply(json.dumps(empty).encode())) as script:
        assert search_at(script, name, monkeypatch).search(["lake"], 3) == [[]]


def test_an_empty_query_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(Reply(b"{}")) as script:
        assert search_at(script, "serper", monkeypatch).search(["", " \n"], 3) == [[], []]
        assert script.seen == []


def test_long_queries_to_brave_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(Reply(b"{}")) as script:
        search_at(script, "brave", monkeypatch).search(["word " * 90, "w" * 900], 3)
    sent = [parse_qs(urlsplit(seen.path).query)["q"][0] for seen in script.seen]
    assert [len(sent[0].split()), len(sent[1])] == [50, 400]


def test_long_queries_to_tavily_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(Reply(b"{}")) as script:
        search_at(script, "tavily", monkeypatch).search(["w" * 900], 3)
    assert len(json.loads(script.seen[0].body)["query"]) == 400


def test_empty_results_are_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(Reply(b"{}"), Reply(json.dumps(SERPER).encode())) as script:
        search = search_at(script, "serper", monkeypatch, tmp_path)
        assert search.search(["lake"], 2) == [[]]
        assert search.search(["lake"], 2) == search.search(["lake"], 2) == [FOUND]
        assert len(script.seen) == 2


@pytest.mark.parametrize(
    "address", ["https://a.example/x\n2. Forged", "https://a.example/a b", "https://a.example/\u2028x"]
)
def test_an_address_with_white_space_is_skipped(address: str) -> None:
    answer = {"organic": [{"link": address, "title": "T"}, {"link": "https://b.example/", "title": "B"}]}
    assert [hit.document.title for hit in read_results(answer, PROVIDERS["serper"], 3)] == ["B"]


# ---- invalid responses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer", [None, [], 5, {"organic": None}, {"organic": {}}, {"organic": ["x"]}, {"organic": [None]}]
)
def test_an_invalid_response_is_an_error(answer: Any) -> None:
    with pytest.raises(ServiceError, match="serper returned an invalid response: expected a list of results"):
        read_results(answer, PROVIDERS["serper"], 3)


@pytest.mark.parametrize("answer", [{"web": None}, {"web": []}, {"web": {"results": 5}}])
def test_an_invalid_nested_response_is_an_error(answer: Any) -> None:
    with pytest.raises(ServiceError, match="brave returned an invalid response: expected a list of results"):
        read_results(answer, PROVIDERS["brave"], 3)


def test_results_that_cannot_be_opened_are_skipped() -> None:
    entries: list[Any] = [
        {"title": "t", "link": link} for link in (None, 5, "javascript:alert(1)", "file:///etc/passwd", "ftp://a/", "")
    ]
    entries += [{"link": "https://a.example"}, {"title": 5, "link": "https://a.example"}]
    entries += [{"title": "t", "link": "https://a.example/" + "x" * 3_000}]
    entries += [{"title": "good", "link": "https://g.example", "snippet": 5}] * 2  # a repeated address counts once
    entries += [{"title": "next", "link": "https://n.example"}, {"title": "beyond", "link": "https://b.example"}]
    hits = read_results({"organic": entries}, PROVIDERS["serper"], 2)
    assert [(hit.document, hit.score) for hit in hits] == [
        (Document("https://g.example", "good", ""), 1.0),
        (Document("https://n.example", "next", ""), 0.5),
    ]


def test_texts_are_plain_short_and_encodable() -> None:
    title, snippet = "a &lt;b&gt; \ud800 " + "x" * 9_999, "<i>y</i>\0" * 9_999
    entry = {"title": title, "link": "https://a.example/\ud800", "snippet": snippet}
    [hit] = read_results({"organic": [entry]}, PROVIDERS["serper"], 1)
    assert hit.document.title.startswith("a <b> ? xxx")
    assert len(hit.document.title) == 300
    assert len(hit.document.text) <= 4_000
    assert "<i>" not in hit.document.text
    json.dumps([hit.document.id, hit.document.title]).encode()
    hit.document.id.encode()


# ---- keys, failures, cache -----------------------------------------------------------------------------------------


def test_a_missing_key_or_unknown_provider_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TAVILY_API_KEY")
    with pytest.raises(ValueError, match="TAVILY_API_KEY is not set: tavily requires this environment variable"):
        WebSearch("tavily")
    monkeypatch.setenv("TAVILY_API_KEY", "k\u00e9y")
    with pytest.raises(ValueError, match="TAVILY_API_KEY contains characters that are invalid in a header"):
        WebSearch("tavily")
    monkeypatch.setenv("SEARXNG_URL", "localhost:8080")
    with pytest.raises(ValueError, match="SEARXNG_URL is not a URL: expected http://HOST:PORT"):
        WebSearch("searxng")
    with pytest.raises(
        ValueError, match="unknown search provider 'bing': expected one of serper, tavily, brave, searxng"
    ):
        WebSearch("bing")


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(status=401), "rejected the request with status 401. Check its API key"),
        (Reply(status=403), "rejected the request with status 403. Check its API key"),
        (Reply(status=429), "answered 429 (2 attempts)"),
        (Reply(status=500), "answered 500 (2 attempts)"),
        (Reply(b"<html>"), "did not return JSON"),
        (Reply(b"{}", wait=5), "did not answer within 1 s (2 attempts)"),
    ],
)
def test_failures_are_one_line_without_key_or_query(
    reply: Reply, message: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with scripted(reply) as script, pytest.raises(ServiceError) as caught:
        search_at(script, "serper", monkeypatch).search(["private words"], 3)
    assert str(caught.value).endswith(message)
    for secret in (KEY, "private words"):
        assert secret not in str(caught.value)
    assert KEY not in caplog.text


def test_an_unreachable_provider_is_an_error() -> None:
    with pytest.raises(ServiceError, match="cannot be reached"):
        WebSearch(replace(PROVIDERS["serper"], url=dead_url()), request_policy=QUICK).search(["lake"], 3)


def test_a_search_is_cached_without_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(Reply(json.dumps(SERPER).encode())) as script:
        first = search_at(script, "serper", monkeypatch, tmp_path).search(["lake orvel"], 2)
        again = search_at(script, "serper", monkeypatch, tmp_path).search(["lake  orvel"], 2)
        assert first == again == [FOUND]
        assert len(script.seen) == 1
        search_at(script, "serper", monkeypatch, tmp_path).search(["lake orvel"], 1)
        assert len(script.seen) == 2
    assert all(KEY not in file.read_text() for file in tmp_path.rglob("*.json"))


def test_the_address_of_searxng_is_completed_and_its_password_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted(Reply(json.dumps(TAVILY).encode())) as script:
        host = script.url.removeprefix("http://")
        for address in (f"http://me:s3cret@{host}/search/?language=en", f"http://me:s3cret@{host}/?language=en"):
            monkeypatch.setenv("SEARXNG_URL", address)
            assert WebSearch("searxng", tmp_path, QUICK).search(["lake"], 2) == [FOUND]
        assert [seen.path for seen in script.seen] == ["/search?language=en&q=lake&format=json"]
    [stored] = tmp_path.rglob("*.json")
    assert "s3cret" not in stored.read_text()
