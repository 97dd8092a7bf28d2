"""A web application on this machine, until Ctrl-C."""

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
        app: what answers.
        host: "127.0.0.1", or "0.0.0.0" to answer other machines.
        port: 0 takes any free one.
        ready: told the address, as `http://host:port`, as soon as it answers.

    Raises:
        OSError: the port is taken.
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
    """A socket at that address. uvicorn's own way would end the process where the port is taken."""
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise UserError(f"cannot serve at {host}:{port} ({error.strerror}); choose another port, or 0") from None
    return bound
