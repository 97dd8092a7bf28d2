"""The generated encyclopaedia has the requested number of short pages, consistent facts and unique titles."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections import defaultdict
from functools import cache

import pytest

from empg.environments.deepsearch.actions import folded
from empg.environments.deepsearch.encyclopaedia import Encyclopaedia, Entity, make_encyclopaedia
from empg.environments.deepsearch.relations import RELATIONS
from empg.environments.deepsearch.scoring import normalize


@cache
def world() -> Encyclopaedia:
    return make_encyclopaedia()


def entities() -> list[Entity]:
    return [entity for kind in world().by_kind.values() for entity in kind]


def test_the_number_of_pages_is_as_requested_and_titles_are_unique() -> None:
    assert len(world().documents) == 2_000
    assert len({folded(document.title) for document in world().documents}) == 2_000
    assert len({document.id for document in world().documents}) == 2_000
    assert len(make_encyclopaedia(50).documents) == 50
    assert len(make_encyclopaedia(5_003, seed=4).documents) == 5_003
    with pytest.raises(ValueError, match="pages=49: expected at least 50"):
        make_encyclopaedia(49)


def test_every_kind_has_short_pages() -> None:
    assert set(world().by_kind) == {"person", "town", "company", "book", "film", "river", "award"}
    assert all(world().by_kind.values())
    words = sorted(len(document.text.split()) for document in world().documents)
    assert words[0] >= 15
    assert words[1_900] <= 40  # 95% of the pages
    assert words[-1] <= 50


def test_a_page_states_each_fact_in_its_own_sentence() -> None:
    pages = {document.title: document.text for document in world().documents}
    for entity in entities():
        stated = [relation for relation in RELATIONS if relation.kind == entity.kind and relation.name in entity.facts]
        assert {relation.name for relation in stated} == set(entity.facts)
        for relation in stated:
            wordings = [s.format(n=entity.name, v=entity.value(relation.name)) for s in relation.sentences]
            assert sum(sentence in pages[entity.title] for sentence in wordings) == 1


def test_every_wording_of_a_fact_is_used() -> None:
    text = " ".join(document.text for document in world().documents)
    for relation in RELATIONS:
        for sentence in relation.sentences:
            assert re.search(re.escape(sentence).replace(r"\{n\}", ".+?").replace(r"\{v\}", ".+?"), text)


# ---- consistent facts -----------------------------------------------------------------------------------------------


def _link(entity: Entity, relation: str) -> Entity:
    value = entity.facts[relation]
    assert isinstance(value, Entity)
    return value


def _year(entity: Entity, relation: str) -> int:
    value = entity.facts[relation]
    assert isinstance(value, int)
    return value


def test_the_values_of_facts_have_the_declared_kind() -> None:
    for relation in RELATIONS:
        for entity in world().by_kind[relation.kind]:
            value = entity.facts.get(relation.name)
            if isinstance(relation.target, range):
                assert value in relation.target
            elif isinstance(value, Entity):
                assert value.kind == relation.target
            else:
                assert value is None
                assert relation.name in ("source", "teacher")  # every entity has all other relations


def test_the_order_of_years_is_consistent() -> None:
    by_kind = world().by_kind
    for person in by_kind["person"]:
        if "teacher" in person.facts:
            assert _year(_link(person, "teacher"), "birth year") < _year(person, "birth year")
        else:
            assert all(_year(person, "birth year") <= _year(other, "birth year") for other in by_kind["person"])
    for kind, by, year in (("company", "founder", "founding year"), ("book", "author", "publication year"),
                           ("film", "director", "release year")):  # fmt: skip
        assert all(_year(_link(work, by), "birth year") < _year(work, year) for work in by_kind[kind])
    films = [film for film in by_kind["film"] if "source" in film.facts]
    assert 80 < len(films) < 160  # of 200
    assert all(_year(_link(film, "source"), "publication year") < _year(film, "release year") for film in films)


def test_the_town_at_a_river_s_mouth_lies_on_the_river() -> None:
    assert all(_link(_link(river, "mouth"), "river") is river for river in world().by_kind["river"])


# ---- names ----------------------------------------------------------------------------------------------------------


def test_shared_names_are_disambiguated_in_titles() -> None:
    by_name: dict[str, list[Entity]] = defaultdict(list)
    for entity in entities():
        by_name[entity.name].append(entity)
    shared = [named for named in by_name.values() if len(named) > 1]
    assert len(shared) > 100
    assert any({entity.kind for entity in named} == {"film", "book"} for named in shared)
    assert any({entity.kind for entity in named} == {"person"} for named in shared)
    for named in shared:
        assert all(re.fullmatch(re.escape(e.name) + r" \(\w+( \d+)?\)", e.title) for e in named)
    assert all(named[0].title == named[0].name for named in by_name.values() if len(named) == 1)


def test_different_names_stay_different_after_normalisation() -> None:
    names = {entity.name for entity in entities()} | {entity.alias for entity in entities() if entity.alias}
    assert len({normalize(name) for name in names}) == len(names)
    assert all(len(normalize(name).split()) == len(name.split()) for name in names)  # no name contains an article


def test_an_alias_is_unique_and_on_the_page_of_its_entity() -> None:
    aliases = [entity.alias for entity in entities() if entity.alias]
    assert len(aliases) > 50
    assert len(set(aliases)) == len(aliases)
    assert not set(aliases) & {entity.name for entity in entities()}
    pages = {document.title: document.text for document in world().documents}
    assert all(f"Also called {entity.alias}." in pages[entity.title] for entity in entities() if entity.alias)


# ---- seeds and sizes ------------------------------------------------------------------------------------------------

_PROGRAM = """
import hashlib
from empg.environments.deepsearch.encyclopaedia import make_encyclopaedia
from empg.environments.deepsearch.questions import make_questions
world = make_encyclopaedia(300, seed=7)
text = repr(world.documents) + "".join(repr(make_questions(world, s)) for s in ("train", "valid_id", "valid_ood"))
print(hashlib.sha256(text.encode()).hexdigest())
"""


def test_the_same_seed_gives_the_same_encyclopaedia_in_every_process() -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM], env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("0", "1")
    }  # fmt: skip
    assert len(digests) == 1
    assert len(digests.pop()) == 65
    assert make_encyclopaedia(300, seed=7).documents != make_encyclopaedia(300, seed=8).documents


def test_the_work_of_generation_grows_linearly() -> None:
    """Calls of functions and comparisons of titles, which no other program on the machine changes."""
    calls = []
    for pages in (1_000, 10_000):
        count = itertools.count()
        sys.setprofile(lambda *event, count=count: next(count))
        try:
            documents = make_encyclopaedia(pages).documents
        finally:
            sys.setprofile(None)
        calls.append(next(count))
        assert len({document.title for document in documents}) == pages
    assert 8 * calls[0] < calls[1] < 12 * calls[0]  # quadratic growth would take 100 times as many
