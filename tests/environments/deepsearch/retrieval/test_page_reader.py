"""The page reader: the text of a page, rejected pages, and addresses that an agent may not open."""

from __future__ import annotations

import gzip
import logging
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from empg.environments.deepsearch.retrieval.page_reader import MAX_TEXT, PAGE_REQUEST_POLICY, WebLibrary, web_address
from empg.environments.deepsearch.world import Document
from empg.web import addresses
from empg.web.addresses import public_addresses
from empg.web.client import RequestPolicy
from empg.web.errors import ServiceError
from tests.web.servers import Reply, ScriptedServer, dead_url, scripted

HERE = RequestPolicy(timeout=1.0, attempts=2, backoff=0.01, max_bytes=300_000, allow_private=True)
PARAGRAPHS = "".join(
    f"<p>Lake Orvel is the {word} lake of the northern country, and boats have crossed it since the year {year}.</p>"
    for word, year in (("largest", 1820), ("deepest", 1830), ("coldest", 1840), ("clearest", 1850))
)
PAGE = f"""<!doctype html><html><head><title>Lake Orvel</title><style>p {{color: red}}</style>
<script>document.write("<p>injected by script</p>"); steal(document.cookie)</script></head>
<body onload="evil()"><nav><a href="/">Home</a><a href="/shop">Buy now</a></nav>
<article><h1>Lake Orvel</h1>{PARAGRAPHS}<img src=x onerror="evil()"><!-- a comment -->
<noscript>turn scripts on</noscript><iframe src="javascript:evil()"></iframe></article>
<footer>All rights reserved</footer></body></html>""".encode()


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def html(body: bytes, **about: object) -> Reply:
    return replace(Reply(body, content_type="text/html; charset=utf-8"), **about)  # type: ignore[arg-type]


def opened(script: ScriptedServer, path: str = "/page") -> Document | None:
    return WebLibrary(request_policy=HERE).open(script.url + path)


# ---- text of pages -------------------------------------------------------------------------------------------------


def test_a_page_has_no_scripts_and_menus() -> None:
    with scripted(html(PAGE)) as script:
        page = opened(script)
    assert page is not None
    assert (page.id, page.title) == (f"{script.url}/page", "Lake Orvel")
    for part in ("largest lake of the northern country", "since the year 1850"):
        assert part in page.text
    for part in ("injected", "steal", "evil", "color: red", "a comment", "Buy now", "<p>", "<"):
        assert part not in page.text


def test_plain_text_is_unchanged() -> None:
    with scripted(Reply("Lake <b>Orvel</b>\x07\nnaïve".encode(), content_type="text/plain; charset=utf-8")) as script:
        page = opened(script, "/notes/orvel.txt")
    assert page == Document(f"{script.url}/notes/orvel.txt", "orvel.txt", "Lake <b>Orvel</b>\nnaïve")


@pytest.mark.parametrize(
    ("content_type", "encoding", "meta"),
    [
        ("text/html; charset=iso-8859-1", "iso-8859-1", ""),
        ("text/html", "utf-8", ""),
        ("", "utf-8", ""),
        ("text/html", "cp1252", ""),
        ("text/html", "cp1251", '<meta charset="windows-1251">'),
        ("text/html; charset=punycode", "utf-8", ""),
        ("text/html; charset=no-such", "utf-8", '<meta charset="idna">'),
        ("text/html; charset=base64", "utf-8", ""),
    ],
)
def test_charsets(content_type: str, encoding: str, meta: str) -> None:
    word = "лодки" if encoding == "cp1251" else "båts"
    body = PAGE.decode().replace("boats", word).replace("<head>", f"<head>{meta}").encode(encoding)
    with scripted(Reply(body, content_type=content_type)) as script:
        page = opened(script)
    assert page is not None
    assert f"{word} have crossed" in page.text


def test_a_title_is_plain_text() -> None:
    titled = PAGE.replace(b"<title>Lake Orvel", b"<TITLE lang=en>\n Lake &amp; \n&lt;Orvel&gt;")
    with scripted(html(titled), html(PAGE.replace(b"<title>Lake Orvel</title>", b""))) as script:
        with_title, without = opened(script), opened(script)
    assert with_title is not None
    assert with_title.title == "Lake & <Orvel>"
    assert without is not None
    assert without.title == "127.0.0.1"


def test_a_huge_page_is_cut() -> None:
    begun = time.monotonic()
    for more in (b"<p>more and more text here.</p>", b"<p>a"):  # the second has too many tags for extraction
        with scripted(html(PAGE[:-14] + more * 400_000)) as script:
            page = opened(script)
        assert page is not None
        assert "largest lake" in page.text
        assert "injected" not in page.text
        assert len(page.text) <= MAX_TEXT
    assert time.monotonic() - begun < 60


def test_a_body_that_decompresses_to_a_huge_one_is_cut() -> None:
    body = gzip.compress(PAGE[:-14] + b" " * 50_000_000)
    with scripted(html(body, headers=(("Content-Encoding", "gzip"),))) as script:
        page = opened(script)
    assert page is not None
    assert "largest lake" in page.text


@pytest.mark.parametrize(
    "body",
    [
        b"", b"\0" * 1_000, b"<" * 100_000, b"<div>" * 50_000, b"&" * 100_000, b"<html><body></body></html>",
        b"<!--" * 50_000, b"<a href='" * 20_000, b'<?xml version="1.0" encoding="utf-16"?><html>',
        b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><html><body>&b;</body></html>',
        bytes(range(256)) * 400,
    ],
    ids=str,
)  # fmt: skip
def test_hostile_html_is_a_page_or_an_error_quickly(body: bytes) -> None:
    begun = time.monotonic()
    with scripted(html(body)) as script:
        try:
            page = opened(script)
        except ServiceError as error:
            text = str(error)
        else:
            assert page is not None
            text = page.text
    assert text.strip()
    text.encode()
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("kind", ["application/pdf", "image/png", "application/octet-stream", "text/css"])
def test_content_that_is_not_text_is_an_error(kind: str) -> None:
    reply = Reply(b"%PDF", content_type=kind)
    with scripted(reply) as script, pytest.raises(ServiceError, match=f"is '{kind}', not text"):
        opened(script)


# ---- servers -------------------------------------------------------------------------------------------------------


def test_the_number_of_redirects_is_limited() -> None:
    def to(location: str) -> Reply:
        return Reply(status=302, headers=(("Location", location),))

    places = {"/a": to("/b?x=1"), "/b?x=1": to("c"), "/c": html(PAGE)}
    with scripted(pages=places | {"/loop": to("/loop"), "/bad": to("file:///etc/passwd")}) as script:
        page = opened(script, "/a#part")
        assert page is not None
        assert page.id == f"{script.url}/c"
        with pytest.raises(ServiceError, match="redirects more than 5 times"):
            opened(script, "/loop")
        assert [seen.path for seen in script.seen].count("/loop") == 6
        with pytest.raises(ServiceError, match="redirects to an address that is not a web address"):
            opened(script, "/bad")


@pytest.mark.parametrize("status", [404, 410])
def test_a_missing_page_is_none(status: int) -> None:
    with scripted(html(PAGE, status=status)) as script:
        assert opened(script) is None


@pytest.mark.parametrize(("status", "times"), [(403, 1), (418, 1), (500, 2), (429, 2)])
def test_other_statuses_are_errors(status: int, times: int) -> None:
    with scripted(html(PAGE, status=status)) as script, pytest.raises(ServiceError, match=f"answered {status}"):
        opened(script)
    assert len(script.seen) == times


def test_a_stalling_and_an_unreachable_server_are_errors() -> None:
    library = WebLibrary(request_policy=replace(HERE, timeout=0.3))
    begun = time.monotonic()
    for stall in (html(PAGE, wait=30), html(PAGE, drip=0.05)):
        with scripted(stall) as script, pytest.raises(ServiceError, match=r"did not answer within 0\.3 s"):
            library.open(script.url)
    with pytest.raises(ServiceError, match="cannot be reached"):
        library.open(dead_url())
    with pytest.raises(ServiceError, match="cannot be reached"):
        library.open("http://no-such-host.invalid/")
    assert time.monotonic() - begun < 60


def test_pages_are_cached_and_failures_are_not(tmp_path: Path) -> None:
    with scripted(html(PAGE, status=500), html(PAGE, status=500), html(PAGE)) as script:
        library = WebLibrary(tmp_path, HERE)
        with pytest.raises(ServiceError):
            library.open(script.url)
        page = library.open(script.url)
        assert library.open(f" {script.url}#part ") == page
        assert WebLibrary(tmp_path, HERE).open(script.url) == page
        assert len(script.seen) == 3


# ---- forbidden addresses -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "Lake Orvel", "", "file:///etc/passwd", "ftp://a.example/", "javascript:alert(1)", "//a.example", "http://",
        "http:///etc", "https://user:key@a.example/", "http://[::1", "http://a.example:99999/", "http://a.example:0/",
        "http://a.example/two words", "http://a.example/\nHost: b", "https://a.example/" + "x" * 3_000,
        "data:text/html,x",
    ],
)  # fmt: skip
def test_other_names_are_not_addresses(name: str) -> None:
    assert web_address(name) is None
    assert WebLibrary().open(name) is None


def test_addresses_lose_their_fragment() -> None:
    assert web_address(" https://a.example/x?y=1#z ") == "https://a.example/x?y=1"
    assert web_address("HTTP://a.example") is not None


def test_this_machine_cannot_be_opened(caplog: pytest.LogCaptureFixture) -> None:
    with scripted(html(PAGE)) as script, caplog.at_level(logging.WARNING):
        port = script.url.rpartition(":")[2]
        for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0"):
            assert WebLibrary(request_policy=PAGE_REQUEST_POLICY).open(f"http://{host}:{port}/") is None
        assert script.seen == []
    assert "is not on the public internet" in caplog.text


def test_a_redirect_to_this_machine_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """A web page redirects to this machine: the first host is allowed, the second is not."""
    monkeypatch.setattr(
        addresses, "public_addresses",
        lambda host, port, timeout: ["127.0.0.1"] if host == "public.example" else public_addresses(host, port),
    )  # fmt: skip
    library = WebLibrary(request_policy=replace(HERE, allow_private=False))
    with scripted(html(PAGE)) as inside, scripted(Reply(status=302, headers=(("Location", inside.url),))) as outside:
        assert library.open(f"http://public.example:{outside.url.rpartition(':')[2]}/") is None
        assert (len(outside.seen), inside.seen) == (1, [])
        assert library.open(f"http://public.example:{inside.url.rpartition(':')[2]}/") is not None
