"""Queries as agents write them: any text at all, made safe to index, to send and to store."""

from __future__ import annotations

from collections.abc import Sequence

from empg.errors import UserError

MAX_QUERY = 1_000  # characters; the rest is cut. The longest questions of the known datasets have about 400
MAX_HITS = 100  # for one query


def clean_query(query: str) -> str:
    """On one line, without characters that no encoding carries, cut at `MAX_QUERY` characters."""
    return " ".join(clean_text(query[: 4 * MAX_QUERY]).replace("\0", " ").split())[:MAX_QUERY]


def clean_text(text: str) -> str:
    """The text with halves of surrogate pairs, which JSON can smuggle in, replaced by question marks."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def check_count(k: int) -> None:
    """Refuse a number of hits that is none.

    Raises:
        UserError: it is below 1 or above `MAX_HITS`.
    """
    if not 1 <= k <= MAX_HITS:
        raise UserError(f"{k} hits were asked for: ask for 1 to {MAX_HITS}")


def check_corpus(documents: Sequence[object]) -> None:
    """Refuse a corpus without documents.

    Raises:
        UserError: it is empty.
    """
    if not len(documents):
        raise UserError("the corpus is empty: there is nothing to search")
