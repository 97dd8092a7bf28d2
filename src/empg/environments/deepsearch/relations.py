"""The relations of the generated encyclopaedia, with the wording of their statements and questions."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation with one value per entity, so that a chain of relations has a unique end.

    `kind` is the kind of its entities. `target` is the kind of its value, or the range of a number. `sentences` are
    ways to state it on a page ({n}: the entity, {v}: the value). `question` asks for the value for {x}.
    """

    name: str
    kind: str
    target: str | range
    sentences: tuple[str, ...]
    question: str


# Quantities are round, so that they have few tokens. Years are consistent: founders, authors, directors and winners are
# born before the event, and a book is older than its films.
RELATIONS = (
    Relation("birthplace", "person", "town",
             ("The birthplace of {n} is {v}.", "{n} was born in {v}."), "Where was {x} born?"),
    Relation("birth year", "person", range(1900, 1950),
             ("The birth year of {n} is {v}.", "{n} was born in the year {v}."), "In which year was {x} born?"),
    Relation("employer", "person", "company",
             ("The employer of {n} is {v}.", "{n} works for {v}."), "Which company does {x} work for?"),
    Relation("teacher", "person", "person",
             ("The teacher of {n} was {v}.", "{n} was taught by {v}."), "Who taught {x}?"),
    Relation("mayor", "town", "person",
             ("The mayor of {n} is {v}.", "Its mayor is {v}."), "Who is the mayor of {x}?"),
    Relation("river", "town", "river",
             ("The river of {n} is the {v}.", "It lies on the river {v}."), "Which river does {x} lie on?"),
    Relation("population", "town", range(500, 100_000, 500),
             ("The population of {n} is {v}.", "It has a population of {v}."), "How many people live in {x}?"),
    Relation("founder", "company", "person",
             ("The founder of {n} is {v}.", "Its founder is {v}."), "Who founded {x}?"),
    Relation("seat", "company", "town",
             ("The seat of {n} is {v}.", "It has its seat in {v}."), "In which town is {x} based?"),
    Relation("founding year", "company", range(1970, 2000),
             ("The founding year of {n} is {v}.", "It was founded in the year {v}."), "In which year was {x} founded?"),
    Relation("author", "book", "person",
             ("The author of {n} is {v}.", "It was written by {v}."), "Who wrote {x}?"),
    Relation("publication year", "book", range(1970, 1990),
             ("The publication year of {n} is {v}.", "It was published in the year {v}."),
             "In which year was {x} published?"),
    Relation("director", "film", "person",
             ("The director of {n} is {v}.", "It was directed by {v}."), "Who directed {x}?"),
    Relation("source", "film", "book",
             ("The source of {n} is the book {v}.", "It is based on the book {v}."), "Which book is {x} based on?"),
    Relation("release year", "film", range(1990, 2020),
             ("The release year of {n} is {v}.", "It was released in the year {v}."),
             "In which year was {x} released?"),
    Relation("length", "river", range(20, 2_000, 20),
             ("The length of the {n} is {v} km.", "It has a length of {v} km."), "How many km long is {x}?"),
    Relation("mouth", "river", "town",
             ("The mouth of the {n} is at {v}.", "It reaches the sea at {v}."), "Where does {x} reach the sea?"),
    Relation("winner", "award", "person",
             ("The winner of the {n} is {v}.", "It was won by {v}."), "Who won {x}?"),
    Relation("sponsor", "award", "company",
             ("The sponsor of the {n} is {v}.", "It is given by {v}."), "Which company gives {x}?"),
)  # fmt: skip
RELATION = {relation.name: relation for relation in RELATIONS}
INVERSE = ("mouth", "river")  # the river of a river's mouth is that river, so this chain is trivial


def number(relation: str, value: int) -> str:
    """Format a number like the pages: years without commas, quantities with commas."""
    return str(value) if relation.endswith("year") else f"{value:,}"


def plainly(relation: str, value: str) -> str:
    """Return a fact in the plain form "Relation value.", which a model can quote by copying."""
    return f"{relation.capitalize()} {value}."
