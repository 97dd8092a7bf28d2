"""The generated encyclopaedia: as many pages as asked for, each short, its facts in agreement, its names told apart."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
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


def test_there_are_as_many_pages_as_asked_for_and_every_title_opens_another() -> None:
    assert len(world().documents) == 2_000
    assert len({folded(document.title) for document in world().documents}) == 2_000
    assert len({document.id for document in world().documents}) == 2_000
    assert len(make_encyclopaedia(50).documents) == 50
    assert len(make_encyclopaedia(5_003, seed=4).documents) == 5_003
    with pytest.raises(ValueError, match="pages=49: at least 50"):
        make_encyclopaedia(49)


def test_every_kind_of_thing_has_pages_and_they_are_short() -> None:
    assert set(world().by_kind) == {"person", "town", "company", "book", "film", "river", "award"}
    assert all(world().by_kind.values())
    words = sorted(len(document.text.split()) for document in world().documents)
    assert words[0] >= 15
    assert words[1_900] <= 40  # 95 in 100
    assert words[-1] <= 50


def test_a_page_states_every_fact_of_its_entity_in_a_sentence_of_its_own() -> None:
    pages = {document.title: document.text for document in world().documents}
    for entity in entities():
        told = [relation for relation in RELATIONS if relation.kind == entity.kind and relation.name in entity.facts]
        assert {relation.name for relation in told} == set(entity.facts)
        for relation in told:
            stated = [s.format(n=entity.name, v=entity.value(relation.name)) for s in relation.sentences]
            assert sum(sentence in pages[entity.title] for sentence in stated) == 1


def test_each_way_to_state_a_fact_is_used() -> None:
    text = " ".join(document.text for document in world().documents)
    for relation in RELATIONS:
        for sentence in relation.sentences:
            assert re.search(re.escape(sentence).replace(r"\{n\}", ".+?").replace(r"\{v\}", ".+?"), text)


# ---- facts that agree -----------------------------------------------------------------------------------------------


def _link(entity: Entity, relation: str) -> Entity:
    value = entity.facts[relation]
    assert isinstance(value, Entity)
    return value


def _year(entity: Entity, relation: str) -> int:
    value = entity.facts[relation]
    assert isinstance(value, int)
    return value


def test_facts_lead_to_the_kind_that_they_are_declared_to() -> None:
    for relation in RELATIONS:
        for entity in world().by_kind[relation.kind]:
            value = entity.facts.get(relation.name)
            if isinstance(relation.target, range):
                assert value in relation.target
            elif isinstance(value, Entity):
                assert value.kind == relation.target
            else:
                assert value is None
                assert relation.name in ("source", "teacher")  # all others are told of everyone


def test_what_happens_first_is_older() -> None:
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


def test_the_mouth_of_a_river_lies_on_it() -> None:
    assert all(_link(_link(river, "mouth"), "river") is river for river in world().by_kind["river"])


# ---- names ----------------------------------------------------------------------------------------------------------


def test_namesakes_are_told_apart_in_every_title() -> None:
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


def test_the_scoring_of_answers_tells_different_names_apart() -> None:
    names = {entity.name for entity in entities()} | {entity.alias for entity in entities() if entity.alias}
    assert len({normalize(name) for name in names}) == len(names)
    assert all(len(normalize(name).split()) == len(name.split()) for name in names)  # none has an article in it


def test_aliases_belong_to_one_and_stand_on_its_page() -> None:
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


def test_the_same_seed_makes_the_same_world_in_any_process() -> None:
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


@pytest.mark.slow
def test_ten_times_the_pages_take_ten_times_the_time() -> None:
    seconds = []
    for pages in (5_000, 50_000):
        start = time.process_time()
        documents = make_encyclopaedia(pages).documents
        seconds.append(time.process_time() - start)
        assert len({document.title for document in documents}) == pages
    assert seconds[1] < 30 * seconds[0]  # what grows with the square would take 100 times
