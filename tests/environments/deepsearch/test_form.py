"""Deep Search with a model: golden transcripts in both agent forms, the tokens learned from them, and failures."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.environments.deepsearch import DeepSearchEnv
from empg.environments.deepsearch.sources import Source
from empg.environments.registry import find
from empg.learner.batch import make_batch
from empg.policy.decode import Decoder, Sampling
from empg.policy.model import Policy
from empg.recipe import AgentSection
from empg.rollout.collector import Collector, Request
from empg.rollout.demonstrations import as_episode, demonstrate
from empg.rollout.env_pool import LocalEnvPool
from empg.rollout.types import EndReason
from empg.run.columns import episode_rows, rollout_numbers
from tests.environments.deepsearch.smallworld import BRIDGE

ASK = "Where was the director of Silent Harbour born?"
REACT = f"""\
<|user|>{ASK}<|end|><|assistant|>\
<think>Find director of Silent Harbour.</think><action>search[director of Silent Harbour]</action><|end|>\
<|user|>1. Silent Harbour: Silent Harbour is a film of 1962. It was directed...
2. Mara Quill: Mara Quill is a film director. She was born in... Task: {ASK}<|end|><|assistant|>\
<think>Find director of Silent Harbour.</think><action>open[Silent Harbour]</action><|end|>\
<|user|>Silent Harbour: Silent Harbour is a film of 1962. It was directed by Mara Quill. Task: {ASK}\
<|end|><|assistant|>\
<think>director of Silent Harbour: Mara Quill. Find birthplace of Mara Quill.</think>\
<action>search[birthplace of Mara Quill]</action><|end|>\
<|user|>1. Mara Quill (painter): Mara Quill is a painter from Ostrey.
2. Mara Quill: Mara Quill is a film director. She was born in...
3. Silent Harbour: Silent Harbour is a film of 1962. It was directed... Task: {ASK}<|end|><|assistant|>\
<think>director of Silent Harbour: Mara Quill. Find birthplace of Mara Quill.</think>\
<action>open[Mara Quill]</action><|end|>\
<|user|>Mara Quill: Mara Quill is a film director. She was born in Dunmere in 1921. Task: {ASK}\
<|end|><|assistant|>\
<think>birthplace of Mara Quill: Dunmere. Answer Dunmere.</think>\
<action>answer[Dunmere]</action><|end|>"""
SEARCH_R1 = """\
<|user|>Which film is older, Silent Harbour or The Salt Road?<|end|><|assistant|>\
<think>Find year of Silent Harbour.</think><search>year of Silent Harbour</search><|end|>\
<|user|><information>Doc 1(Title: "Silent Harbour") Silent Harbour is a film of 1962. It was directed by Mara Quill.\
</information><|end|><|assistant|>\
<think>year of Silent Harbour: 1962. Find year of The Salt Road.</think>\
<search>year of The Salt Road</search><|end|>\
<|user|><information>Doc 1(Title: "The Salt Road") The Salt Road is a film of 1971. It was directed by Ivo Brandt.\
</information><|end|><|assistant|>\
<think>year of Silent Harbour: 1962. year of The Salt Road: 1971. Answer Silent Harbour.</think>\
<answer>Silent Harbour</answer>"""
OBSERVATION = {"react": "list", "search_r1": "passages"}
FORMS = tuple(OBSERVATION)


@pytest.fixture
def policy(cased_policy: Policy) -> Policy:
    return cased_policy


def setting(form: str, source: Source, policy: Policy, **options: Any) -> tuple[DeepSearchEnv, Agent]:
    section = AgentSection(form=form)
    agent = Agent(find("deepsearch").prompt, section, ChatFormat(policy.tokenizer))
    return DeepSearchEnv("train", data=source, observation=OBSERVATION[form], **options), agent


@pytest.mark.parametrize(("form", "task", "transcript"), [("react", 0, REACT), ("search_r1", 1, SEARCH_R1)])
def test_the_transcript_of_the_expert(form: str, task: int, transcript: str, source: Source, policy: Policy) -> None:
    environment, agent = setting(form, source, policy)
    episode, _ = as_episode(demonstrate(environment, task, 0.0, (0,)), agent, 10_000)
    ids = [i for turn in episode.turns for i in turn.prompt_ids + turn.action_ids]
    assert policy.tokenizer.decode(ids) == transcript


@pytest.mark.parametrize("history", ["merged", "per_turn"])
@pytest.mark.parametrize("form", FORMS)
def test_retrieved_text_is_never_learned(form: str, history: str, source: Source, policy: Policy) -> None:
    environment, agent = setting(form, source, policy)
    agent = Agent(find("deepsearch").prompt, AgentSection(form=form, history=history), agent.chat)
    episode, _ = as_episode(demonstrate(environment, 0, 0.0, (0,)), agent, 10_000)
    batch = make_batch([episode], history)
    learned: list[list[int]] = [[] for _ in batch.rows]
    for row, column in zip(batch.row.tolist(), batch.column.tolist(), strict=True):
        learned[row].append(batch.rows[row][column])
    text = policy.tokenizer.decode([i for ids in learned for i in ids])
    read = policy.tokenizer.decode([i for ids in batch.rows for i in ids])
    assert text == "".join(policy.tokenizer.decode(turn.action_ids) for turn in episode.turns)
    for retrieved in ("She was born in", "is a film of 1962", "<|user|>", "information>", ASK):
        assert retrieved in read or (form, retrieved) == ("react", "information>")
        assert retrieved not in text


@pytest.mark.parametrize("form", FORMS)
def test_corrupted_turns_fit_the_agent_form(form: str, source: Source, policy: Policy) -> None:
    """A corrupted turn of a demonstration can always be expressed in the agent form."""
    environment, agent = setting(form, source, policy, max_steps=30)
    corrupted = 0
    for key in range(20):
        turns = demonstrate(environment, 0, 0.4, (key,))
        corrupted += sum(turn.corrupted for turn in turns)
        episode, _ = as_episode(turns, agent, 10_000)
        assert len(episode.turns) == len(turns)
    assert corrupted > (20 if form == "react" else 0)  # Search-R1 has nothing to click on


class Scripted:
    """Replaces the sampling of the decoder by scripted turns; everything else is real."""

    def __init__(self, policy: Policy, turns: list[list[int]]) -> None:
        self.inner = Decoder(policy, 1, 2_000, Sampling(max_turn_tokens=200))
        self.num_slots, self.sampling, self.clear = 1, self.inner.sampling, self.inner.clear
        self.advance, self.turns, self.left = self.inner.advance, list(turns), iter(turns[0])

    def prefill(self, slots, prompts):
        self.left = iter(self.turns.pop(0))  # what is left of the last turn is not sampled
        return self.inner.prefill(slots, prompts)

    def choose(self, logits, uniforms):
        _, *numbers = self.inner.choose(logits, uniforms)
        return [[next(self.left)], *numbers]


@pytest.mark.parametrize("form", FORMS)
def test_a_rollout_continues_after_failed_searches_and_counts_them(form: str, dead: Source, policy: Policy) -> None:
    _, agent = setting(form, dead, policy)
    turns = [agent.write("Ask.", action) for action in ("search[Mara]", "search[Quill]", "answer[Dunmere]")]
    make = partial(DeepSearchEnv, "train", data=dead, observation=OBSERVATION[form])
    scripted = Scripted(policy, turns)
    collector = Collector(scripted, agent, LocalEnvPool(make), "train", 2_000)  # type: ignore[arg-type]
    [episode] = collector.collect([Request(0, 0, (0,))])
    assert (episode.end, episode.success, episode.task) == (EndReason.WON, True, BRIDGE.text)
    assert [bool(turn.failure) for turn in episode.turns] == [True, True, False]
    assert [turn.valid for turn in episode.turns] == [True, True, True]
    [row] = episode_rows([episode])
    assert row["failed_turns"] == 2
    assert rollout_numbers([row])["rollout/failed_turns"] == pytest.approx(2 / 3)


def test_a_turn_of_search_r1_ends_after_its_first_block(source: Source, policy: Policy) -> None:
    _, agent = setting("search_r1", source, policy)
    double = "<search>Mara Quill</search><information>made up</information><answer>Ostrey</answer>"
    last = agent.chat.reply("<answer>Dunmere</answer> and more")
    turns = [agent.chat.reply(double), agent.chat.reply("no block"), last]
    make = partial(DeepSearchEnv, "train", data=source, observation="passages")
    scripted = Scripted(policy, turns)
    collector = Collector(scripted, agent, LocalEnvPool(make), "train", 2_000)  # type: ignore[arg-type]
    [episode] = collector.collect([Request(0, 0, (0,))])
    assert [(turn.action, turn.valid) for turn in episode.turns] == [
        ("search[Mara Quill]", True),
        ("", False),
        ("answer[Dunmere]", True),
    ]
    prompts = [policy.tokenizer.decode(turn.prompt_ids) for turn in episode.turns]
    assert '<information>Doc 1(Title: "Mara Quill' in prompts[1]
    assert "My previous action is invalid." in prompts[2]
    assert episode.success
    # what follows the block is neither kept in the context nor trained on
    assert [turn.text for turn in episode.turns] == [
        "<search>Mara Quill</search>",
        "no block<|end|>",
        "<answer>Dunmere</answer>",
    ]
    assert prompts[1].startswith("<|end|><|user|><information>")
    batch = make_batch([episode], "merged")
    assert len(batch) == sum(len(turn.action_ids) for turn in episode.turns)
    assert "made up" not in policy.tokenizer.decode(batch.rows[0])


def test_an_empty_answer_of_search_r1_ends_the_episode(source: Source, policy: Policy) -> None:
    _, agent = setting("search_r1", source, policy)
    turns = [agent.chat.reply("<search></search>"), agent.chat.reply("<answer> </answer>")]
    make = partial(DeepSearchEnv, "train", data=source, observation="passages")
    collector = Collector(Scripted(policy, turns), agent, LocalEnvPool(make), "train", 2_000)  # type: ignore[arg-type]
    [episode] = collector.collect([Request(0, 0, (0,))])
    assert [(turn.action, turn.valid) for turn in episode.turns] == [("search[]", True), ("answer[]", True)]
    assert (episode.end, episode.score) == (EndReason.LOST, 0.0)
