"""A retrieval server with Search-R1's API: `POST /retrieve {queries, topk, return_scores}`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from empg.environments.deepsearch.retrieval.contents import join_contents
from empg.environments.deepsearch.retrieval.query import MAX_HITS
from empg.environments.deepsearch.world import Hit, Retriever
from empg.web.errors import ServiceError
from empg.web.serving import BodyTooLargeError, read_body, serve_app, web_app
from empg.web.text import clean_text

MAX_BODY = 16 << 20  # bytes
MAX_QUERIES = 4_096  # per request; Search-R1 sends a whole batch at once
DEFAULT_HITS = 3
# Search-R1's server parses its fields with pydantic, which accepts "3", 3.0 and "true". Both may be null here.
_COUNT = TypeAdapter(int | None)
_FLAG = TypeAdapter(bool | None)


def retriever_app(retriever: Retriever, host: str = "127.0.0.1") -> Starlette:
    """Create the web application of a retriever for the address `host`; the retriever must be safe to use in threads.

    `POST /retrieve` returns `{"result": [[{"document": {"id", "contents"}, "score"}, ...], ...]}`, or bare documents
    without `return_scores`. `contents` is `"Title"` on the first line and the text on the following lines. If `topk` is
    missing, null or 0, there are `DEFAULT_HITS` hits. No queries give `{"result": []}`. Queries that are too long for a
    search are cut. Invalid requests get 422 (or 413) with `{"detail"}`; if the retriever's own external request fails,
    the status is 502.
    `GET /health` returns `{"status": "ok"}`.
    """

    async def retrieve(request: Request) -> JSONResponse:
        try:
            parsed = _parse(await read_body(request, MAX_BODY))
            # Search-R1's trainer asks nothing in a turn in which no episode searches.
            found = await run_in_threadpool(retriever.search, parsed.queries, parsed.count) if parsed.queries else []
        except BodyTooLargeError:
            return JSONResponse({"detail": f"body must have at most {MAX_BODY:,} bytes"}, 413)
        except _RequestError as problem:
            return JSONResponse({"detail": str(problem)}, 422)
        except ServiceError as problem:
            return JSONResponse({"detail": str(problem)}, 502)
        return JSONResponse({"result": [[_answer(hit, parsed.with_scores) for hit in hits] for hits in found]})

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return web_app([Route("/retrieve", retrieve, methods=["POST"]), Route("/health", health)], host)


def serve(
    retriever: Retriever, host: str = "127.0.0.1", port: int = 8000, ready: Callable[[str], None] | None = None
) -> None:
    """Serve a retriever until Ctrl-C, in this process.

    Args:
        retriever: a retriever that is safe to use from several threads.
        host: "0.0.0.0" accepts connections from other machines, without authentication.
        port: 0 picks any free port.
        ready: receives the address as soon as the server accepts connections.

    Raises:
        UserError: the port is in use.
    """
    serve_app(retriever_app(retriever, host), host, port, ready)


@dataclass(frozen=True, slots=True)
class _Request:
    queries: list[str]
    count: int
    with_scores: bool


class _RequestError(Exception):
    """A request that is not of the protocol; the message is for the client."""


def _parse(body: bytes) -> _Request:
    try:
        fields: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise _RequestError("body is not JSON") from None
    if not isinstance(fields, dict):
        raise _RequestError("body is not a JSON object")
    queries = fields.get("queries")
    if not isinstance(queries, list) or not all(isinstance(query, str) for query in queries):
        raise _RequestError("queries must be a list of strings")
    if len(queries) > MAX_QUERIES:
        raise _RequestError(f"queries must have at most {MAX_QUERIES:,} items")
    try:
        count = _COUNT.validate_python(fields.get("topk")) or DEFAULT_HITS
    except ValidationError:
        count = -1
    if not 1 <= count <= MAX_HITS:
        raise _RequestError(f"topk must be an integer from 1 to {MAX_HITS}")
    try:
        with_scores = _FLAG.validate_python(fields.get("return_scores")) or False
    except ValidationError:
        raise _RequestError("return_scores must be true or false") from None
    return _Request([clean_text(query) for query in queries], count, with_scores)


def _answer(hit: Hit, with_score: bool) -> dict[str, Any]:
    document = {"id": clean_text(hit.document.id), "contents": join_contents(hit.document)}
    return {"document": document, "score": hit.score} if with_score else document
