"""A small hand-written set of documents and questions."""

from __future__ import annotations

from collections.abc import Sequence

from empg.environments.deepsearch.world import Document, Hit, Hop, Question
from empg.web.errors import ServiceError

DOCUMENTS = [
    Document("1", "Silent Harbour", "Silent Harbour is a film of 1962. It was directed by Mara Quill."),
    Document("2", "Mara Quill", "Mara Quill is a film director. She was born in Dunmere in 1921."),
    Document("3", "Mara Quill (painter)", "Mara Quill is a painter from Ostrey."),
    Document("4", "Dunmere", "Dunmere is a town on the Lorrow, with many words about it that nobody has to read."),
    Document("5", "The Salt Road", "The Salt Road is a film of 1971. It was directed by Ivo Brandt."),
]
BRIDGE = Question(
    "q1",
    "Where was the director of Silent Harbour born?",
    ("Dunmere", "Town of Dunmere"),
    "2-hop bridge",
    "tests",
    (
        Hop("director of Silent Harbour", "Silent Harbour", "Mara Quill"),
        Hop("birthplace of Mara Quill", "Mara Quill", "Dunmere"),
    ),
)
COMPARISON = Question(
    "q2",
    "Which film is older, Silent Harbour or The Salt Road?",
    ("Silent Harbour",),
    "comparison",
    "tests",
    (Hop("year of Silent Harbour", "Silent Harbour", "1962"), Hop("year of The Salt Road", "The Salt Road", "1971")),
)
BARE = Question("q3", "On which river is Dunmere?", ("Lorrow",), "open", "tests")


class Pages:
    """The library of `DOCUMENTS`."""

    def open(self, name: str) -> Document | None:
        return next((d for d in DOCUMENTS if d.title.casefold() == " ".join(name.split()).casefold()), None)


class Failing:
    """A retriever whose server is unreachable."""

    def search(self, queries: Sequence[str], k: int) -> list[list[Hit]]:
        raise ServiceError("http://127.0.0.1:9: connection refused\nafter 3 attempts")


def exact(question: Question, answer: str) -> float:
    return float(answer in question.answers)
