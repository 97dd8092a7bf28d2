"""What a recipe says of searching, read once: whatever is wrong there is an error of one line that names its key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from empg.errors import UserError

if TYPE_CHECKING:
    from empg.environments.deepsearch.retrieval.transport import RequestPolicy

Pooling = Literal["mean", "cls"]


@dataclass(frozen=True, slots=True)
class Requests:
    """How other machines are asked, where it differs from what is usual (`transport.RequestPolicy`)."""

    per_second: float | None = None
    timeout: float | None = None
    attempts: int | None = None

    def over(self, usual: RequestPolicy) -> RequestPolicy:
        """The usual request_policy with these in their place."""
        return replace(
            usual,
            per_second=usual.per_second if self.per_second is None else self.per_second,
            timeout=usual.timeout if self.timeout is None else self.timeout,
            attempts=usual.attempts if self.attempts is None else self.attempts,
        )


@dataclass(frozen=True, slots=True)
class Embedding:
    """A sentence-embedding model, as `encoder.HuggingFaceEncoder` takes it."""

    folder: Path
    query_prefix: str = ""
    document_prefix: str = ""
    pooling: Pooling | None = None
    max_tokens: int | None = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class Searching:
    """How a corpus or the web is searched; hashable, so that what is made of it can be shared.

    Attributes:
        retriever: "bm25", "tantivy" or "dense" over a corpus; the address of a server that answers `/retrieve`; or a
            search provider of the web ("serper", "tavily", "brave", "searxng").
        encoder: of "dense".
        faiss: the index of "dense", as faiss's factory names it ("Flat", "HNSW32", "IVF4096,PQ64"); None compares with
            every vector.
        requests: to servers, providers and pages.
        cache: a folder that keeps indices and what other machines answered. None keeps no answers, and an index only
            where the corpus has a place for it.
    """

    retriever: str = "bm25"
    encoder: Embedding | None = None
    faiss: str | None = None
    requests: Requests = field(default_factory=Requests)
    cache: Path | None = None

    def __post_init__(self) -> None:
        if self.faiss is not None and self.retriever != "dense":
            raise UserError(f"faiss={self.faiss!r} is for retriever='dense', this is {self.retriever!r}")
        if self.retriever == "dense" and self.encoder is None:
            raise UserError("retriever='dense' needs encoder: the folder of a sentence-embedding model")


def read_searching(retriever: Any, encoder: Any, faiss: Any, requests: Any, cache: Any) -> Searching:
    """The options of a recipe, checked.

    Raises:
        UserError: one of them is of another kind, or is not known; the message names it.
    """
    return Searching(
        text("retriever", retriever),
        _read_encoder(encoder),
        None if faiss is None else text("faiss", faiss),
        read_requests("requests", requests),
        None if cache is None else Path(text("cache", cache)),
    )


def read_requests(name: str, said: Any) -> Requests:
    """`{per_second, timeout, attempts}`, each of them optional.

    Raises:
        UserError: it is something else; the message names the key.
    """
    known = _mapping(name, {} if said is None else said, ("per_second", "timeout", "attempts"))
    per_second, timeout, attempts = (known.get(key) for key in ("per_second", "timeout", "attempts"))
    return Requests(
        None if per_second is None else number(f"{name}.per_second", per_second),
        None if timeout is None else number(f"{name}.timeout", timeout),
        None if attempts is None else whole(f"{name}.attempts", attempts, 1),
    )


def _read_encoder(said: Any) -> Embedding | None:
    if said is None:
        return None
    keys = ("folder", "query_prefix", "document_prefix", "pooling", "max_tokens", "device")
    known = _mapping("encoder", {"folder": said} if isinstance(said, str) else said, keys)
    if "folder" not in known:
        raise UserError("encoder.folder is not given: name the folder of a sentence-embedding model")
    pooling, max_tokens = known.get("pooling"), known.get("max_tokens")
    if pooling is not None and pooling not in get_args(Pooling):
        raise UserError(f"encoder.pooling={pooling!r:.80}: one of {', '.join(get_args(Pooling))}")
    return Embedding(
        Path(text("encoder.folder", known["folder"])),
        text("encoder.query_prefix", known.get("query_prefix", ""), empty=True),
        text("encoder.document_prefix", known.get("document_prefix", ""), empty=True),
        pooling,
        None if max_tokens is None else whole("encoder.max_tokens", max_tokens, 1),
        text("encoder.device", known.get("device", "cpu")),
    )


def text(name: str, value: Any, *, empty: bool = False) -> str:
    """A text.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(value, str) or not (value or empty):
        raise UserError(f"{name}={value!r:.80}: a text is needed")
    return value


def whole(name: str, value: Any, lowest: int | None = None) -> int:
    """A whole number.

    Raises:
        UserError: it is something else, or below the lowest.
    """
    if isinstance(value, bool) or not isinstance(value, int) or (lowest is not None and value < lowest):
        least = "" if lowest is None else f", at least {lowest}"
        raise UserError(f"{name}={value!r:.80}: a whole number is needed{least}")
    return value


def number(name: str, value: Any) -> float:
    """A positive number.

    Raises:
        UserError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise UserError(f"{name}={value!r:.80}: a positive number is needed")
    return float(value)


def _mapping(name: str, value: Any, keys: tuple[str, ...]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise UserError(f"{name}={value!r:.80}: a mapping is needed (known: {', '.join(keys)})")
    unknown = [key for key in value if key not in keys]
    if unknown:
        raise UserError(f"{name}.{unknown[0]!s:.80} is not known (known: {', '.join(keys)})")
    return value
