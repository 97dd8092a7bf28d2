"""What Deep Search is made of: documents, questions with the chain that answers them, and what asks a corpus."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """A page or passage. `title` is what `open[...]` names it by, or `id`: a web page's is its address."""

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Hop:
    """One step of the reasoning that answers a question: what to search for, where it stands, what it yields.

    `query` is what one would search for, knowing the question and the values of the hops before. `title` is the page
    that states the fact and `value` the fact's object as the page words it. `fact` says it in a sentence, to be
    quoted; empty where the data has none.
    """

    query: str
    title: str
    value: str
    fact: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with every answer that counts as right; the first is the canonical one.

    `kind` is its task type: hop count and shape of the generated ones ("2-hop bridge"), the dataset's own word
    otherwise. `source` names the dataset. `hops` is the gold chain, empty where the data has none; in it, `Hop.query`
    may be the title of a gold page where the data says no more.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    kind: str
    source: str
    hops: tuple[Hop, ...] = ()


@dataclass(frozen=True, slots=True)
class State:
    """Where an episode is.

    Attributes:
        listed: the results of the last search.
        found: those of all searches, the newest first: they can still be opened.
        page: what the last observation shows whole, if it shows a page.
        answer: set by the turn that ends the episode.
        steps: turns taken.
    """

    listed: tuple[Document, ...] = ()
    found: tuple[Document, ...] = ()
    page: Document | None = None
    answer: str | None = None
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Hit:
    """A document that a search found; higher scores are better, and comparable within one search only."""

    document: Document
    score: float


class RetrievalError(Exception):
    """A search or a page could not be had from outside (dead server, time-out, refused key); the message says why."""


class NoVerdict(Exception):
    """Whether an answer is right could not be found out; the message says why. It counts as wrong, and is told."""


class Retriever(Protocol):
    """Finds documents for queries, best first; the same query gives the same hits in the same order."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """At most `k` hits for each query.

        Raises:
            RetrievalError: the search is done elsewhere and failed.
        """
        ...


class Library(Protocol):
    """Gives whole pages by what the agent calls them."""

    def open(self, name: str) -> Document | None:
        """The page of that title or address, or None where there is none.

        Titles match without regard to case and spaces; all passages of one title are one page.

        Raises:
            RetrievalError: the page is elsewhere and could not be had.
        """
        ...
