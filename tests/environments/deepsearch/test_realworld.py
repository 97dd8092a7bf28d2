"""The countries: faithful pages, questions that a solver answers from the pages' text, an expert that wins."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
from collections import Counter
from datetime import date, datetime
from functools import cache
from importlib.resources import files
from types import ModuleType
from typing import Any, Literal

import pytest

from empg.environments.deepsearch import DeepSearchEnv
from empg.environments.deepsearch.options import DeepSearchOptions
from empg.environments.deepsearch.questions import SPLITS
from empg.environments.deepsearch.realworld import (
    KINDS,
    country_compositions,
    country_pages,
    load_countries,
    make_country_questions,
)
from empg.environments.deepsearch.scoring import score
from empg.environments.deepsearch.sources import open_source
from empg.environments.deepsearch.world import Question
from tests import ROOT

DATA = files("empg.environments.deepsearch") / "countries.jsonl.gz"


@cache
def questions(split: str) -> tuple[Question, ...]:
    return make_country_questions(split)


@cache
def pages() -> dict[str, str]:
    return {document.title: document.text for document in country_pages()}


# ---- the pages ------------------------------------------------------------------------------------------------------


def test_the_data_file_is_small_and_names_its_origin() -> None:
    packed = DATA.read_bytes()
    header = json.loads(gzip.decompress(packed).decode().partition("\n")[0])
    assert "World Factbook" in header["source"]
    assert header["licence"].startswith("public domain")
    assert len(packed) < 300_000


def test_each_country_has_five_pages_that_fit_the_observation() -> None:
    assert len(load_countries()) == 195
    assert len(pages()) == len(country_pages()) == 5 * 195
    assert all(20 < len(text.split()) <= 200 for text in pages().values())


def test_no_two_countries_share_a_name() -> None:
    names = [name for country in load_countries() for name in country.names]
    assert len({name.casefold() for name in names}) == len(names)
    assert ["United States", "United States of America", "US"] in [country.names for country in load_countries()]


def test_a_page_has_the_wording_of_the_factbook() -> None:
    assert pages()["Austria"].startswith(
        "Country: Austria. Country name: Republic of Austria. Location: Central Europe, north of Italy and Slovenia. "
        "Internet country code: .at. Nationality: Austrian(s). Background: Once the center of power for the large "
        "Austro-Hungarian Empire, Austria was reduced to a small republic after its defeat in World War I. "
    )
    assert "Highest point: Grossglockner 3,798 m." in pages()["Geography of Austria"]


def test_qualified_facts_are_on_the_pages_but_not_asked_for() -> None:
    facts = {country.name: country.facts for country in load_countries()}
    assert "Cape Town (legislative capital)" in pages()["Government of South Africa"]
    assert not {name for name in ("South Africa", "Israel", "Bolivia", "Benin") if "capital" in facts[name]}
    assert "independence" not in facts["Tanzania"]
    assert facts["Ukraine"]["capital"] == ["Kyiv", "Kiev"]
    assert facts["Kyrgyzstan"]["highest point"] == ["Jengish Chokusu", "Pik Pobedy"]


# ---- the questions --------------------------------------------------------------------------------------------------


def test_every_kind_of_a_split_has_enough_questions() -> None:
    assert [len(questions(split)) for split in SPLITS] == [600, 150, 150]
    for split in SPLITS:
        asked = Counter(question.kind for question in questions(split))
        assert set(asked) == set(KINDS) - ({"1-hop"} if split == "valid_ood" else set())
        assert max(asked.values()) < 1.6 * min(asked.values())


def test_no_question_is_repeated_or_in_two_splits_for_any_seed() -> None:
    texts = [question.text for split in SPLITS for question in questions(split)]
    assert len(set(texts)) == len({question.id for split in SPLITS for question in questions(split)}) == len(texts)
    other = {question.text for question in make_country_questions("train", seed=1)}
    assert other != {question.text for question in questions("train")}
    assert not other & {question.text for split in ("valid_id", "valid_ood") for question in questions(split)}


def test_held_out_compositions_occur_only_out_of_distribution() -> None:
    """Every relation occurs in training in the same position."""
    trained, held_out = country_compositions()
    assert not set(trained) & set(held_out)
    assert len(held_out) == 15
    for composition in held_out:
        for place, name in enumerate(composition.relations):
            assert [c for c in trained if c.kind == composition.kind and c.relations[place] == name]
    forms = {split: {form(question) for question in questions(split)} for split in SPLITS}
    assert not forms["valid_ood"] & (forms["train"] | forms["valid_id"])
    assert forms["valid_id"] <= forms["train"]
    assert len(forms["train"]) == len(trained)
    assert len(forms["valid_ood"]) == len(held_out)


def test_every_hop_is_stated_literally_on_its_page() -> None:
    for split in SPLITS:
        for question in questions(split):
            assert len(question.hops) == (1 if question.kind == "1-hop" else 2)
            assert len({hop.title for hop in question.hops}) == len(question.hops)
            for hop in question.hops:
                assert hop.value in pages()[hop.title], question


def test_the_first_hop_of_a_bridge_leads_to_the_second() -> None:
    for question in questions("train"):
        if question.kind == "2-hop bridge":
            first, second = question.hops
            assert second.query.startswith(first.value)
            assert first.value not in question.text


def test_a_question_contains_its_answer_only_if_it_is_a_comparison() -> None:
    for split in SPLITS:
        for question in questions(split):
            named = question.answers[0].casefold() in question.text.casefold()
            assert named == (question.kind == "comparison"), question


def test_every_process_generates_the_same_questions() -> None:
    command = (
        "import hashlib; from empg.environments.deepsearch.realworld import *; "
        "told = repr([country_pages(), *map(make_country_questions, ('train', 'valid_id', 'valid_ood'))]); "
        "print(hashlib.sha256(told.encode()).hexdigest())"
    )
    content = repr([country_pages(), *map(questions, SPLITS)])
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    run = subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, "PYTHONHASHSEED": seed},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == hashlib.sha256(content.encode()).hexdigest()


@pytest.mark.parametrize(("arguments", "named"), [
    ({"split": "test"}, "split: expected one of train, valid_id, valid_ood, got 'test'"),
    ({"split": "train", "kinds": ["4-hop bridge"]}, "unknown kind '4-hop bridge'"),
    ({"split": "valid_ood", "kinds": ["1-hop"]}, "no questions for valid_ood"),
])  # fmt: skip
def test_the_error_for_an_invalid_argument_names_it(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        make_country_questions(**arguments)


# ---- a solver that uses only the text of the pages ------------------------------------------------------------------

# Phrases that refer to a country by a field of one of its pages, and the beginning of the field.
DESCRIBED = {
    "the country whose capital is (.+)": ("Government", "Capital", "{}"),
    "the country whose highest point is (.+)": ("Geography", "Highest point", "{}"),
    'the country whose national anthem is "(.+)"': ("Government", "National anthem", '"{}"'),
    "the country that became independent on (.+)": ("Government", "Independence", "{} (from"),
}
LINKED = {
    "the country with which (.+) shares its longest land border": "longest border",
    "the country that took the largest share of the exports of (.+) in 2014": "export partner",
}
ASKED = {
    r"What is the capital of (.+)\?": ("Government", "Capital", r"[^(;:]+(?= \(|$)"),
    r"What is the highest point of (.+)\?": ("Geography", "Highest point", r".+?(?= [\d,]+ m| \(| on | in )"),
    r"What is the national anthem of (.+) called\?": ("Government", "National anthem", r'(?<=")[^"]+'),
    r"On which date did (.+) become independent\?": ("Government", "Independence", r"\d+ \w+ \d{4}(?= \(from)"),
    r"What is the Internet country code of (.+)\?": ("", "Internet country code", r"\.\w\w$"),
    r"How many square kilometres is the area of (.+)\?": ("Geography", "Area", r"[\d,]+(?= sq km)"),
    r"In July 2015, what was the population of (.+)\?": ("People", "Population", r"[\d,]+(?= \(July 2015 est)"),
    r"How many kilometres long is the coastline of (.+)\?": ("Geography", "Coastline", r"[\d,]+(?= km)"),
    r"How many metres high is the highest point of (.+)\?": ("Geography", "Highest point", r"[\d,]+(?= m\b)"),
}
LINKS_ASKED = {
    r"With which country does (.+) share its longest land border\?": "longest border",
    r"Which country took the largest share of the exports of (.+) in 2014\?": "export partner",
}
COMPARED = {
    "Which became independent": ("Government", "Independence", r"\d+ \w+ \d{4}"),
    "Which has the (?:larger|smaller) area": ("Geography", "Area", r"[\d,]+"),
    "Which had (?:more|fewer) people in July 2015": ("People", "Population", r"[\d,]+"),
    "Which has the (?:longer|shorter) coastline": ("Geography", "Coastline", r"[\d,]+"),
    "Whose highest point is": ("Geography", "Highest point", r"[\d,]+(?= m\b)"),
}
LESS = re.compile("earlier|smaller|fewer|shorter|lower")


@cache
def names() -> dict[str, str]:
    """Return the name of each country by its form in a sentence."""
    return {form: name for name in pages() if " of " not in name or f"Geography of {name}" in pages()
            for form in (name, f"the {name}")}  # fmt: skip


@cache
def field(country: str, area: str, label: str) -> str:
    text = pages()[f"{area} of {country}" if area else country]
    match = re.search(rf"\. {label}: (.*?)\.(?= [A-Z][A-Za-z ]+: |$)", text)
    return match[1] if match else ""


def leader(country: str, link: str) -> str:
    if link == "longest border":
        listed = re.findall(r"(?:^|, )([^,]+?) ([\d,.]+) km", field(country, "Geography", "Border countries"))
    else:
        listed = re.findall(r"(?:^|, )([^,]+?) ([\d.]+)%", field(country, "Economy", "Export partners"))
    sizes: dict[str, float] = {name: float(size.replace(",", "")) for name, size in listed}
    assert sorted(sizes.values())[-2] < max(sizes.values()), country
    return max(sizes, key=lambda name: sizes[name])


def referred(inner: str) -> str:
    """Return the only country to which the phrase refers."""
    if inner in names():
        return names()[inner]
    for pattern, link in LINKED.items():
        if match := re.fullmatch(pattern, inner):
            return leader(names()[match[1]], link)
    for pattern, (area, label, wording) in DESCRIBED.items():
        if match := re.fullmatch(pattern, inner):
            begins = wording.format(match[1])
            [country] = [name for name in set(names().values()) if field(name, area, label).startswith(begins)]
            return country
    raise AssertionError(inner)


def measure(country: str, area: str, label: str, pattern: str) -> float | date:
    match = re.match(rf".*?({pattern})", field(country, area, label))
    assert match, (country, label)
    return datetime.strptime(match[1], "%d %B %Y") if label == "Independence" else float(match[1].replace(",", ""))


def solve(text: str) -> str:
    for pattern, place in COMPARED.items():
        if match := re.fullmatch(rf"{pattern}.*, (.+) or (.+)\?", text):
            sides = [names()[mention] for mention in match.groups()]
            values = [measure(side, *place) for side in sides]
            assert values[0] != values[1]
            pick = min if LESS.search(text) else max
            return str(sides[values.index(pick(values))])
    for pattern, link in LINKS_ASKED.items():
        if match := re.fullmatch(pattern, text):
            return leader(referred(match[1]), link)
    for pattern, (area, label, value) in ASKED.items():
        if match := re.fullmatch(pattern, text):
            found = re.search(value, field(referred(match[1]), area, label))
            assert found, text
            return str(found[0])
    raise AssertionError(text)


def form(question: Question) -> str:
    """Return the wording of a question without its entities."""
    for pattern in COMPARED:
        if re.match(pattern, question.text):
            return question.text.partition(",")[0]
    text = next(p for p in (*LINKS_ASKED, *ASKED) if re.fullmatch(p, question.text))
    match = re.fullmatch(text, question.text)
    assert match
    return f"{text} <- {next((p for p in (*LINKED, *DESCRIBED) if re.fullmatch(p, match[1])), '')}"


@pytest.mark.parametrize("split", SPLITS)
def test_the_solver_finds_exactly_the_correct_answer(split: str) -> None:
    for question in questions(split):
        assert solve(question.text) == question.answers[0], question
        assert question.hops[-1].value == question.answers[0] or question.kind == "comparison"


def test_the_solver_answers_well_known_facts() -> None:
    """This checks the solver itself, so that it cannot share an error with the questions."""
    assert solve("What is the capital of the country with which Austria shares its longest land border?") == "Berlin"
    assert solve('What is the Internet country code of the country whose national anthem is "O Canada"?') == ".ca"
    assert solve("Which became independent earlier, India or Ghana?") == "India"
    assert solve("Whose highest point is higher, the Netherlands or Nepal?") == "Nepal"


def test_facts_of_other_countries_do_not_score_as_the_answer() -> None:
    others = [country.facts for country in load_countries()]
    for question in questions("valid_ood")[::5]:
        if question.kind == "comparison":
            compared = [hop.title.partition(" of ")[2] for hop in question.hops]
            assert [name for name in compared if score(name, question.answers)] == [question.answers[0]]
        else:
            wrong = {facts["capital"][0] for facts in others if "capital" in facts} - set(question.answers)
            assert not any(score(answer, question.answers) for answer in wrong)


# ---- the environment ------------------------------------------------------------------------------------------------


def wins(environment: DeepSearchEnv, task: int, noise: float = 0.0) -> bool:
    rng = random.Random(task)
    observation, info = environment.reset(options={"task": task})
    expert = environment.expert()
    while True:
        action = expert.act(observation, info)["action"]
        if rng.random() < noise:
            action = rng.choice([command for command in info["admissible"] or [] if "answer" not in command])
        observation, _, terminated, truncated, info = environment.step(action)
        if terminated or truncated:
            return info["won"]


@pytest.mark.parametrize("observation", ["list", "passages"])
@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_wins_what_it_can_read(split: str, observation: Literal["list", "passages"]) -> None:
    """In passages nothing can be opened, and pages that no search of the expert finds ("China") are not answered."""
    environment = DeepSearchEnv(split, world="countries", observation=observation)
    assert sum(wins(environment, task) for task in range(150)) >= (149 if observation == "list" else 145)


def test_the_expert_recovers_from_random_actions() -> None:
    environment = DeepSearchEnv("train", max_steps=30, world="countries")
    assert sum(wins(environment, task, noise=0.15) for task in range(100)) >= 97


def test_the_gold_query_finds_the_page_among_three_hits() -> None:
    retriever = open_source(DeepSearchOptions(world="countries")).retriever
    hops = [hop for question in questions("valid_id") for hop in question.hops]
    found = retriever.search([hop.query for hop in hops], 3)
    listed = [any(hit.document.title == hop.title for hit in hits) for hop, hits in zip(hops, found, strict=True)]
    assert sum(listed) >= 0.94 * len(hops)


def test_the_source_is_shared_and_kinds_select_questions() -> None:
    first, second = (
        open_source(DeepSearchOptions(world="countries")),
        open_source(DeepSearchOptions(world="countries", kinds=["comparison"])),
    )
    assert first.retriever is second.retriever
    assert first.questions is open_source(DeepSearchOptions(world="countries")).questions
    assert {question.kind for question in second.questions["valid_ood"]} == {"comparison"}


def test_an_unknown_world_is_rejected() -> None:
    with pytest.raises(ValueError, match="world: expected 'encyclopaedia' or 'countries'"):
        DeepSearchEnv(world="planets")


# ---- the script that created the data -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "scripts/make_countries.py"
    spec = importlib.util.spec_from_file_location("make_countries", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("text", "words", "kept"), [
    ("one two three", 3, "one two three"), ("One two. Three four", 3, "One two"), ("a b; c d", 3, "a b"),
    ("a b (c, d e)", 4, "a b (c, d"), ("x, a (c, d e)", 4, "x"), ("a b c", 2, "a b"),
])  # fmt: skip
def test_the_script_cuts_after_a_complete_unit(script: ModuleType, text: str, words: int, kept: str) -> None:
    assert script.cut(text, words) == kept


def profile(**government: Any) -> dict[str, Any]:
    own = {"Country name": {"conventional short form": {"text": "Laurania"}}, "Capital": {"name": {"text": "Lorn"}}}
    return {"Government": {**own, **government}}


def test_the_script_takes_only_unqualified_facts(script: ModuleType) -> None:
    border = {"Land boundaries": {"border countries": {"text": "UK 1,200 km, Oz 90.5 km"}}}
    made = script.country({**profile(Independence={"text": "1 May 1900 (from Oz); note - not from all"}),
                           "Geography": border})  # fmt: skip
    assert made["facts"] == {"capital": ["Lorn"], "longest border": ["United Kingdom"]}
    assert "Border countries: United Kingdom 1,200 km, Oz 90.5 km." in made["pages"]["Geography of Laurania"]
    assert script.country(profile(**{"Dependency status": {"text": "of Oz"}})) is None
    assert script.country({"Geography": {}}) is None
