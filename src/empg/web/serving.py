"""Serve a web application on this machine until Ctrl-C, safe from slow clients and from other sites' pages."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlsplit

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.routing import BaseRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocketClose
from uvicorn.protocols.http.h11_impl import H11Protocol

from empg.errors import UserError

REQUEST_SECONDS = 30.0  # for a whole request to arrive, however slowly its bytes come
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_PORT_REFUSED = (errno.EADDRINUSE, errno.EACCES)  # EACCES: ports below 1024 are for administrators
_OWN_ADDRESS = "Use an address of this machine, such as 127.0.0.1"


class BodyTooLargeError(Exception):
    """The body of a request exceeds the limit of its server; the message is one line."""


def web_app(routes: Sequence[BaseRoute], host: str, exception_handlers: Mapping[Any, Any] | None = None) -> Starlette:
    """Create an application that accepts requests meant for it only.

    - The Host header must name this machine; otherwise a page of another site could reach the server under its own
      name (DNS rebinding). On a local address these are localhost, 127.0.0.1 and [::1]. Elsewhere these are also the
      names of this machine and everything that no public site can be named: IP addresses, names without a dot, and
      names that end in .local or .internal.
    - A POST of a page of another site is refused, and a WebSocket that it opens.
    - A client that leaves before it has sent its request is not an error.

    Args:
        routes: the routes.
        host: the address on which the application is served.
        exception_handlers: see Starlette.
    """
    names = _LOCAL if host in _LOCAL else _LOCAL | {host, socket.gethostname().lower(), socket.getfqdn().lower()}
    guard = Middleware(_Guard, names=names, private=host not in _LOCAL)
    return Starlette(routes=routes, middleware=[guard], exception_handlers=exception_handlers)


def serve_app(
    app: Starlette, host: str, port: int, ready: Callable[[str], None] | None, max_message: int | None = None
) -> None:
    """Serve until Ctrl-C.

    Args:
        app: the application.
        host: "127.0.0.1", or "0.0.0.0" to accept connections from other machines.
        port: 0 picks any free port.
        ready: receives the address, as `http://host:port`, as soon as the server accepts connections.
        max_message: largest message of a WebSocket (bytes); None accepts no WebSockets. They need `websockets`.

    Raises:
        UserError: the host is not one of this machine, or the port is unavailable, for example because it is in use.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        http=_TimedProtocol,
        log_level="warning",
        lifespan="off",
        ws="none" if max_message is None else "websockets-sansio",
        ws_max_size=max_message or 1,
        ws_per_message_deflate=False,  # a small message could unpack to a large one
    )
    listening = _bind(host, port)
    server = uvicorn.Server(config)

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if ready is not None and server.started:
            ready(f"http://{_written(host)}:{listening.getsockname()[1]}")
        await serving

    asyncio.run(run())


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request. Reading stops as soon as it is too large, whatever length the client announced.

    Args:
        request: the request.
        most: largest body (bytes).

    Raises:
        BodyTooLargeError: the body has more bytes.
    """
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > most:
            raise BodyTooLargeError(f"the body has more than {most:,} bytes")
    return bytes(body)


class _TimedProtocol(H11Protocol):
    """HTTP that closes a connection when a request takes longer than `REQUEST_SECONDS` to arrive.

    uvicorn itself waits for the rest of a request for ever. Between requests its own, shorter limit applies.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def _watch(self) -> None:
        """Start the clock if a request is incomplete, unless it runs; stop it if the request is complete."""
        if self.conn.their_state not in (h11.IDLE, h11.SEND_BODY) or self.transport.is_closing():
            self._stop()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(REQUEST_SECONDS, self.transport.close)

    def _stop(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Guard:
    """Middleware that refuses requests that are not meant for this application; see `web_app`."""

    def __init__(self, app: ASGIApp, names: frozenset[str], private: bool) -> None:
        self._app, self._names, self._private = app, names, private

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (refusal := self._refusal(scope["method"], Headers(scope=scope))) is not None:
            await refusal(scope, receive, send)
            return
        # A WebSocket is opened by a GET, but it can do as much as a POST.
        if scope["type"] == "websocket" and self._refusal("POST", Headers(scope=scope)) is not None:
            await WebSocketClose()(scope, receive, send)
            return
        try:
            await self._app(scope, receive, send)
        except ClientDisconnect:
            return

    def _refusal(self, method: str, headers: Headers) -> PlainTextResponse | None:
        host = headers.get("host", "")
        if not self._meant(host):
            return PlainTextResponse("Unknown Host header. Use the address at which the server was started.\n", 400)
        if method not in ("GET", "HEAD", "OPTIONS") and _from_another_site(headers, host):
            return PlainTextResponse("This request was sent by a page of another site.\n", 403)
        return None

    def _meant(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in self._names or (self._private and _is_private(name))


def _from_another_site(headers: Headers, host: str) -> bool:
    """Return whether a browser says that a page of another site sent the request. Other clients send neither header."""
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return True
    origin = headers.get("origin")
    return origin is not None and origin.partition("://")[2].lower() != host.lower()


def _is_private(name: str) -> bool:
    """Return whether no public site can have this name."""
    if "." not in name or name.endswith((".local", ".internal")):
        return name != ""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address. uvicorn's own bind exits the process if the port is in use.

    Raises:
        UserError: the address is unavailable; the message says whether the host or the port has to change.
    """
    if not host:
        raise UserError(f"host: expected a name or an address, got an empty text. {_OWN_ADDRESS}")
    with ExitStack() as undo:
        try:
            bound = undo.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
        except OverflowError:
            raise UserError(f"port: expected a number from 0 to 65535, got {port}") from None
        except (UnicodeError, TypeError):  # what Python raises depends on its version
            raise UserError(f"host: {host!r:.80} is not a valid name. {_OWN_ADDRESS}") from None
        except OSError as error:
            remedy = "Choose another port, or 0" if error.errno in _PORT_REFUSED else _OWN_ADDRESS
            raise UserError(f"cannot serve at {_written(host)}:{port} ({error.strerror}). {remedy}") from None
        undo.pop_all()
    return bound


def _written(host: str) -> str:
    """Return a host as it is written before a port: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host
