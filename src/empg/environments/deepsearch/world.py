"""Data model of Deep Search: documents, questions with their gold chains, the state, and the retriever protocols."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Document:
    """A page or passage. `open[...]` names it by `title`, by `id` or by its number in the results.

    The id of a web page is its address.
    """

    id: str
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Hop:
    """One reasoning step towards the answer of a question: a query, the page with the fact, and the fact's value.

    `query` is a search query that needs only the question and the values of earlier hops. `title` is the page that
    states the fact. `value` is the fact's object in the page's wording. `fact` states it in a quotable sentence; it is
    empty if the data has none.
    """

    query: str
    title: str
    value: str
    fact: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """A question with all answers that count as correct; the first is the canonical one.

    `kind` is the task type: hop count and shape of generated questions ("2-hop bridge"), else the dataset's own term.
    `source` is the name of the dataset. `hops` is the gold chain; it is empty if the data has none. `Hop.query` is the
    title of a gold page if the data has nothing more specific.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    kind: str
    source: str
    hops: tuple[Hop, ...] = ()


@dataclass(frozen=True, slots=True)
class Reading:
    """A part of a page, as it was shown: part number `part`, counted from 1, of `parts`."""

    page: Document
    text: str
    part: int
    parts: int


@dataclass(frozen=True, slots=True)
class State:
    """The state of an episode.

    Attributes:
        listed: the results of the last search.
        found: the results of all searches, newest first; they can still be opened.
        reading: the part of a page that was shown last; `next` shows the following one.
        page: the page in the last observation, if it shows one.
        read: the titles of all pages that were shown, folded.
        answer: set by the turn that ends the episode.
        steps: number of turns taken.
    """

    listed: tuple[Document, ...] = ()
    found: tuple[Document, ...] = ()
    reading: Reading | None = None
    page: Document | None = None
    read: frozenset[str] = frozenset()
    answer: str | None = None
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Hit:
    """A document found by a search. Higher scores are better; scores are comparable only within one search."""

    document: Document
    score: float


class NoVerdict(Exception):
    """The judge returned no verdict; the message says why. The answer counts as wrong, and the failure is reported."""


class Retriever(Protocol):
    """Finds documents for queries, best first. The same query returns the same hits in the same order."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        """Return at most `k` hits per query.

        Raises:
            ServiceError: an external search failed. The agent reads the message in the observation of the failed turn
                (`pages.failed`).
        """
        ...


class Library(Protocol):
    """Opens whole pages by title or address."""

    def open(self, name: str) -> Document | None:
        """Return the page with this title or address, or None if it does not exist.

        Titles match without regard to case and spaces. All passages of one title form one page.

        Raises:
            ServiceError: an external page could not be fetched; see `Retriever`.
        """
        ...
