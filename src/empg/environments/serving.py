"""Serve a web application on this machine until Ctrl-C."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette

from empg.errors import UserError


def serve_app(app: Starlette, host: str, port: int, ready: Callable[[str], None] | None) -> None:
    """Serve until Ctrl-C.

    Args:
        app: the application.
        host: "127.0.0.1", or "0.0.0.0" to accept connections from other machines.
        port: 0 picks any free port.
        ready: receives the address, as `http://host:port`, as soon as the server accepts connections.

    Raises:
        UserError: the address is unavailable, for example because the port is in use.
    """
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", lifespan="off", ws="none")
    listening = _bind(host, port)
    server = uvicorn.Server(config)

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if ready is not None and server.started:
            ready(f"http://{host}:{listening.getsockname()[1]}")
        await serving

    asyncio.run(run())


def _bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to the address. uvicorn's own bind exits the process if the port is in use."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UserError(f"cannot serve at {host}:{port} ({error.strerror}). Choose another port, or 0") from None
    return bound
