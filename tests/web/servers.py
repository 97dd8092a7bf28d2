"""Real servers for tests: a scripted one that responds, stalls or aborts, and any application."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import uvicorn
from starlette.applications import Starlette


@dataclass(frozen=True)
class Reply:
    """A scripted response: `wait` seconds before it, `drip` seconds between bytes, and `broken` sends only half."""

    body: bytes = b""
    status: int = 200
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    wait: float = 0.0
    drip: float = 0.0
    broken: bool = False


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class ScriptedServer:
    """Responds to each request with the next reply and repeats the last one; a path in `pages` has its own reply."""

    replies: list[Reply] = field(default_factory=list)
    pages: dict[str, Reply] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)

    def next_reply(self, path: str) -> Reply:
        if path in self.pages:
            return self.pages[path]
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients abort connections on purpose


@contextmanager
def scripted(*replies: Reply, pages: dict[str, Reply] | None = None) -> Iterator[ScriptedServer]:
    script = ScriptedServer(list(replies) or [Reply(status=404)], pages or {})

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            script.seen.append(Seen(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            reply = script.next_reply(self.path)
            script.closing.wait(reply.wait)
            self.send_response(reply.status)
            if reply.content_type:
                self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(reply.body)))
            for name, value in reply.headers:
                self.send_header(name, value)
            self.end_headers()
            sent = reply.body[: len(reply.body) // 2] if reply.broken else reply.body
            if not reply.drip:
                self.wfile.write(sent)
            for place in range(len(sent) if reply.drip else 0):
                self.wfile.write(sent[place : place + 1])
                self.wfile.flush()
                if script.closing.wait(reply.drip):
                    return

        do_GET = do_POST = answer

        def log_message(self, *parts: object) -> None:
            pass

    server = _Server(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield script
    finally:
        script.closing.set()
        server.shutdown()
        server.server_close()


@contextmanager
def running(app: Starlette) -> Iterator[str]:
    """Serve an application with uvicorn in a thread and yield its address."""
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", lifespan="off", ws="none"))
    listening = server.config.bind_socket()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listening])), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def dead_url() -> str:
    """Return an address at which no server listens."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{one.getsockname()[1]}"
