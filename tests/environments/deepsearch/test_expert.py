"""The expert follows the chain by real searches, reads before it knows, and finds back when it is led astray."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from empg.environments.base import EarlyStoppingExpert
from empg.environments.deepsearch import DeepSearchEnv
from empg.environments.deepsearch.corpus import Titles
from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever
from empg.environments.deepsearch.sources import Source
from empg.environments.deepsearch.world import Document, Hop, RetrievalError
from tests.environments.deepsearch.smallworld import BRIDGE, DOCUMENTS

Played = tuple[bool, list[str], list[str]]


def play(environment: DeepSearchEnv, task: int, slips: float = 0.0) -> Played:
    """Whether it won, its thoughts, and its actions."""
    rng = random.Random(task)
    observation, info = environment.reset(options={"task": task})
    expert, thoughts, actions = environment.expert(), [], []
    while True:
        decision = expert.act(observation, info)
        action = decision["action"]
        if rng.random() < slips:
            action = rng.choice([command for command in info["admissible"] or [] if "answer" not in command])
        else:
            assert environment.clone().step(action)[4]["valid"], action
        thoughts.append(decision["thought"])
        actions.append(action)
        observation, _, terminated, truncated, info = environment.step(action)
        if terminated or truncated:
            return info["won"], thoughts, actions


def test_it_searches_opens_reads_and_answers(source: Source) -> None:
    won, thoughts, actions = play(DeepSearchEnv("train", data=source), 0)
    assert won
    assert actions == [
        "search[director of Silent Harbour]",
        "open[Silent Harbour]",
        "search[birthplace of Mara Quill]",
        "open[Mara Quill]",
        "answer[Dunmere]",
    ]
    assert thoughts[2] == "director of Silent Harbour: Mara Quill. Find birthplace of Mara Quill."
    assert thoughts[4] == "birthplace of Mara Quill: Dunmere. Answer Dunmere."  # of a chain, the last value is needed


def test_of_branches_it_keeps_every_value_until_they_are_compared(source: Source) -> None:
    _, thoughts, _ = play(DeepSearchEnv("train", data=source), 1)
    assert thoughts[-1] == "year of Silent Harbour: 1962. year of The Salt Road: 1971. Answer Silent Harbour."


def test_a_page_that_the_search_does_not_find_is_searched_by_its_title_then_opened_by_it(source: Source) -> None:
    environment = DeepSearchEnv("train", data=source, results=1)
    won, _, actions = play(environment, 0)
    assert won
    assert actions[2:5] == ["search[birthplace of Mara Quill]", "search[Mara Quill]", "open[Mara Quill]"]


def test_it_gets_through_without_any_search_that_works(dead: Source) -> None:
    won, _, actions = play(DeepSearchEnv("train", data=dead), 0)
    assert won
    assert sum(action.startswith("open") for action in actions) == 2


def test_without_a_gold_chain_there_is_no_expert(source: Source) -> None:
    """It could but say the answer after a search for the question, whatever that found: to imitate that is to guess."""
    environment = DeepSearchEnv("test", data=source)
    environment.reset(options={"task": 0})
    with pytest.raises(ValueError, match=r"^question q3 of tests has no gold chain, so there is no expert") as caught:
        environment.expert()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("observation", ["list", "passages"])
def test_of_a_page_that_is_cut_before_the_value_it_says_nothing_and_answers_with_what_it_has(
    source: Source, observation: str
) -> None:
    environment = DeepSearchEnv("train", data=source, page_words=4, observation=observation)
    won, thoughts, actions = play(environment, 0)
    assert not won
    assert actions == [
        "search[director of Silent Harbour]",
        *["open[Silent Harbour]"][: environment.opens],
        "answer[unknown]",
    ]
    assert thoughts[-1] == "Answer unknown."  # and not a word of Mara Quill, whom it did not meet
    shorter = replace(BRIDGE.hops[1], title="Dunmere", value="on the Lorrow, with many words about it that nobody has")
    longer = replace(BRIDGE, hops=(BRIDGE.hops[0], shorter))
    environment = DeepSearchEnv(
        "train", data=replace(source, questions={"train": [longer]}), page_words=13, observation=observation
    )
    won, thoughts, actions = play(environment, 0)
    assert thoughts[-1] == "director of Silent Harbour: Mara Quill. Answer Mara Quill."  # the first hop was read
    assert actions[-1] == "answer[Mara Quill]"


def test_a_page_that_was_shown_whole_may_say_it_in_other_words(source: Source) -> None:
    """As official data have it: the evidence is "United States", and the page says "American"."""
    paraphrased = (BRIDGE.hops[0], replace(BRIDGE.hops[1], value="the town of Dunmere"))
    other = replace(source, questions={"train": [replace(BRIDGE, hops=paraphrased)]})
    won, thoughts, _ = play(DeepSearchEnv("train", data=other), 0)
    assert won
    assert thoughts[-1] == "Answer Dunmere."


def test_of_passages_with_one_title_it_opens_the_one_that_states_the_value(source: Source) -> None:
    passages = [
        *DOCUMENTS, Document("2b", "Mara Quill", "Birthplace and place of birth and birthplace again: not said here.")
    ]  # fmt: skip
    retriever = BM25Retriever.build(passages)
    environment = DeepSearchEnv("train", data=replace(source, retriever=retriever, library=Titles(passages)))
    won, _, actions = play(environment, 0)
    assert won
    assert actions[-2:] == ["open[2]", "answer[Dunmere]"]


def test_it_knows_a_value_only_after_its_page_was_shown(source: Source) -> None:
    """Else a model that imitates it would learn to guess."""
    environment = DeepSearchEnv("train", data=source, max_steps=40)
    texts = {document.title: document.text for document in DOCUMENTS}
    for task in (0, 1):
        for seed in range(20):
            rng = random.Random(seed)
            observation, info = environment.reset(options={"task": task})
            expert, read = environment.expert(), observation
            while True:
                decision = expert.act(observation, info)
                for hop in environment.question.hops:
                    if f"{hop.query}: {hop.value}." in decision["thought"]:
                        assert texts[hop.title] in read
                slip = rng.random() < 0.3
                action = rng.choice((info["admissible"] or [])[:-1]) if slip else decision["action"]
                observation, _, terminated, truncated, info = environment.step(action)
                read += observation
                if terminated or truncated:
                    break


@pytest.mark.parametrize("observation", ["list", "passages"])
def test_it_recovers_from_slips(source: Source, observation: str) -> None:
    environment = DeepSearchEnv("train", data=source, max_steps=40, observation=observation)
    assert all(play(environment, task % 2, slips=0.3)[0] for task in range(40))


def test_a_page_that_is_not_there_is_given_up_and_not_spoken_of(source: Source) -> None:
    """As in official data whose gold pages the corpus lacks, or whose chain does not name them."""
    lost = replace(BRIDGE, hops=(Hop("maker of the cup", "", "Ann"), Hop("home of Ann", "Ann's Home", "Dunmere")))
    environment = DeepSearchEnv("train", data=replace(source, questions={"train": [lost]}))
    observation, info = environment.reset(options={"task": 0})
    expert, actions = environment.expert(), []
    for _ in range(7):
        decision = expert.act(observation, info)
        actions.append(decision["action"])
        observation, _, over, _, info = environment.step(decision["action"])
    assert over
    assert actions == [
        *["search[maker of the cup]"] * 3,
        "search[home of Ann]",
        "search[Ann's Home]",
        "open[Ann's Home]",
        "answer[Dunmere]",
    ]
    assert decision["thought"] == "Answer Dunmere."


def test_a_page_that_cannot_be_had_is_given_up_in_the_end(source: Source) -> None:
    class Unreadable:
        def open(self, name: str) -> None:
            raise RetrievalError("time-out")

    pages = [replace(document, id=f"http://a.example/{document.id}") for document in DOCUMENTS]
    source = replace(source, retriever=BM25Retriever.build(pages), library=Unreadable())
    won, _, actions = play(DeepSearchEnv("train", data=source, max_steps=40), 0)
    assert won
    assert 10 < len(actions) <= 21


def test_its_question_is_not_looked_at_again_after_a_reset(source: Source) -> None:
    environment = DeepSearchEnv("train", data=source)
    play(environment, 0)
    won, thoughts, _ = play(environment, 1)
    assert won
    assert not any(BRIDGE.hops[0].query in thought for thought in thoughts)


# ---- in the generated encyclopaedia ---------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", ["list", "passages"])
@pytest.mark.parametrize("split", ["train", "valid_id", "valid_ood"])
def test_it_wins_99_in_100_of_the_generated_questions(split: str, observation: str) -> None:
    environment = DeepSearchEnv(split, observation=observation)
    assert sum(play(environment, task)[0] for task in range(400)) >= 396


def test_it_recovers_from_slips_there_too() -> None:
    environment = DeepSearchEnv("train", max_steps=30)
    assert sum(play(environment, task, slips=0.15)[0] for task in range(200)) >= 195


def test_each_thought_is_short_and_holds_the_words_of_its_action() -> None:
    """What a small model has to write stands close by: in its thought, or in what it has just read."""
    environment = DeepSearchEnv("valid_ood")
    for task in range(200):
        _, thoughts, actions = play(environment, task)
        for thought, action in zip(thoughts, actions, strict=True):
            assert len(thought.split()) <= 45
            if not action.startswith("open"):
                assert action.partition("[")[2][:-1] in thought


def test_in_plain_words_it_quotes_the_page_that_it_has_just_read() -> None:
    environment = DeepSearchEnv("train", wording="plain", kinds=["2-hop bridge"])
    for task in range(30):
        observation, info = environment.reset(options={"task": task})
        expert, quotes, over = environment.expert(), [], False
        while not over:
            decision = expert.act(observation, info)
            quote, stated, _ = decision["thought"].partition(". ")
            if stated and not decision["action"].startswith("open["):  # which it does where results are listed
                assert f" {quote}." in observation
                quotes.append(quote)
            observation, _, terminated, truncated, info = environment.step(decision["action"])
            over = terminated or truncated
        assert len(quotes) == 2


def test_in_haste_it_answers_with_the_last_that_it_found(source: Source) -> None:
    environment = DeepSearchEnv("train", data=source)
    for task, answer in ((0, "Mara Quill"), (1, "Silent Harbour")):  # a chain's value; one of two branches
        observation, info = environment.reset(options={"task": task})
        expert = environment.expert()
        assert isinstance(expert, EarlyStoppingExpert)
        hasty = []
        while True:
            action = expert.act(observation, info)["action"]
            hasty.append(expert.conclude(observation, info))
            observation, _, terminated, _, info = environment.step(action)
            if terminated:
                break
        assert [decision is not None for decision in hasty] == [False, False, True, True, False]
        assert hasty[2] is not None
        assert hasty[2]["action"] == f"answer[{answer}]"
        assert hasty[2]["thought"].endswith(f": {'Mara Quill' if task == 0 else '1962'}. Answer {answer}.")
