"""A web application on this machine, until Ctrl-C."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette


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
    socket = config.bind_socket()
    server = uvicorn.Server(config)

    async def run() -> None:
        serving = asyncio.create_task(server.serve(sockets=[socket]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.01)
        if ready is not None and server.started:
            ready(f"http://{host}:{socket.getsockname()[1]}")
        await serving

    asyncio.run(run())
