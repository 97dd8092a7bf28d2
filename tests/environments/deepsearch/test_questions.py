"""Questions of the generated encyclopaedia, checked by a solver that uses only the text of the pages."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from functools import cache
from itertools import pairwise

import pytest

from empg.environments.deepsearch.encyclopaedia import Encyclopaedia, make_encyclopaedia
from empg.environments.deepsearch.options import DeepSearchOptions, Wording
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
def solver_of(wording: Wording = "varied", seed: int = 0) -> Solver:
    documents = make_encyclopaedia(seed=seed, wording=wording).documents
    return Solver({document.title: document.text for document in documents}, wording)


def compares(question: Question) -> bool:
    return question.kind.endswith("comparison")


def chains(question: Question) -> list[tuple[str, ...]]:
    """Return the relations that a question follows: one chain, or one per side of a comparison."""
    names = sorted((relation.name for relation in RELATIONS), key=len, reverse=True)
    relations = tuple(next(name for name in names if hop.query.endswith(f" {name}")) for hop in question.hops)
    half = len(relations) // 2
    return [relations[:half], relations[half:]] if compares(question) else [relations]


# ---- splits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_all_kinds_of_a_split_have_equally_many_questions(split: str) -> None:
    asked = Counter(question.kind for question in questions(split))
    absent = {"valid_ood": {"1-hop"}}.get(split, {"4-hop bridge"})
    assert set(asked) == set(KINDS) - absent
    assert max(asked.values()) < 1.6 * min(asked.values())


def test_there_are_thousands_of_training_and_hundreds_of_validation_questions() -> None:
    assert len(questions("train")) == 8_000
    assert len(questions("valid_id")) == 500
    assert len(questions("valid_ood")) == 500


def test_no_question_is_repeated_or_in_two_splits_for_any_seed() -> None:
    texts = [question.text for split in SPLITS for question in questions(split)]
    assert len(set(texts)) == len(texts)
    other = {question.text for question in make_questions(world(), "train", seed=1)}
    assert other != {question.text for question in questions("train")}
    assert not other & {question.text for split in ("valid_id", "valid_ood") for question in questions(split)}


def test_the_id_of_a_question_depends_only_on_its_text() -> None:
    everything = [question for split in SPLITS for question in questions(split)]
    assert len({question.id for question in everything}) == len(everything)
    assert all(question.id == hashlib.sha256(question.text.encode()).hexdigest()[:12] for question in everything)


def _pairs(split: str) -> set[tuple[str, str]]:
    return {pair for question in questions(split) for chain in chains(question) for pair in pairwise(chain)}


def _wordings(split: str) -> set[str]:
    return {question.text.partition(",")[0] for question in questions(split) if question.kind == "comparison"}


def test_out_of_distribution_questions_have_compositions_unseen_in_training() -> None:
    """The new part is a pair of consecutive relations, the wording of a comparison, or the fourth hop."""
    joined, worded = _pairs("train"), _wordings("train")
    for question in questions("valid_ood"):
        novel = any(pair not in joined for chain in chains(question) for pair in pairwise(chain))
        if question.kind == "comparison":
            novel = question.text.partition(",")[0] not in worded
        assert novel or question.kind == "4-hop bridge", question


def test_in_distribution_questions_have_trained_compositions() -> None:
    trained = {(question.kind, chains(question)[0]) for question in questions("train")}
    assert {(question.kind, chains(question)[0]) for question in questions("valid_id")} <= trained
    assert _wordings("valid_id") <= _wordings("train")
    assert not any(question.kind == "4-hop bridge" for split in ("train", "valid_id") for question in questions(split))


@pytest.mark.parametrize("kind", ["2-hop bridge", "comparison"])
def test_every_relation_is_trained_in_every_role(kind: str) -> None:
    trained, held_out = ({role for c in some for role in c.roles()} for some in compositions([kind]))
    assert held_out
    assert held_out <= trained


def test_every_composition_has_questions() -> None:
    for split, chosen in zip(("train", "valid_ood"), compositions(), strict=True):
        asked = {(question.kind, chains(question)[0]) for question in make_questions(world(), split, count=8_000)}
        assert asked == {(composition.kind, composition.relations) for composition in chosen}


def test_a_subset_of_kinds_still_has_held_out_compositions() -> None:
    easy = ("1-hop", "2-hop bridge")
    trained, held_out = compositions(easy)
    assert held_out
    assert not set(trained) & set(held_out)
    assert {question.kind for question in make_questions(world(), "train", kinds=easy)} == set(easy)
    assert {question.kind for question in make_questions(world(), "valid_ood", kinds=easy)} == {"2-hop bridge"}
    assert all(compositions([kind])[1] for kind in KINDS if kind != "1-hop")
    with pytest.raises(ValueError, match="no questions for valid_ood"):
        make_questions(world(), "valid_ood", kinds=["1-hop"])
    with pytest.raises(ValueError, match="unknown kind '5-hop'"):
        make_questions(world(), "train", kinds=["5-hop"])
    with pytest.raises(ValueError, match="split: expected one of train, valid_id, valid_ood, got 'test'"):
        make_questions(world(), "test")


def test_a_smaller_count_gives_a_prefix_of_the_questions() -> None:
    assert make_questions(world(), "train", count=100) == questions("train")[:100]


def test_the_number_of_questions_grows_with_the_encyclopaedia() -> None:
    few = make_questions(make_encyclopaedia(50), "train")
    assert 50 < len(few) <= 200  # generation stops when no further questions exist
    assert len(make_questions(make_encyclopaedia(4_000), "train")) == 16_000


# ---- gold chains ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
def test_every_hop_is_stated_on_its_page_and_the_last_one_is_the_answer(split: str) -> None:
    for question in questions(split):
        lengths = {"comparison": 2, "bridge-comparison": 4}
        assert len(question.hops) == (lengths.get(question.kind) or int(question.kind[0]))
        for hop in question.hops:
            assert hop.value in pages()[hop.title]
        if not compares(question):
            assert question.answers[0] == question.hops[-1].value
            assert all(hop.value == following.title for hop, following in pairwise(question.hops))


def test_the_query_of_a_hop_finds_its_page() -> None:
    hops = [hop for split in SPLITS for question in questions(split)[:500] for hop in question.hops]
    found = open_source(DeepSearchOptions()).retriever.search([hop.query for hop in hops], 3)
    missed = sum(hop.title not in {hit.document.title for hit in hits} for hop, hits in zip(hops, found, strict=True))
    assert missed <= 0.01 * len(hops)


# ---- answers --------------------------------------------------------------------------------------------------------


def test_a_question_does_not_contain_its_answer() -> None:
    for split in SPLITS:
        for question in questions(split):
            assert compares(question) or not any(answer in question.text for answer in question.answers), question


def test_the_correct_side_of_a_comparison_is_balanced() -> None:
    first = total = 0
    for question in questions("train"):
        if compares(question):
            one, other = (question.hops[0].title, question.hops[len(question.hops) // 2].title)
            verdicts = [score(title, question.answers) for title in (one, other)]
            assert sorted(verdicts) == [0.0, 1.0]
            bare = [score(re.sub(r" \(.*\)", "", title), question.answers) for title in (one, other)]
            assert bare == verdicts  # plain names are accepted, and entities with the same name are not compared
            first += verdicts[0] == 1.0
            total += 1
    assert total > 3_000
    assert 0.47 < first / total < 0.53


def test_alternative_names_of_an_answer_are_accepted() -> None:
    meant, aliases = solver_of().meant, solver_of().aliases
    several = [question for question in questions("train") if len(question.answers) > 1]
    assert sum(any(answer in aliases for answer in question.answers) for question in several) > 50
    for question in several:
        for other in question.answers[1:]:
            assert other == question.answers[0].replace(",", "") or question.answers[0] in meant[other]


# ---- the text of the pages ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize(("wording", "seed"), [("varied", 0), ("varied", 1), ("plain", 0), ("plain", 2)])
def test_the_solver_finds_only_the_canonical_answer(split: str, wording: Wording, seed: int) -> None:
    solver = solver_of(wording, seed)
    asked = make_questions(make_encyclopaedia(seed=seed, wording=wording), split, seed=seed)
    assert len(asked) >= 500
    for question in asked:
        assert solver.solve(question.text) == {question.answers[0]}, question


def test_the_questions_in_the_documentation_exist() -> None:
    manual = (ROOT / "docs" / "deepsearch.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| `([\w-]+(?: bridge)?)` \| (.+\?) \| \d \|$", manual, re.MULTILINE)
    assert [kind for kind, _ in shown] == list(KINDS)
    asked = {(question.kind, question.text) for split in SPLITS for question in questions(split)}
    assert set(shown) <= asked
    for title in re.findall(r"`([A-Z][a-z]+ [A-Z][a-z]+ \((?:film|book)\))`", manual):
        assert title in pages()


def test_most_entities_of_valid_id_occur_in_training() -> None:
    """As documented, `valid_id` does not test unseen entities."""

    def starts(question: Question) -> set[str]:
        return {hop.title for hop in (question.hops[0], question.hops[len(question.hops) // 2 * compares(question)])}

    trained = {title for question in questions("train") for title in starts(question)}
    known = sum(starts(question) <= trained for question in questions("valid_id"))
    assert 0.96 < known / len(questions("valid_id")) < 0.98
