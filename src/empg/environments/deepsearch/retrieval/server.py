"""A retriever on the network, as Search-R1's server answers: `POST /retrieve {queries, topk, return_scores}`."""

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

from empg.environments.deepsearch.retrieval.query import MAX_HITS, clean_text
from empg.environments.deepsearch.world import Document, Hit, RetrievalError, Retriever
from empg.environments.serving import serve_app

MAX_BODY = 16 << 20  # bytes
MAX_QUERIES = 4_096  # in one request: Search-R1 asks for a whole batch at once
DEFAULT_HITS = 3
# Its server's fields are pydantic's, which read "3", 3.0 and "true" as they are meant.
_COUNT = TypeAdapter(int | None)
_FLAG = TypeAdapter(bool)


def retriever_app(retriever: Retriever) -> Starlette:
    """The web application of a retriever, which must be safe to use from several threads.

    `POST /retrieve` answers `{"result": [[{"document": {"id", "contents"}, "score"}, ...], ...]}`, or the bare
    documents without `return_scores`; `contents` is `"Title"` and the text on the lines after it. Without `topk`, or
    with 0, there are `DEFAULT_HITS`; queries that are too long for a search are cut. What cannot be answered is 422 (or
    413) with `{"detail"}`, and 502 where the retriever itself asks another machine in vain.
    `GET /health` answers `{"status": "ok"}`.
    """

    async def retrieve(request: Request) -> JSONResponse:
        try:
            asked = _read(await _body(request))
            found = await run_in_threadpool(retriever.search, asked.queries, asked.count)
        except _Refused as problem:
            return JSONResponse({"detail": str(problem)}, problem.status)
        except RetrievalError as problem:
            return JSONResponse({"detail": str(problem)}, 502)
        return JSONResponse({"result": [[_answer(hit, asked.with_scores) for hit in hits] for hits in found]})

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return Starlette(routes=[Route("/retrieve", retrieve, methods=["POST"]), Route("/health", health)])


def serve(
    retriever: Retriever, host: str = "127.0.0.1", port: int = 8000, ready: Callable[[str], None] | None = None
) -> None:
    """Serve a retriever until Ctrl-C, in this process.

    Args:
        retriever: safe to use from several threads.
        host: "0.0.0.0" answers to other machines; there is no password.
        port: 0 takes any free one.
        ready: told the address as soon as it answers.

    Raises:
        OSError: the port is taken.
    """
    serve_app(retriever_app(retriever), host, port, ready)


@dataclass(frozen=True, slots=True)
class _Asked:
    queries: list[str]
    count: int
    with_scores: bool


class _Refused(Exception):
    def __init__(self, reason: str, status: int = 422) -> None:
        super().__init__(reason)
        self.status = status


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise _Refused(f"the body is longer than {MAX_BODY:,} bytes", 413)
    return bytes(body)


def _read(body: bytes) -> _Asked:
    try:
        asked: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise _Refused("the body is no JSON") from None
    if not isinstance(asked, dict):
        raise _Refused("the body is no JSON object")
    queries = asked.get("queries")
    if not isinstance(queries, list) or not queries or not all(isinstance(query, str) for query in queries):
        raise _Refused("queries: give a list of texts")
    if len(queries) > MAX_QUERIES:
        raise _Refused(f"queries: at most {MAX_QUERIES:,} at once")
    try:
        count = _COUNT.validate_python(asked.get("topk")) or DEFAULT_HITS
    except ValidationError:
        count = -1
    if not 1 <= count <= MAX_HITS:
        raise _Refused(f"topk: give a whole number from 1 to {MAX_HITS}")
    try:
        with_scores = _FLAG.validate_python(asked.get("return_scores", False))
    except ValidationError:
        raise _Refused("return_scores: give true or false") from None
    return _Asked([clean_text(query) for query in queries], count, with_scores)


def _answer(hit: Hit, with_score: bool) -> dict[str, Any]:
    document = {"id": clean_text(hit.document.id), "contents": contents(hit.document)}
    return {"document": document, "score": hit.score} if with_score else document


def contents(document: Document) -> str:
    """A document as Search-R1's corpora hold it; a title has one line there."""
    return clean_text(f'"{" ".join(document.title.splitlines())}"\n{document.text}')
