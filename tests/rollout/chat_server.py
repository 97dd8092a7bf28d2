"""A real HTTP server with the API of a chat model: what it answers is a function of the request."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]
Reply = str | int | tuple[int, bytes]


@dataclass
class ChatServer:
    """`reply` gives the text for a request's body; an int is a status without a completion, a pair one with
    the body of its response."""

    reply: Callable[[Body], Reply]
    delay: float = 0.0
    url: str = ""
    seen: list[Body] = field(default_factory=list)
    at_once: int = 0  # the most requests that were open at the same time
    _open: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, body: Body) -> tuple[int, bytes]:
        with self._lock:
            self.seen.append(body)
            self._open += 1
            self.at_once = max(self.at_once, self._open)
        time.sleep(self.delay)
        with self._lock:
            self._open -= 1
        answer = self.reply(body)
        if isinstance(answer, tuple):
            return answer
        return (answer, b"{}") if isinstance(answer, int) else (200, completion(answer))


def completion(text: str | None, **message: Any) -> bytes:
    """The body of a response of 10 prompt and 5 completion tokens."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return json.dumps({"object": "chat.completion", "choices": [choice], "usage": usage}).encode()


def listed(body: Body) -> list[str]:
    """The admissible commands in the last message of a request."""
    text = body["messages"][-1]["content"].partition("Commands you can give now:\n")[2]
    return text.partition("\nThink inside")[0].splitlines()


def turn(action: str) -> str:
    return f"<think>Let me see.</think><action>{action}</action>"


@contextmanager
def chat_server(reply: Callable[[Body], Reply], delay: float = 0.0) -> Iterator[ChatServer]:
    script = ChatServer(reply, delay)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            status, sent = script.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        def log_message(self, *parts: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that was killed

    server = Server(("127.0.0.1", 0), Handler)
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield script
    finally:
        server.shutdown()
        server.server_close()
