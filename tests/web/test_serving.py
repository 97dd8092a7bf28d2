"""Servers on real sockets: clients that stop in the middle, that leave, and pages of other sites."""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from empg.errors import UserError
from empg.web.serving import BodyTooLargeError, read_body, serve_app, web_app

SERVERS = {
    "site": (
        "from empg.environments.webshop import WebShopEnv\n"
        "from empg.environments.webshop.site import serve\n"
        "environment = WebShopEnv(products=50)\n"
        "serve(environment, port=0, ready=ready)\n"
    ),
    "retriever": (
        "from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever\n"
        "from empg.environments.deepsearch.retrieval.server import serve\n"
        "from empg.environments.deepsearch.world import Document\n"
        "serve(BM25Retriever.build([Document('1', 'Fox', 'red')]), host=HOST, port=0, ready=ready)\n"
    ),
}
START = (
    "from empg.web import serving\n"
    "serving.REQUEST_SECONDS = 1.0\n"
    "HOST = {host!r}\n"
    "ready = lambda url: print(url, flush=True)\n"
)
POST = {
    "site": ("/start", "application/x-www-form-urlencoded", b"task=0"),
    "retriever": ("/retrieve", "application/json", b'{"queries": ["fox"]}'),
}


class Server:
    """A server in its own process, with a limit of one second for a request."""

    def __init__(self, kind: str, host: str = "127.0.0.1") -> None:
        program = START.format(host=host) + SERVERS[kind]
        self.path, self.content, self.body = POST[kind]
        self.process = subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def post(self, **headers: str) -> int:
        sent = {"Content-Type": self.content} | {name.replace("_", "-"): value for name, value in headers.items()}
        return httpx.post(f"http://127.0.0.1:{self.port}{self.path}", content=self.body, headers=sent).status_code

    def stop(self) -> str:
        """End the server and return what it wrote on standard error."""
        self.process.terminate()
        return self.process.communicate(timeout=30)[1]


@pytest.fixture(scope="module", params=["site", "retriever"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    served = Server(request.param)
    yield served
    written = served.stop()
    assert "Traceback" not in written
    assert "Error" not in written


@pytest.mark.parametrize(
    "begun",
    [
        b"",
        b"POST ",
        b"POST /start HTTP/1.1\r\nHost: localhost\r\nX-",
        b"POST /start HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\nta",
        b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{",
        b"POST /start HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\nHost:",
    ],
)
def test_half_a_request_is_closed_at_the_deadline(server: Server, begun: bytes) -> None:
    with server.connect() as client:
        started = time.monotonic()
        client.sendall(begun)
        while client.recv(65536):
            pass
        assert 0.5 < time.monotonic() - started < 10


def test_bytes_that_trickle_in_do_not_extend_the_deadline(server: Server) -> None:
    with server.connect() as client:
        started = time.monotonic()
        client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
        with contextlib.suppress(OSError):  # a closed connection, under whichever name
            while time.monotonic() - started < 10:
                client.sendall(b"x")
                time.sleep(0.1)
        assert time.monotonic() - started < 8


def test_a_client_that_leaves_is_not_an_error_of_the_server(server: Server) -> None:
    for _ in range(3):
        with server.connect() as client:
            head = f"POST {server.path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n"
            client.sendall(head.encode() + server.body)
            client.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
            )  # a reset, as of a killed client
    assert server.post() in (200, 303)  # and the server answers others


def test_a_slow_answer_is_not_a_slow_request(server: Server) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
        for _ in range(3):  # a connection outlives the limit if each request arrives at once
            assert client.get("/health").status_code in (200, 404)
            time.sleep(0.6)


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", "[", ""]
)
def test_a_local_server_has_only_local_names(server: Server, host: str) -> None:
    assert server.post(Host=host) == 400


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9", "[::1]:80"])
def test_local_names_are_accepted_with_any_port(server: Server, host: str) -> None:
    assert server.post(Host=host) in (200, 303)


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1", "Host": "localhost:2"},  # another server of this machine
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_a_post_of_another_site_s_page_is_refused(server: Server, headers: dict[str, str]) -> None:
    assert server.post(**headers) == 403


@pytest.mark.parametrize(
    "headers", [{"Origin": "http://localhost:2", "Host": "localhost:2", "Sec_Fetch_Site": "same-origin"}, {}]
)
def test_a_post_of_its_own_page_or_of_a_program_is_accepted(server: Server, headers: dict[str, str]) -> None:
    assert server.post(**headers) in (200, 303)


def test_on_a_network_a_server_has_addresses_and_the_names_of_its_machine() -> None:
    server = Server("retriever", host="0.0.0.0")
    try:
        own = (socket.gethostname(), "localhost", "retriever:8000", "retriever.ns.svc.cluster.local:8000")
        for host in ("10.1.2.3:8000", "[fd00::1]:8000", *own):
            assert server.post(Host=host) == 200
        for host in ("evil.example", "10.1.2.3.evil.example", "local.example", ""):
            assert server.post(Host=host) == 400
    finally:
        assert not re.search("Traceback|Error", server.stop())


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
def test_an_ipv6_address_is_printed_in_brackets() -> None:
    program = START.format(host="::1") + SERVERS["retriever"]
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://\[::1\]:\d+", url)
        assert httpx.get(f"{url}/health").status_code == 200
        process.terminate()


OWN = r"Use an address of this machine, such as 127\.0\.0\.1$"


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("", rf"^host: expected a name or an address, got an empty text\. {OWN}"),
        ("\xe9..x", rf"^host: '\xe9\.\.x' is not a valid name\. {OWN}"),
        ("nohost.invalid", rf"^cannot serve at nohost\.invalid:0 \(.*\)\. {OWN}"),
        ("192.0.2.1", rf"^cannot serve at 192\.0\.2\.1:0 \(.*\)\. {OWN}"),
        ("2001:db8::1", rf"^cannot serve at \[2001:db8::1\]:0 \(.*\)\. {OWN}"),
    ],
)
def test_a_host_that_is_not_of_this_machine_is_refused(host: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        serve_app(web_app([], host), host, 0, None)


def test_a_port_that_is_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"^cannot serve at 127\.0\.0\.1:{port} \(.*\)\. Choose another port, or 0$"
        ):
            serve_app(web_app([], "127.0.0.1"), "127.0.0.1", port, None)


@pytest.mark.parametrize("port", [-1, 65_536, 70_000])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(UserError, match=rf"^port: expected a number from 0 to 65535, got {port}$"):
        serve_app(web_app([], "127.0.0.1"), "127.0.0.1", port, None)


@pytest.mark.parametrize("sizes", [[], [10], [4, 6], [0, 10, 0]])
def test_a_body_of_at_most_the_limit_is_read(sizes: list[int]) -> None:
    request, _ = sent_in_chunks(sizes)
    assert ended(read_body(request, 10)) == b"x" * sum(sizes)


@pytest.mark.parametrize(("sizes", "taken"), [([11], 1), ([10, 1, 1], 2), ([6, 6, 6, 6], 2)])
def test_a_body_that_is_too_large_is_not_read_to_its_end(sizes: list[int], taken: int) -> None:
    request, received = sent_in_chunks(sizes)
    with pytest.raises(BodyTooLargeError, match=r"^the body has more than 10 bytes$"):
        ended(read_body(request, 10))
    assert len(received) == taken


def ended(work: Coroutine[Any, Any, bytes]) -> bytes:
    """Run it in a thread of its own: in this one, a test with a browser may have left an event loop that runs."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def sent_in_chunks(sizes: list[int]) -> tuple[Request, list[int]]:
    """A request without a length, and the sizes of the chunks that the server has taken so far."""
    received: list[int] = []

    async def receive() -> dict[str, object]:
        if len(received) == len(sizes):
            return {"type": "http.request", "body": b"", "more_body": False}
        received.append(sizes[len(received)])
        return {"type": "http.request", "body": b"x" * received[-1], "more_body": True}

    return Request({"type": "http", "method": "POST", "headers": []}, receive), received
