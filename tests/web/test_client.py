"""The client: servers that stall, fail, compress or lie about it, the circuit, the rate, and proxies."""

from __future__ import annotations

import gzip
import json
import os
import socket
import threading
import time
import tracemalloc
import zlib
from dataclasses import replace
from email.utils import formatdate
from typing import Any

import pytest

from empg.web.addresses import PrivateAddressError
from empg.web.client import HttpClient, RequestPolicy
from empg.web.errors import ServiceError
from tests.web.servers import Reply, dead_url, scripted

QUICK = RequestPolicy(timeout=0.5, attempts=3, backoff=0.01, longest_wait=1.0)
RED = {"colour": "red"}
ONE = json.dumps(RED).encode()
# Without a time stamp, which would give the tests of each process other ids.
GZIPPED = gzip.compress(ONE, mtime=0)
TWO_MEMBERS = gzip.compress(ONE[:9], mtime=0) + gzip.compress(ONE[9:], mtime=0) + b"\0" * 9


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


# ---- servers that fail ---------------------------------------------------------------------------------------------


def test_an_unreachable_port_is_an_error_quickly() -> None:
    begun = time.monotonic()
    with pytest.raises(ServiceError, match=r"^127\.0\.0\.1:\d+ cannot be reached \(3 attempts\)$"):
        HttpClient(QUICK).json("POST", dead_url())
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    "stall",
    [Reply(ONE, wait=30), Reply(ONE, drip=0.05), Reply(ONE, drip=0.4)],
    ids=["silent", "a byte at intervals", "a byte rarely"],
)
def test_a_stalling_server_is_an_error_at_the_deadline(stall: Reply) -> None:
    begun = time.monotonic()
    with (
        scripted(stall) as script,
        pytest.raises(ServiceError, match=r"did not answer within 0\.3 s \(2 attempts\)$"),
    ):
        HttpClient(RequestPolicy(timeout=0.3, attempts=2, backoff=0.01)).json("POST", script.url)
    assert time.monotonic() - begun < 20
    assert len(script.seen) == 2


def test_endless_headers_are_an_error_at_the_deadline() -> None:
    def drip(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while not done.wait(0.05):
                connection.sendall(b"a")

    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=drip, args=(listener,), daemon=True).start()
        begun = time.monotonic()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(ServiceError, match=r"did not answer within 0\.4 s \(1 attempt\)"):
            HttpClient(RequestPolicy(timeout=0.4, attempts=1)).json("POST", url)
        assert time.monotonic() - begun < 20
        done.set()


@pytest.mark.parametrize(
    "failing", [Reply(status=500), Reply(status=503), Reply(ONE, broken=True)], ids=["500", "503", "broken off"]
)
def test_transient_failures_are_retried(failing: Reply) -> None:
    with scripted(failing, failing, Reply(ONE)) as script:
        assert HttpClient(QUICK).json("POST", script.url) == RED
    assert len(script.seen) == 3


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 301, 204])
def test_permanent_failures_are_not_retried(status: int) -> None:
    with (
        scripted(Reply(status=status), Reply(ONE)) as script,
        pytest.raises(ServiceError, match=rf"(answered|refused the request \(){status}|{status}"),
    ):
        HttpClient(QUICK).json("POST", script.url)
    assert len(script.seen) == 1


def test_a_short_retry_after_is_respected() -> None:
    busy = Reply(status=429, headers=(("Retry-After", "1"),))
    begun = time.monotonic()
    with scripted(busy, Reply(ONE)) as script:
        HttpClient(QUICK).json("POST", script.url)
    assert time.monotonic() - begun >= 1

    begun = time.monotonic()
    for later in ("3600", formatdate(time.time() + 3600, usegmt=True)):
        with (
            scripted(Reply(status=429, headers=(("Retry-After", later),)), Reply(ONE)) as script,
            pytest.raises(ServiceError, match=r"answered 429 \(1 attempt\)"),
        ):
            HttpClient(QUICK).json("POST", script.url)
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize("later", ["soon", "-5", "9" * 400, ""])
def test_an_invalid_retry_after_is_ignored(later: str) -> None:
    with scripted(Reply(status=503, headers=(("Retry-After", later),)), Reply(ONE)) as script:
        assert HttpClient(QUICK).json("POST", script.url) == RED


# ---- responses that are too long or damaged -------------------------------------------------------------------------


def test_a_body_that_is_too_long_is_an_error() -> None:
    with scripted(Reply(b" " * 2_000)) as script, pytest.raises(ServiceError, match=r"sent more than 1,000 bytes"):
        HttpClient(RequestPolicy(max_bytes=1_000)).json("POST", script.url)


def packed(body: bytes, encoding: str) -> Reply:
    return Reply(body, headers=(("Content-Encoding", encoding),))


def test_the_decompressed_size_is_limited() -> None:
    empty = gzip.compress(b"", mtime=0)
    for bomb in (gzip.compress(b" " * 20_000_000, mtime=0), gzip.compress(b" " * 900) * 2, empty * 1_000):
        with (
            scripted(packed(bomb, "gzip")) as script,
            pytest.raises(ServiceError, match=r"sent more than 1,000 bytes"),
        ):
            HttpClient(RequestPolicy(max_bytes=1_000)).json("POST", script.url)
        assert script.seen[0].headers["accept-encoding"] == "gzip"


def test_other_and_repeated_encodings_are_rejected() -> None:
    """Half a kilobyte that would decompress to a gigabyte takes no more time and memory than other requests."""
    inner = zlib.compressobj(9, zlib.DEFLATED, 31)
    once = b"".join(inner.compress(b" " * (1 << 20)) for _ in range(256)) + inner.flush()
    bomb = gzip.compress(once, mtime=0)
    tracemalloc.start()
    begun = time.monotonic()
    for encoding in ("gzip, gzip", "gzip,deflate", "deflate", "br", "zstd", "gzip, identity", "nonsense"):
        with (
            scripted(packed(bomb, encoding)) as script,
            pytest.raises(ServiceError, match=r"^the response cannot be unpacked$"),
        ):
            HttpClient(RequestPolicy(max_bytes=1_000)).json("POST", script.url)
        assert len(script.seen) == 1
    assert time.monotonic() - begun < 10
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30 << 20


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip"])
@pytest.mark.parametrize("body", [GZIPPED, TWO_MEMBERS])
def test_compressed_responses_are_read(encoding: str, body: bytes) -> None:
    with scripted(packed(body, encoding)) as script:
        assert HttpClient(QUICK).json("POST", script.url) == RED


@pytest.mark.parametrize("body", [b"not gzip", GZIPPED[:-9], GZIPPED[:5]])
def test_damaged_compression_is_an_error(body: bytes) -> None:
    with scripted(packed(body, "gzip")) as script, pytest.raises(ServiceError, match="cannot be unpacked"):
        HttpClient(QUICK).json("POST", script.url)


# ---- circuit and rate ----------------------------------------------------------------------------------------------


def test_the_circuit_opens_after_consecutive_failures_then_allows_one_request() -> None:
    request_policy = replace(QUICK, failure_threshold=4, cool_down=0.4)
    with scripted(Reply(status=503)) as script:
        client = HttpClient(request_policy)
        with pytest.raises(ServiceError, match=r"answered 503 \(3 attempts\)"):
            client.json("POST", script.url)
        with pytest.raises(ServiceError, match=r"answered 503 \(1 attempt\)"):  # the fourth failure in a row
            client.json("POST", script.url)
        for _ in range(50):
            with pytest.raises(ServiceError, match="circuit open after 4 consecutive failures"):
                client.json("POST", script.url)
        assert len(script.seen) == 4
        time.sleep(0.45)
        with pytest.raises(ServiceError, match=r"answered 503 \(1 attempt\)"):
            client.json("POST", script.url)
        with pytest.raises(ServiceError, match="circuit open"):
            client.json("POST", script.url)
        assert len(script.seen) == 5
        script.replies[:] = [Reply(ONE)]
        time.sleep(0.45)
        assert client.json("POST", script.url) == RED
        script.replies[:] = [Reply(status=503), Reply(ONE)]
        assert client.json("POST", script.url) == RED  # a success resets the failure count
        assert len(script.seen) == 8


@pytest.mark.parametrize(
    ("probe", "message"),
    [(packed(b"not gzip", "gzip"), "cannot be unpacked"), (Reply(status=404), "answered 404"), (Reply(b"{"), "JSON")],
    ids=["damaged", "404", "not JSON"],
)
def test_any_response_closes_the_circuit(probe: Reply, message: str) -> None:
    """A probe whose response is wrong shows that the server answers; the next request goes through."""
    with scripted(Reply(status=503), Reply(status=503), probe, Reply(ONE)) as script:
        client = HttpClient(replace(QUICK, failure_threshold=2, cool_down=0.2))
        with pytest.raises(ServiceError, match=r"answered 503 \(2 attempts\)"):
            client.json("POST", script.url)
        time.sleep(0.25)
        with pytest.raises(ServiceError, match=message):
            client.json("POST", script.url)
        assert client.json("POST", script.url) == RED


def test_a_stalled_server_does_not_stop_a_run() -> None:
    with scripted(Reply(ONE, wait=30)) as script:
        client = HttpClient(RequestPolicy(timeout=0.2, attempts=3, backoff=0.01))
        begun = time.monotonic()
        for _ in range(64):
            with pytest.raises(ServiceError):
                client.json("POST", script.url)
        assert time.monotonic() - begun < 10  # each alone would take 0.6


def test_the_request_rate_is_limited() -> None:
    with scripted(Reply(ONE)) as script:
        client = HttpClient(RequestPolicy(per_second=20))
        begun = time.monotonic()
        for _ in range(5):
            client.json("POST", script.url)
        assert time.monotonic() - begun >= 0.2


@pytest.mark.parametrize(
    "wrong", [{"timeout": 0}, {"attempts": 0}, {"backoff": -1}, {"per_second": 0}, {"failure_threshold": 0}]
)
def test_an_invalid_request_policy_is_rejected(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"positive|must not be negative"):
        RequestPolicy(**wrong)


# ---- addresses and proxies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["http_proxy", "all_proxy"])
def test_an_unused_proxy_changes_nothing(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """The connection uses the address that was checked, because the name is resolved only once."""
    asked: list[str] = []
    connected: list[tuple[str, int]] = []

    def changing(host: str, port: int, **more: object) -> list[object]:
        asked.append(host)
        address = "8.8.8.8" if len(asked) == 1 else "127.0.0.1"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    def connect(address: tuple[str, int], *more: object, **others: object) -> None:
        connected.append(address)
        raise ConnectionRefusedError

    monkeypatch.setenv(kind, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(socket, "getaddrinfo", changing)
    monkeypatch.setattr(socket, "create_connection", connect)
    with pytest.raises(ServiceError):
        HttpClient(replace(QUICK, allow_private=False, attempts=1)).request("GET", "http://changing.example/")
    assert (asked, connected) == (["changing.example"], [("8.8.8.8", 80)])


@pytest.mark.parametrize("proxied", [False, True])
def test_all_waits_of_a_request_end_at_the_deadline(monkeypatch: pytest.MonkeyPatch, proxied: bool) -> None:
    with scripted(Reply(ONE, drip=0.1)) as slow:
        if proxied:
            monkeypatch.setenv("http_proxy", slow.url)
        client = HttpClient(replace(QUICK, attempts=2, timeout=0.4))
        begun = time.monotonic()
        with pytest.raises(ServiceError, match=r"did not answer within 0\.4 s \(2 attempts\)"):
            client.request("GET", "http://no-such-host.invalid/" if proxied else slow.url)
        assert time.monotonic() - begun < 3


def test_name_resolution_counts_towards_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", lambda *asked, **more: time.sleep(3))
    for private in (False, True):
        client = HttpClient(replace(QUICK, attempts=2, timeout=0.2, allow_private=private))
        begun = time.monotonic()
        with pytest.raises(ServiceError, match=r"slow\.example did not answer within 0\.2 s \(2 attempts\)"):
            client.request("GET", "http://slow.example/")
        assert time.monotonic() - begun < 2


@pytest.mark.parametrize("proxy", ["ftp://secret@p.example", "http://secret:x@[::1", "socks5://secret@p.example:1"])
def test_the_error_for_an_unsupported_proxy_does_not_contain_its_password(
    monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("http_proxy", proxy)
    with pytest.raises(ValueError, match="proxy in the environment variables") as caught:
        HttpClient(QUICK)
    assert "secret" not in str(caught.value)


def test_behind_a_proxy_names_are_still_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    with scripted(Reply(ONE)) as proxy, scripted(Reply(ONE)) as inside:
        monkeypatch.setenv("http_proxy", proxy.url)
        client = HttpClient(replace(QUICK, allow_private=False))
        with pytest.raises(PrivateAddressError):
            client.request("GET", inside.url)
        assert (proxy.seen, inside.seen) == ([], [])
        assert client.json("GET", "http://no-such-host.invalid/page") == RED  # the proxy resolves it
