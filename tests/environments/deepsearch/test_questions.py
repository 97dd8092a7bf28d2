"""Questions of the generated encyclopaedia, held to a solver that knows only what the pages say."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest

from empg.environments.deepsearch.encyclopaedia import Encyclopaedia, Wording, make_encyclopaedia
from empg.environments.deepsearch.options import DeepSearchOptions
from empg.environments.deepsearch.questions import KINDS, SPLITS, compositions, make_questions
from empg.environments.deepsearch.relations import RELATIONS
from empg.environments.deepsearch.scoring import score
from empg.environments.deepsearch.sources import open_source
from empg.environments.deepsearch.world import Question
from tests import ROOT
from tests.environments.deepsearch.solver import Solver


@cache
def world() -> Encyclopaedia:
    return make_encyclopaedia()


@cache
def questions(split: str) -> tuple[Question, ...]:
    return make_questions(world(), split)


@cache
def pages() -> dict[str, str]:
    return {document.title: document.text for document in world().documents}


@cache
def told(wording: Wording = "varied", seed: int = 0) -> Solver:
    documents = make_encyclopaedia(seed=seed, wording=wording).documents
    return Solver({document.title: document.text for document in documents}, wording)


def compares(question: Question) -> bool:
    return question.kind.endswith("comparison")


def chains(question: Question) -> list[tuple[str, ...]]:
    """The relations that a question follows, read off its hops: one chain, or one for each side of a comparison."""
    names = sorted((relation.name for relation in RELATIONS), key=len, reverse=True)
    relations = tuple(next(name for name in names if hop.query.endswith(f" {name}")) for hop in question.hops)
    half = len(relations) // 2
    return [relations[:half], relations[half:]] if compares(question) else [relations]


# ---- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_every_kind_is_asked_about_as_often_in_every_split_that_may_have_it(split: str) -> None:
    asked = Counter(question.kind for question in questions(split))
    absent = {"valid_ood": {"1-hop"}}.get(split, {"4-hop bridge"})
    assert set(asked) == set(KINDS) - absent
    assert max(asked.values()) < 1.6 * min(asked.values())


def test_there_are_thousands_to_train_and_hundreds_to_validate() -> None:
    assert len(questions("train")) == 8_000
    assert len(questions("valid_id")) == 500
    assert len(questions("valid_ood")) == 500


def test_no_question_is_in_two_splits_or_twice_in_one_whatever_the_seed() -> None:
    texts = [question.text for split in SPLITS for question in questions(split)]
    assert len(set(texts)) == len(texts)
    other = {question.text for question in make_questions(world(), "train", seed=1)}
    assert other != {question.text for question in questions("train")}
    assert not other & {question.text for split in ("valid_id", "valid_ood") for question in questions(split)}


def test_the_id_of_a_question_is_that_of_its_words() -> None:
    everything = [question for split in SPLITS for question in questions(split)]
    assert len({question.id for question in everything}) == len(everything)
    assert all(question.id == hashlib.sha256(question.text.encode()).hexdigest()[:12] for question in everything)


def _pairs(split: str) -> set[tuple[str, str]]:
    return {pair for question in questions(split) for chain in chains(question) for pair in pairwise(chain)}


def _wordings(split: str) -> set[str]:
    return {question.text.partition(",")[0] for question in questions(split) if question.kind == "comparison"}


def test_questions_out_of_distribution_join_what_training_never_joined() -> None:
    """Two relations in a row, the wording of a comparison, or four hops."""
    joined, worded = _pairs("train"), _wordings("train")
    for question in questions("valid_ood"):
        novel = any(pair not in joined for chain in chains(question) for pair in pairwise(chain))
        if question.kind == "comparison":
            novel = question.text.partition(",")[0] not in worded
        assert novel or question.kind == "4-hop bridge", question


def test_questions_in_distribution_are_composed_as_in_training() -> None:
    trained = {(question.kind, chains(question)[0]) for question in questions("train")}
    assert {(question.kind, chains(question)[0]) for question in questions("valid_id")} <= trained
    assert _wordings("valid_id") <= _wordings("train")
    assert not any(question.kind == "4-hop bridge" for split in ("train", "valid_id") for question in questions(split))


@pytest.mark.parametrize("kind", ["2-hop bridge", "comparison"])
def test_only_the_composition_is_new_the_relations_are_trained_in_every_role(kind: str) -> None:
    trained, held_out = ({role for c in some for role in c.roles()} for some in compositions([kind]))
    assert held_out
    assert held_out <= trained


def test_there_are_questions_of_every_composition() -> None:
    for split, chosen in zip(("train", "valid_ood"), compositions(), strict=True):
        asked = {(question.kind, chains(question)[0]) for question in make_questions(world(), split, count=8_000)}
        assert asked == {(composition.kind, composition.relations) for composition in chosen}


def test_kinds_can_be_chosen_and_something_is_still_held_out() -> None:
    easy = ("1-hop", "2-hop bridge")
    trained, held_out = compositions(easy)
    assert held_out
    assert not set(trained) & set(held_out)
    assert {question.kind for question in make_questions(world(), "train", kinds=easy)} == set(easy)
    assert {question.kind for question in make_questions(world(), "valid_ood", kinds=easy)} == {"2-hop bridge"}
    assert all(compositions([kind])[1] for kind in KINDS if kind != "1-hop")
    with pytest.raises(ValueError, match="nothing for valid_ood"):
        make_questions(world(), "valid_ood", kinds=["1-hop"])
    with pytest.raises(ValueError, match="there is no '5-hop'"):
        make_questions(world(), "train", kinds=["5-hop"])
    with pytest.raises(ValueError, match="split='test'"):
        make_questions(world(), "test")


def test_a_count_takes_the_first_of_the_same_questions() -> None:
    assert make_questions(world(), "train", count=100) == questions("train")[:100]


def test_there_are_as_many_questions_as_the_world_is_large() -> None:
    few = make_questions(make_encyclopaedia(50), "train")
    assert 50 < len(few) <= 200  # it runs out of them, and stops
    assert len(make_questions(make_encyclopaedia(4_000), "train")) == 16_000


# ---- gold chains ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_every_hop_stands_on_its_page_and_the_last_one_answers(split: str) -> None:
    for question in questions(split):
        lengths = {"comparison": 2, "bridge-comparison": 4}
        assert len(question.hops) == (lengths.get(question.kind) or int(question.kind[0]))
        for hop in question.hops:
            assert hop.value in pages()[hop.title]
        if not compares(question):
            assert question.answers[0] == question.hops[-1].value
            assert all(hop.value == following.title for hop, following in pairwise(question.hops))


def test_searching_for_a_hop_finds_its_page() -> None:
    hops = [hop for split in SPLITS for question in questions(split)[:500] for hop in question.hops]
    found = open_source(DeepSearchOptions()).retriever.search([hop.query for hop in hops], 3)
    missed = sum(hop.title not in {hit.document.title for hit in hits} for hop, hits in zip(hops, found, strict=True))
    assert missed <= 0.01 * len(hops)


# ---- answers --------------------------------------------------------------------------------------------------------


def test_a_question_does_not_say_its_answer() -> None:
    for split in SPLITS:
        for question in questions(split):
            assert compares(question) or not any(answer in question.text for answer in question.answers), question


def test_of_two_that_are_compared_one_is_right_as_often_the_first() -> None:
    first = total = 0
    for question in questions("train"):
        if compares(question):
            one, other = (question.hops[0].title, question.hops[len(question.hops) // 2].title)
            verdicts = [score(title, question.answers) for title in (one, other)]
            assert sorted(verdicts) == [0.0, 1.0]
            bare = [score(re.sub(r" \(.*\)", "", title), question.answers) for title in (one, other)]
            assert bare == verdicts  # plain names are enough, and namesakes are not compared
            first += verdicts[0] == 1.0
            total += 1
    assert total > 3_000
    assert 0.47 < first / total < 0.53


def test_other_names_of_an_answer_count() -> None:
    meant, aliases = told().meant, told().aliases
    several = [question for question in questions("train") if len(question.answers) > 1]
    assert sum(any(answer in aliases for answer in question.answers) for question in several) > 50
    for question in several:
        for other in question.answers[1:]:
            assert other == question.answers[0].replace(",", "") or question.answers[0] in meant[other]


# ---- what the pages say ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("wording", "seed"), [("varied", 0), ("varied", 1), ("plain", 0), ("plain", 2)])
def test_the_pages_give_every_question_one_answer_and_it_is_the_canonical_one(
    split: str, wording: Wording, seed: int
) -> None:
    solver = told(wording, seed)
    asked = make_questions(make_encyclopaedia(seed=seed, wording=wording), split, seed=seed)
    assert len(asked) >= 500
    for question in asked:
        assert solver.solve(question.text) == {question.answers[0]}, question


def test_the_pages_of_the_manual_ask_real_questions() -> None:
    manual = (ROOT / "docs" / "deepsearch.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `([\w-]+(?: bridge)?)` \| (.+\?) \| \d \|$", manual, re.MULTILINE)
    assert [kind for kind, _ in shown] == list(KINDS)
    asked = {(question.kind, question.text) for split in SPLITS for question in questions(split)}
    assert set(shown) <= asked
    for title in re.findall(r"`([A-Z][a-z]+ [A-Z][a-z]+ \((?:film|book)\))`", manual):
        assert title in pages()


def test_few_entities_of_valid_id_are_new_only_what_is_asked_of_them_is() -> None:
    """As the manual says: it is no test of unseen entities."""

    def starts(question: Question) -> set[str]:
        return {hop.title for hop in (question.hops[0], question.hops[len(question.hops) // 2 * compares(question)])}

    trained = {title for question in questions("train") for title in starts(question)}
    known = sum(starts(question) <= trained for question in questions("valid_id"))
    assert 0.96 < known / len(questions("valid_id")) < 0.98
