"""Clean the queries of agents, which can be any text, so that they are safe to index, to send and to store."""

from __future__ import annotations

from collections.abc import Sequence

from empg.errors import UserError
from empg.web.text import clean_text

MAX_QUERY = 1_000  # characters; the rest is cut. The longest questions of the known datasets have about 400
MAX_HITS = 100  # per query


def clean_query(query: str) -> str:
    """Return a query on one line, without characters that cannot be encoded, cut to `MAX_QUERY` characters."""
    return " ".join(clean_text(query[: 4 * MAX_QUERY]).replace("\0", " ").split())[:MAX_QUERY]


def check_count(k: int) -> None:
    """Check the number of requested hits.

    Raises:
        UserError: it is below 1 or above `MAX_HITS`.
    """
    if not 1 <= k <= MAX_HITS:
        raise UserError(f"invalid number of hits: expected 1 to {MAX_HITS}, got {k}")


def check_corpus(documents: Sequence[object]) -> None:
    """Check that a corpus has documents.

    Raises:
        UserError: the corpus is empty.
    """
    if not len(documents):
        raise UserError("the corpus is empty: there is nothing to search")
