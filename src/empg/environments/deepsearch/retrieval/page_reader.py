"""Read web pages as plain text without menus, scripts and advertisements (trafilatura).

Addresses come from an agent, and pages from anyone. Only http, https and public addresses are allowed, and each
redirect is checked again. Only text is read, up to a limit of bytes and characters.
"""

from __future__ import annotations

import codecs
import html
import logging
import re
from pathlib import Path
from urllib.parse import urldefrag, urljoin, urlsplit

import trafilatura

from empg.environments.deepsearch.retrieval.web import MAX_ADDRESS, MAX_TITLE
from empg.environments.deepsearch.world import Document
from empg.web.addresses import PrivateAddressError
from empg.web.cache import DiskCache
from empg.web.client import Answer, HttpClient, RequestPolicy
from empg.web.errors import ServiceError
from empg.web.text import clean_text

MAX_TEXT = 100_000  # characters of a page; the rest is cut
MAX_TAGS = 40_000  # extraction time grows superlinearly; pages with more tags are converted to text as a whole
MAX_REDIRECTS = 5
PAGE_REQUEST_POLICY = RequestPolicy(timeout=15.0, attempts=2, max_bytes=2 << 20, allow_private=False)
_HTML = frozenset({"text/html", "application/xhtml+xml", ""})
_PLAIN = frozenset({"text/plain", "text/markdown"})
_GONE = frozenset({404, 410})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEAD = 100_000  # characters or bytes that are searched for title and charset
_TITLE = re.compile(r"<title[^<>]{0,200}>([^<]{0,1000})", re.IGNORECASE)
_CHARSET = re.compile(rb"""<meta[^<>]{0,200}charset=["']?([\w.:-]{1,40})""", re.IGNORECASE)
_NO_CHARSETS = frozenset({"idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined"})
_log = logging.getLogger(__name__)


class WebLibrary:
    """Opens web pages by address; safe to use from several threads. Implements `Library`.

    Args:
        cache: folder for pages by address; None disables the cache.
        request_policy: timeout, attempts, rate and bytes; without `allow_private`, private addresses are rejected.
    """

    def __init__(self, cache: Path | None = None, request_policy: RequestPolicy = PAGE_REQUEST_POLICY) -> None:
        self._http = HttpClient(request_policy)
        self._cache = None if cache is None else DiskCache(cache)

    def open(self, name: str) -> Document | None:
        """Return the page at an address, cut to `MAX_TEXT` characters.

        Return None if the page does not exist, if the name is not a web address, or if the address is private.

        Raises:
            ServiceError: the page could not be fetched, or is not text.
        """
        address = web_address(name)
        if address is None:
            return None
        cached = None if self._cache is None else self._cache.get("page", address)
        if isinstance(cached, list) and len(cached) == 3 and all(isinstance(part, str) for part in cached):
            return Document(*cached)
        try:
            answer = self._follow(address)
        except PrivateAddressError as error:
            _log.warning("page not opened: %s", error)
            return None
        if answer is None:
            return None
        page = read_page(answer)
        if self._cache is not None:
            self._cache.put([page.id, page.title, page.text], "page", address)
        return page

    def _follow(self, address: str) -> Answer | None:
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._http.request("GET", address, headers={"Accept": "text/html,text/plain;q=0.9"})
            if answer.status in _GONE:
                return None
            if answer.status not in _REDIRECTS or answer.location is None:
                return answer
            target = _join(address, answer.location)
            if target is None:
                raise ServiceError(f"{_host(address)} redirects to an address that is not a web address")
            address = target
        raise ServiceError(f"{_host(address)} redirects more than {MAX_REDIRECTS} times")


def web_address(name: str) -> str | None:
    """Return a name as a web address without its fragment; None if it is not an http or https address."""
    address = clean_text(name.strip())
    if len(address) > MAX_ADDRESS or not address.isprintable() or " " in address:
        return None
    try:
        parts = urlsplit(address)
        if parts.scheme.lower() not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            return None
        if parts.port == 0:
            return None
    except ValueError:
        return None
    return urldefrag(address).url


def read_page(answer: Answer) -> Document:
    """Return title and text of a response.

    Raises:
        ServiceError: its status is not 200, it is not text, or it contains no readable text.
    """
    host = _host(answer.url)
    if answer.status != 200:
        raise ServiceError(f"{host} answered {answer.status}")
    if answer.content_type in _PLAIN:
        title, text = urlsplit(answer.url).path.rpartition("/")[2], _decode(answer)
    elif answer.content_type in _HTML:
        title, text = _extract(_decode(answer))
    else:
        raise ServiceError(f"the page at {host} is {answer.content_type[:60]!r}, not text")
    if not text.strip():
        raise ServiceError(f"the page at {host} has no text that can be read")
    return Document(answer.url, _legible(" ".join(title.split()))[:MAX_TITLE] or host, _legible(text)[:MAX_TEXT])


def _extract(source: str) -> tuple[str, str]:
    """Extract title and text from HTML."""
    title = _TITLE.search(source[:_HEAD])
    try:
        if source.count("<") > MAX_TAGS:
            text = trafilatura.html2txt(source)
        else:
            page = trafilatura.bare_extraction(source, fast=True, include_comments=False)
            text = "" if page is None or isinstance(page, dict) else page.text or ""
    except Exception as error:  # pages are arbitrary input, so any failure of the library makes the page unreadable
        _log.warning("trafilatura failed on a page: %r", error)
        text = ""
    return html.unescape(title[1]) if title else "", text


def _decode(answer: Answer) -> str:
    """Decode with the declared charset. Python codecs that are not charsets are ignored; some take quadratic time."""
    declared = _CHARSET.search(answer.body[:_HEAD]) if answer.content_type in _HTML else None
    for charset in (answer.charset, declared[1].decode() if declared else None):
        try:
            if charset and codecs.lookup(charset).name not in _NO_CHARSETS:
                return answer.body.decode(charset, "replace")
        except (LookupError, ValueError):
            continue
    try:
        return answer.body.decode("utf-8")
    except UnicodeDecodeError as problem:
        # A cut body may end inside a character. Otherwise cp1252 is assumed, like in browsers.
        within = problem.start >= len(answer.body) - 3
        return answer.body.decode("utf-8" if within else "cp1252", "replace")


def _legible(text: str) -> str:
    """Remove control characters except line feeds and tabs."""
    return "".join(letter for letter in clean_text(text) if letter.isprintable() or letter in "\n\t")


def _join(address: str, location: str) -> str | None:
    try:
        return web_address(urljoin(address, location))
    except ValueError:
        return None


def _host(address: str) -> str:
    return urlsplit(address).hostname or "the page"
