"""The expert follows the chain with real searches, uses only shown values, and recovers from random actions."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from empg.environments.base import EarlyStoppingExpert
from empg.environments.deepsearch import DeepSearchEnv
from empg.environments.deepsearch.corpus import Titles
from empg.environments.deepsearch.retrieval.bm25 import BM25Retriever
from empg.environments.deepsearch.sources import Source
from empg.environments.deepsearch.world import Document, Hop
from empg.rollout.demonstrations import demonstrate
from empg.web.errors import ServiceError
from tests.environments.deepsearch.smallworld import BRIDGE, COMPARISON, DOCUMENTS

HOTPOT_HOP = Hop("Mara Quill", "Mara Quill", "Dunmere")  # HotpotQA names the page of a hop only
Played = tuple[bool, list[str], list[str]]


def play(environment: DeepSearchEnv, task: int, noise: float = 0.0) -> Played:
    """Return whether the expert won, its thoughts, and its actions."""
    rng = random.Random(task)
    observation, info = environment.reset(options={"task": task})
    expert, thoughts, actions = environment.expert(), [], []
    while True:
        decision = expert.act(observation, info)
        action = decision["action"]
        if rng.random() < noise:
            action = rng.choice([command for command in info["admissible"] or [] if "answer" not in command])
        else:
            assert environment.clone().step(action)[4]["valid"], action
        thoughts.append(decision["thought"])
        actions.append(action)
        observation, _, terminated, truncated, info = environment.step(action)
        if terminated or truncated:
            return info["won"], thoughts, actions


def test_the_expert_searches_opens_and_answers(source: Source) -> None:
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
    assert thoughts[4] == "birthplace of Mara Quill: Dunmere. Answer Dunmere."  # a chain needs only the last value


def test_the_thoughts_keep_the_values_of_all_branches(source: Source) -> None:
    _, thoughts, _ = play(DeepSearchEnv("train", data=source), 1)
    assert thoughts[-1] == "year of Silent Harbour: 1962. year of The Salt Road: 1971. Answer Silent Harbour."


def test_a_page_is_searched_by_query_then_by_title_then_opened(source: Source) -> None:
    environment = DeepSearchEnv("train", data=source, results=1)
    won, _, actions = play(environment, 0)
    assert won
    assert actions[2:5] == ["search[birthplace of Mara Quill]", "search[Mara Quill]", "open[Mara Quill]"]


def test_the_expert_wins_without_a_working_search(dead: Source) -> None:
    won, _, actions = play(DeepSearchEnv("train", data=dead), 0)
    assert won
    assert sum(action.startswith("open") for action in actions) == 2


def test_there_is_no_expert_without_a_gold_chain(source: Source) -> None:
    """Such an expert could only guess, and so would a policy that imitates it."""
    environment = DeepSearchEnv("test", data=source)
    environment.reset(options={"task": 0})
    with pytest.raises(ValueError, match=r"^question q3 of tests has no gold chain, so there is no expert") as caught:
        environment.expert()
    assert "\n" not in str(caught.value)


def test_the_expert_reads_a_long_page_until_the_value_was_shown(source: Source) -> None:
    environment = DeepSearchEnv("train", data=source, page_words=4, max_steps=20)
    won, thoughts, actions = play(environment, 0)
    assert won
    assert actions == [
        "search[director of Silent Harbour]",
        "open[Silent Harbour]",
        "next",
        "next",
        "next",  # "Mara" ends the third part, and "Quill." is the fourth
        "search[birthplace of Mara Quill]",
        "open[Mara Quill]",
        "next",
        "next",
        "answer[Dunmere]",
    ]
    assert thoughts[3] == "Find director of Silent Harbour."  # Mara Quill was not shown yet
    assert all(play(environment, task % 2, noise=0.2)[0] for task in range(10))


def test_the_expert_answers_early_if_a_passage_is_cut_before_the_value(source: Source) -> None:
    environment = DeepSearchEnv("train", data=source, page_words=4, observation="passages")
    won, thoughts, actions = play(environment, 0)
    assert not won
    assert actions == ["search[director of Silent Harbour]", "answer[unknown]"]
    assert thoughts[-1] == "Answer unknown."  # Mara Quill was not shown, so she is not mentioned
    shorter = replace(BRIDGE.hops[1], title="Dunmere", value="on the Lorrow, with many words about it that nobody has")
    longer = replace(BRIDGE, hops=(BRIDGE.hops[0], shorter))
    environment = DeepSearchEnv(
        "train", data=replace(source, questions={"train": [longer]}), page_words=13, observation="passages"
    )
    won, thoughts, actions = play(environment, 0)
    assert thoughts[-1] == "director of Silent Harbour: Mara Quill. Answer Mara Quill."  # the first hop was read
    assert actions[-1] == "answer[Mara Quill]"


def test_a_whole_page_may_state_the_value_in_other_words(source: Source) -> None:
    """This occurs in official data: the evidence is "United States", but the page has "American"."""
    paraphrased = (BRIDGE.hops[0], replace(BRIDGE.hops[1], value="the town of Dunmere"))
    other = replace(source, questions={"train": [replace(BRIDGE, hops=paraphrased)]})
    won, thoughts, _ = play(DeepSearchEnv("train", data=other), 0)
    assert won
    assert thoughts[-1] == "Answer Dunmere."


def test_the_expert_opens_the_passage_with_the_value(source: Source) -> None:
    passages = [
        *DOCUMENTS, Document("2b", "Mara Quill", "Birthplace and place of birth and birthplace again: not said here.")
    ]  # fmt: skip
    retriever = BM25Retriever.build(passages)
    environment = DeepSearchEnv("train", data=replace(source, retriever=retriever, library=Titles(passages)))
    won, _, actions = play(environment, 0)
    assert won
    assert actions[-2:] == ["open[2]", "answer[Dunmere]"]


def searching(source: Source, *hops: Hop, passages: Sequence[Document], **question: Any) -> Source:
    """Return a source with one question, its chain, and a corpus of passages."""
    questions = {"train": [replace(BRIDGE, hops=hops, **question)]}
    return replace(source, questions=questions, retriever=BM25Retriever.build(passages), library=Titles(passages))


@pytest.mark.parametrize("observation", ["list", "passages"])
def test_the_expert_gives_up_if_a_passage_lacks_the_fact(source: Source, observation: str) -> None:
    """Corpora like wiki-18 have many passages with one title; HotpotQA names a page only."""
    lacking = [DOCUMENTS[0], Document("2", "Mara Quill", "Mara Quill is a film director. Mara Quill made films.")]
    for hops in (BRIDGE.hops, (Hop("Silent Harbour", "Silent Harbour", "Mara Quill"), HOTPOT_HOP)):
        data = searching(source, *hops, passages=lacking)
        won, thoughts, actions = play(DeepSearchEnv("train", data=data, observation=observation), 0)
        assert not won
        assert actions[-1] == "answer[Mara Quill]"  # the value of the first hop
        assert "Dunmere" not in " ".join(thoughts + actions)
        other = "Mara Quill" if hops == BRIDGE.hops else BRIDGE.text
        assert actions[-2] == f"search[{other}]"  # other words than those of the search before


@pytest.mark.parametrize("observation", ["list", "passages"])
def test_the_expert_searches_another_passage_if_the_first_lacks_the_fact(source: Source, observation: str) -> None:
    """Here the second search lists it; it may also be a worse result of the first search."""
    passages = [
        DOCUMENTS[0],
        Document("2", "Mara Quill", "Mara Quill is a film director. Mara Quill made films. Mara Quill retired."),
        Document("3", "Quill", "Mara Quill is a name. Mara Quill and Mara Quill are both called Mara Quill."),
        Document("4", "Mara Quill", "Of old family, and of no great means when she was born in Dunmere by the Lorrow."),
    ]
    data = searching(source, BRIDGE.hops[0], HOTPOT_HOP, passages=passages)
    won, _, actions = play(DeepSearchEnv("train", data=data, observation=observation, results=2), 0)
    assert won
    assert [action for action in actions if action.startswith("search")] == [
        "search[director of Silent Harbour]",
        "search[Mara Quill]",
        f"search[{BRIDGE.text}]",
    ]


def test_the_expert_does_not_compare_if_a_page_lacks_a_value(source: Source) -> None:
    later = replace(COMPARISON.hops[1], value="2 May 1971")
    for written, answer in (("The Salt Road", "Silent Harbour"), ("Film of May 2, 1971", "Silent Harbour")):
        passages = [DOCUMENTS[0], Document("5", "The Salt Road", f"{written}. It was directed by Ivo Brandt.")]
        hops = (later, COMPARISON.hops[0])
        data = searching(source, *hops, passages=passages, text=COMPARISON.text, answers=("The Salt Road",))
        won, _, actions = play(DeepSearchEnv("train", data=data), 0)
        assert won == ("1971" in written)  # a date in another order is a date
        assert actions[-1] == f"answer[{'The Salt Road' if won else answer}]"


def test_the_expert_answers_in_the_words_that_the_page_has(source: Source) -> None:
    hops = (BRIDGE.hops[0], replace(BRIDGE.hops[1], value="Dunmere upon Lorrow"))
    other = replace(
        source, questions={"train": [replace(BRIDGE, hops=hops, answers=("Dunmere upon Lorrow", "Dunmere"))]}
    )
    won, _, actions = play(DeepSearchEnv("train", data=other), 0)
    assert won
    assert actions[-1] == "answer[Dunmere]"


@pytest.mark.parametrize(("answer", "won"), [("yes", True), ("Ostrey", False)])
def test_a_page_without_a_named_value_is_read_to_its_end(source: Source, answer: str, *, won: bool) -> None:
    """HotpotQA names no value for a yes or no. Any other answer must be on a page."""
    hops = tuple(Hop(title, title, "") for title in ("Silent Harbour", "The Salt Road"))
    other = replace(source, questions={"train": [replace(COMPARISON, hops=hops, answers=(answer,))]})
    solved, _, actions = play(DeepSearchEnv("train", data=other, page_words=6), 0)
    assert solved == won
    assert actions == [
        "search[Silent Harbour]",
        "open[Silent Harbour]",
        *["next"] * 2,
        "search[The Salt Road]",
        "open[The Salt Road]",
        *["next"] * 2,
        f"answer[{answer if won else 'The Salt Road'}]",
    ]


def test_a_command_that_is_too_long_is_not_repeated(source: Source) -> None:
    """Where pages are opened, a command has a maximum length. Search-R1's form has none."""
    long = "Dunmere " + "by the water " * 50
    passages = [DOCUMENTS[0], Document("2", "Mara Quill", f"She was born in {long}.")]
    hops = (BRIDGE.hops[0], Hop(f"birthplace of Mara Quill {long}", "Mara Quill", long.strip()))
    data = searching(source, *hops, passages=passages, answers=(long.strip(),))
    won, _, actions = play(DeepSearchEnv("train", data=data), 0)
    assert not won
    assert actions[2:] == ["search[Mara Quill]", "open[Mara Quill]", "answer[unknown]"]
    won, _, actions = play(DeepSearchEnv("train", data=data, observation="passages"), 0)
    assert won


def test_the_expert_uses_a_value_only_after_its_page_was_shown(source: Source) -> None:
    """Otherwise a policy that imitates the expert would learn to guess."""
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
                wrong = rng.random() < 0.3
                action = rng.choice((info["admissible"] or [])[:-1]) if wrong else decision["action"]
                observation, _, terminated, truncated, info = environment.step(action)
                read += observation
                if terminated or truncated:
                    break


@pytest.mark.parametrize("observation", ["list", "passages"])
def test_the_expert_recovers_from_random_actions(source: Source, observation: str) -> None:
    environment = DeepSearchEnv("train", data=source, max_steps=40, observation=observation)
    assert all(play(environment, task % 2, noise=0.3)[0] for task in range(40))


def test_the_expert_gives_up_if_the_page_with_the_answer_is_missing(source: Source) -> None:
    """This occurs in official data, if the corpus lacks a gold page or the chain does not name it."""
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
        "answer[unknown]",
    ]
    assert decision["thought"] == "Answer unknown."  # Dunmere was never shown


def test_the_expert_skips_a_missing_page_if_a_later_one_has_the_answer(source: Source) -> None:
    lost = replace(BRIDGE, hops=(Hop("maker of the cup", "", "Mara Quill"), BRIDGE.hops[1]))
    environment = DeepSearchEnv("train", data=replace(source, questions={"train": [lost]}))
    won, _, actions = play(environment, 0)
    assert won
    assert actions[-2:] == ["open[Mara Quill]", "answer[Dunmere]"]


def test_the_expert_does_not_compare_with_a_branch_that_it_did_not_read(source: Source) -> None:
    missing = replace(COMPARISON, hops=(COMPARISON.hops[0], replace(COMPARISON.hops[1], title="Nowhere")))
    environment = DeepSearchEnv("train", data=replace(source, questions={"train": [missing]}), observation="passages")
    _, thoughts, _ = play(environment, 0)
    assert thoughts[-1] == "year of Silent Harbour: 1962. Answer Silent Harbour."  # what was found, right or not


@pytest.mark.parametrize("observation", ["list", "passages"])
def test_a_demonstration_never_answers_with_what_was_not_shown(observation: str) -> None:
    """Even if corrupted turns take the place of all attempts to find a page."""
    environment = DeepSearchEnv("train", pages=200, wording="plain", observation=observation, kinds=["2-hop bridge"])
    unknown = 0
    for key in range(150):
        turns = demonstrate(environment, key % environment.num_tasks, 0.6, (key,), 0.1)
        if (answer := turns[-1].action.removeprefix("answer[")[:-1]) == "unknown":
            unknown += 1
        elif turns[-1].action.startswith("answer"):
            assert answer.casefold() in " ".join(turn.observation for turn in turns).casefold()
    assert unknown < 150


def test_the_expert_gives_up_on_an_unavailable_page(source: Source) -> None:
    class Unreadable:
        def open(self, name: str) -> None:
            raise ServiceError("time-out")

    pages = [replace(document, id=f"http://a.example/{document.id}") for document in DOCUMENTS]
    source = replace(source, retriever=BM25Retriever.build(pages), library=Unreadable())
    won, _, actions = play(DeepSearchEnv("train", data=source, max_steps=40), 0)
    assert not won
    assert actions[-1] == "answer[unknown]"
    assert 10 < len(actions) <= 21


def test_the_expert_of_a_new_episode_follows_the_new_question(source: Source) -> None:
    environment = DeepSearchEnv("train", data=source)
    play(environment, 0)
    won, thoughts, _ = play(environment, 1)
    assert won
    assert not any(BRIDGE.hops[0].query in thought for thought in thoughts)


# ---- in the generated encyclopaedia ---------------------------------------------------------------------------------


@pytest.mark.parametrize("observation", ["list", "passages"])
@pytest.mark.parametrize("split", ["train", "valid_id", "valid_ood"])
def test_the_expert_wins_99_percent_of_generated_questions(split: str, observation: str) -> None:
    environment = DeepSearchEnv(split, observation=observation)
    assert sum(play(environment, task)[0] for task in range(400)) >= 396


def test_the_expert_recovers_from_random_actions_in_the_encyclopaedia() -> None:
    environment = DeepSearchEnv("train", max_steps=30)
    assert sum(play(environment, task, noise=0.15)[0] for task in range(200)) >= 195


def test_each_thought_is_short_and_contains_the_words_of_its_action() -> None:
    """A small model can copy the words of an action from its thought or from the last observation."""
    environment = DeepSearchEnv("valid_ood")
    for task in range(200):
        _, thoughts, actions = play(environment, task)
        for thought, action in zip(thoughts, actions, strict=True):
            assert len(thought.split()) <= 45
            if not action.startswith("open"):
                assert action.partition("[")[2][:-1] in thought


def test_with_plain_wording_the_thought_quotes_the_last_page() -> None:
    environment = DeepSearchEnv("train", wording="plain", kinds=["2-hop bridge"])
    for task in range(30):
        observation, info = environment.reset(options={"task": task})
        expert, quotes, over = environment.expert(), [], False
        while not over:
            decision = expert.act(observation, info)
            quote, stated, _ = decision["thought"].partition(". ")
            if stated and not decision["action"].startswith("open["):  # the command that follows listed results
                assert f" {quote}." in observation
                quotes.append(quote)
            observation, _, terminated, truncated, info = environment.step(decision["action"])
            over = terminated or truncated
        assert len(quotes) == 2


def test_conclude_answers_with_the_last_found_value(source: Source) -> None:
    environment = DeepSearchEnv("train", data=source)
    for task, answer in ((0, "Mara Quill"), (1, "Silent Harbour")):  # a chain's value; one of two branches
        observation, info = environment.reset(options={"task": task})
        expert = environment.expert()
        assert isinstance(expert, EarlyStoppingExpert)
        early = []
        while True:
            action = expert.act(observation, info)["action"]
            early.append(expert.conclude(observation, info))
            observation, _, terminated, _, info = environment.step(action)
            if terminated:
                break
        assert [decision is not None for decision in early] == [False, False, True, True, False]
        assert early[2] is not None
        assert early[2]["action"] == f"answer[{answer}]"
        assert early[2]["thought"].endswith(f": {'Mara Quill' if task == 0 else '1962'}. Answer {answer}.")
