"""A generated encyclopaedia: people, towns, companies, books, films, rivers and awards, and their relations.

Pages are short, and each sentence can be quoted. If several entities share a name, every title is disambiguated, as in
"Silent Harbour (film)". Facts are consistent: teachers are older than their students, and the town at a river's mouth
lies on that river.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import get_args

from empg.environments.deepsearch import names
from empg.environments.deepsearch.options import FEWEST_PAGES, Wording
from empg.environments.deepsearch.relations import RELATIONS, number, plainly
from empg.environments.deepsearch.world import Document
from empg.errors import UserError

SHARES = {"person": 0.40, "town": 0.16, "company": 0.12, "book": 0.12, "film": 0.10, "river": 0.05, "award": 0.05}
_TRADES = ("painter", "pilot", "doctor", "baker", "poet", "judge", "sailor", "singer", "farmer", "dancer")
_NAME = {
    "person": names.person, "town": names.town, "company": names.company, "book": names.work, "film": names.work,
    "river": names.river, "award": names.award,
}  # fmt: skip
_ALIASED = 0.12  # share of people and companies with an alias
_NAMESAKE = 0.05  # share of people that deliberately reuse a name
_FROM_A_BOOK = 0.6  # share of films based on a book; half of these have its name


@dataclass
class Entity:
    """The subject of one page. `title` is unique, `name` may be shared, and `alias` is unique or empty."""

    kind: str
    name: str
    title: str = ""
    alias: str = ""
    trade: str = ""
    facts: dict[str, Entity | int] = field(default_factory=dict)

    def value(self, relation: str) -> str:
        """Return a fact's object in the wording of the pages."""
        value = self.facts[relation]
        return value.title if isinstance(value, Entity) else number(relation, value)


@dataclass(frozen=True)
class Encyclopaedia:
    """Entities by kind, and their pages."""

    by_kind: Mapping[str, tuple[Entity, ...]]
    wording: Wording = "varied"

    @cached_property
    def documents(self) -> tuple[Document, ...]:
        """The pages, grouped by kind."""
        entities = [entity for kind in SHARES for entity in self.by_kind[kind]]
        return tuple(Document(f"page-{row}", e.title, _page(e, row, self.wording)) for row, e in enumerate(entities))


def make_encyclopaedia(pages: int = 2_000, seed: int = 0, wording: Wording = "varied") -> Encyclopaedia:
    """Generate `pages` pages. The same arguments give the same pages everywhere.

    A page states a fact in one of several ways, or with `wording="plain"` always in the form "Employer Oak Mills.",
    which a small model learns to quote.

    Raises:
        UserError: with fewer than 50 pages some kinds of questions cannot be generated, or the wording is unknown.
    """
    if wording not in get_args(Wording):
        raise UserError(f"wording={wording!r}: expected one of {', '.join(get_args(Wording))}")
    if pages < FEWEST_PAGES:
        raise UserError(f"pages={pages}: expected at least {FEWEST_PAGES}")
    rng = random.Random(f"encyclopaedia {seed}")
    counts = {kind: max(2, round(pages * share)) for kind, share in SHARES.items()}
    counts["person"] += pages - sum(counts.values())
    by_kind = {kind: tuple(_named(kind, count, rng)) for kind, count in counts.items()}
    _relate(by_kind, rng)
    everyone = [entity for kind in SHARES for entity in by_kind[kind]]
    _tell_apart(everyone)
    _give_aliases(everyone, rng)
    return Encyclopaedia(by_kind, wording)


def _named(kind: str, count: int, rng: random.Random) -> list[Entity]:
    entities: list[Entity] = []
    for index in range(count):
        namesake = kind == "person" and index > 0 and rng.random() < _NAMESAKE
        name = rng.choice(entities).name if namesake else _NAME[kind](rng)
        entities.append(Entity(kind, name, trade=rng.choice(_TRADES) if kind == "person" else ""))
    return entities


def _relate(by_kind: Mapping[str, tuple[Entity, ...]], rng: random.Random) -> None:
    """Assign random facts to every entity, except for those that must be consistent."""
    for relation in RELATIONS:
        target = relation.target
        choices: Sequence[Entity | int] = by_kind[target] if isinstance(target, str) else target
        for entity in by_kind[relation.kind]:
            entity.facts[relation.name] = rng.choice(choices)
    _choose_teachers(by_kind["person"], rng)
    mouths = rng.sample(by_kind["town"], len(by_kind["river"]))
    for river, town in zip(by_kind["river"], mouths, strict=True):
        river.facts["mouth"], town.facts["river"] = town, river
    for film in by_kind["film"]:
        book = film.facts["source"]
        if rng.random() >= _FROM_A_BOOK:
            del film.facts["source"]
        elif isinstance(book, Entity) and rng.random() < 0.5:
            film.name = book.name


def _choose_teachers(people: tuple[Entity, ...], rng: random.Random) -> None:
    """Choose for everyone a teacher born in an earlier year; the oldest people have none."""

    def born(person: Entity) -> int:
        year = person.facts["birth year"]
        assert isinstance(year, int)
        return year

    by_age = sorted(people, key=born)
    years = [born(person) for person in by_age]
    for person in people:
        elders = bisect_left(years, born(person))
        if elders:
            person.facts["teacher"] = by_age[rng.randrange(elders)]
        else:
            del person.facts["teacher"]


def _tell_apart(entities: list[Entity]) -> None:
    """Assign titles: the name; if it is shared, the name with kind or trade; if that is shared too, with a number."""
    sharing: dict[str, int] = {}
    for entity in entities:
        sharing[entity.name] = sharing.get(entity.name, 0) + 1
    taken: dict[str, int] = {}
    for entity in entities:
        if sharing[entity.name] == 1:
            entity.title = entity.name
            continue
        title = f"{entity.name} ({entity.trade or entity.kind})"
        taken[title] = taken.get(title, 0) + 1
        entity.title = title if taken[title] == 1 else f"{title[:-1]} {taken[title]})"


def _give_aliases(entities: list[Entity], rng: random.Random) -> None:
    taken = {entity.name for entity in entities}
    for entity in entities:
        if entity.kind not in ("person", "company") or rng.random() >= _ALIASED:
            continue
        initials = "".join(word[0] for word in entity.name.split()) + str(rng.randint(10, 99))
        alias = names.nickname(rng, entity.name) if entity.kind == "person" else initials
        if alias not in taken:
            taken.add(alias)
            entity.alias = alias


def _page(entity: Entity, row: int, wording: Wording) -> str:
    what = f"{entity.name} is a {entity.trade or entity.kind}."
    parts = [what.replace(" a award", " an award")]
    if entity.alias:
        parts.append(f"Also called {entity.alias}.")
    for place, relation in enumerate(RELATIONS):
        if relation.name in entity.facts and relation.kind == entity.kind:
            value = entity.value(relation.name)
            varied = relation.sentences[(row * 7 + place * 3) % len(relation.sentences)]
            parts.append(plainly(relation.name, value) if wording == "plain" else varied.format(n=entity.name, v=value))
    return " ".join(parts)
