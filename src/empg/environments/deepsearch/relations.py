"""What is told of each kind of thing in the made-up encyclopaedia, and in which words it is stated and asked for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relation:
    """A relation that gives an entity one value, so that a chain of relations has one end.

    `kind` is the kind of entity that has it; `target` the kind of its value, or the numbers that the value is one of.
    `sentences` are ways to state it on a page ({n}: the entity, {v}: the value); `question` asks for it of {x}.
    """

    name: str
    kind: str
    target: str | range
    sentences: tuple[str, ...]
    question: str


# Quantities are round, for few tokens. The years keep order: whoever founds, writes, directs or wins was born before,
# and a book is older than its films.
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
INVERSE = ("mouth", "river")  # a river's mouth lies on that river: this chain says nothing


def number(relation: str, value: int) -> str:
    """A number in words of a page: years plainly, quantities with commas."""
    return str(value) if relation.endswith("year") else f"{value:,}"


def plainly(relation: str, value: str) -> str:
    """A fact as a table has it: the value follows its name at once, so that whoever can copy can quote it."""
    return f"{relation.capitalize()} {value}."
