"""The rules of an episode, played without a decoder, as another engine would."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import pytest

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.environments.base import Info
from empg.environments.registry import find
from empg.policy.decode import Sampled
from empg.policy.model import Policy
from empg.recipe import AgentSection
from empg.rollout.env_pool import LocalEnvPool, Outcome
from empg.rollout.turns import EpisodeState
from empg.rollout.types import EndReason, Episode
from tests.lamps import Lamps


def play(
    policy: Policy, fate: str, turns: Sequence[str], *, max_tokens: int = 400, max_steps: int = 6, **section: object
) -> Episode:
    """One episode in which the policy writes `turns`; the end-of-turn token closes each."""
    agent = Agent(find("alfworld").prompt, AgentSection(**section), ChatFormat(policy.tokenizer))
    pool = LocalEnvPool(lambda: Lamps(fate, max_steps=max_steps))
    state = EpisodeState(agent, task=0, group=3, split="train", max_tokens=max_tokens)
    prompt = state.start(*pool.reset([0], [0]))
    for text in turns:
        assert prompt is not None
        ids = agent.chat.reply(text)
        action = state.act(Sampled(ids, [-0.5] * len(ids), [0.25] * len(ids)))
        prompt = state.observe(*pool.step([0], [action]))
    assert prompt is None, "the episode continues"
    return state.episode


def agent_of(policy: Policy) -> Agent:
    return Agent(find("alfworld").prompt, AgentSection(), ChatFormat(policy.tokenizer))


def after_a_turn(policy: Policy) -> tuple[EpisodeState, Outcome]:
    """An episode after its first action, and the outcome that it has not observed yet."""
    pool = LocalEnvPool(lambda: Lamps("endless"))
    state = EpisodeState(agent_of(policy), task=0, group=0, split="train", max_tokens=400)
    state.start(*pool.reset([0], [0]))
    [outcome] = pool.step([0], [state.act(Sampled([5], [0.0], [0.0]))])
    return state, outcome


def with_value(outcome: Outcome, name: str, value: object) -> Outcome:
    """The outcome with another reward or observation, or another value in its info."""
    assert outcome.info is not None
    if name in ("reward", "observation"):
        return replace(outcome, **{name: cast(Any, value)})
    return replace(outcome, info=cast(Info, {**outcome.info, name: value}))


def agent_text(policy: Policy, ids: list[int]) -> str:
    return ChatFormat(policy.tokenizer).raw_text(ids)


PRESS = "<think>it is lit.</think><action>press {}</action>"
RIGHT = [PRESS.format(0), PRESS.format(2)]


def test_a_won_episode_keeps_what_was_written_and_what_the_environment_answered(policy: Policy) -> None:
    episode = play(policy, "press:2", RIGHT)
    assert (episode.end, episode.success, episode.reward, episode.score) == (EndReason.WON, True, 1.0, 1.0)
    assert (episode.task_id, episode.task_type, episode.task) == ("0-press:2", "press", "press lamps")
    assert (episode.group, episode.split, episode.task_index) == (3, "train", 0)
    first, last = episode.turns
    assert (first.thought, first.action, first.valid, first.reward) == ("it is lit.", "press 0", True, 0.0)
    assert (last.observation, last.action, last.reward, last.info["won"]) == ("Lamp 2 is lit.", "press 2", 1.0, True)
    assert (first.text, last.text) == (f"{RIGHT[0]}<|end|>", f"{RIGHT[1]}<|end|>")
    assert first.entropy == 0.25
    assert first.text[: first.text.index("<action>")] == agent_text(policy, first.action_ids[: first.action_start])
    assert first.info.keys() == {"won", "score", "valid"}  # no task and no list of commands


def test_the_context_of_a_merged_episode_is_all_that_was_read_and_written(policy: Policy) -> None:
    agent = Agent(find("alfworld").prompt, AgentSection(), ChatFormat(policy.tokenizer))
    state = EpisodeState(agent, task=0, group=0, split="train", max_tokens=400)
    prompt = state.start(*LocalEnvPool(lambda: Lamps("endless")).reset([0], [0]))
    assert prompt is not None
    assert (state.context, state.room) == (len(prompt.ids), 400 - len(prompt.ids))
    state.act(Sampled([5, 6, 7], [0.0] * 3, [0.0] * 3))
    assert state.context == len(prompt.ids) + 3


@pytest.mark.parametrize("name", ["reward", "score", "process_reward", "progress"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "1", "half", [1.0, 2.0], np.str_("1"), 10**400])
def test_what_is_not_a_finite_number_ends_the_episode_and_not_the_run(policy: Policy, name: str, value: object) -> None:
    state, outcome = after_a_turn(policy)
    state.observe(with_value(outcome, name, value))
    assert state.episode.end is EndReason.ENV_ERROR
    assert state.episode.error == f"{name}: expected a finite number, got {value!r:.80}"


@pytest.mark.parametrize("name", ["reward", "score", "process_reward", "progress"])
@pytest.mark.parametrize("value", [1e20, -1e20, 10**20, np.float64(1e20)])
def test_a_number_that_credit_cannot_be_computed_with_ends_the_episode(policy: Policy, name: str, value: float) -> None:
    state, outcome = after_a_turn(policy)
    state.observe(with_value(with_value(outcome, "metrics", {"milliseconds": 1e20}), name, value))
    assert state.episode.error == f"{name}: expected a number of at most 1e+09 in size, got {value!r}"


@pytest.mark.parametrize(
    ("metrics", "error"),
    [
        ({"recall": None}, "metrics.recall: expected a finite number, got None"),
        (None, "metrics: expected numbers by name, got None"),
        ({1: 0.5}, "metrics: expected numbers by name, got {1: 0.5}"),
    ],
)
def test_metrics_are_numbers_by_name(policy: Policy, metrics: object, error: str) -> None:
    state, outcome = after_a_turn(policy)
    state.observe(with_value(outcome, "metrics", {"steps": 1, "speed": 0.5}))
    assert state.episode.metrics == {"steps": 1.0, "speed": 0.5}
    state, outcome = after_a_turn(policy)
    state.observe(with_value(outcome, "metrics", metrics))
    assert state.episode.end is EndReason.ENV_ERROR
    assert state.episode.error.startswith(error)


@pytest.mark.parametrize("broken", [{"error": "KeyError: 'lamp'"}, {"info": None}, {"info": 5}])
def test_an_environment_error_is_a_failure_whatever_was_reached_before(policy: Policy, broken: dict[str, Any]) -> None:
    state, outcome = after_a_turn(policy)
    state.observe(with_value(with_value(outcome, "won", True), "score", 0.5))
    assert (state.episode.success, state.episode.score) == (True, 0.5)
    state.act(Sampled([5], [0.0], [0.0]))
    state.observe(replace(outcome, **broken))
    episode = state.episode
    assert (episode.end, episode.success, episode.score) == (EndReason.ENV_ERROR, False, 0.0)
    assert episode.error == broken.get("error", f"info: expected a mapping, got {broken.get('info')}")


@pytest.mark.parametrize("value", [1, True, np.float32(1), np.int64(1), np.bool_(True), np.array(1.0)])
def test_a_number_of_any_type_is_kept_as_a_float(policy: Policy, value: float) -> None:
    names = ("reward", "score", "process_reward", "progress")
    state, outcome = after_a_turn(policy)
    for name in names:
        outcome = with_value(outcome, name, value)
    state.observe(with_value(outcome, "won", np.bool_(True)))
    episode, [turn] = state.episode, state.episode.turns
    numbers = (turn.reward, episode.reward, episode.score, turn.process_reward, turn.progress)
    assert [(number, type(number)) for number in numbers] == [(1.0, float)] * 5
    assert episode.success is True


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("observation", None, "observation: expected a text, got None"),
        ("observation", b"a page", "observation: expected a text, got b'a page'"),
        ("task", 3, "task: expected a text, got 3"),
        ("failure", None, "failure: expected a text, got None"),
        ("admissible", "look", "admissible: expected a list of texts, got 'look'"),
        ("admissible", ["look", None], "admissible[1]: expected a text, got None"),
    ],
)
def test_what_is_not_a_text_ends_the_episode_and_not_the_run(
    policy: Policy, name: str, value: object, error: str
) -> None:
    state, outcome = after_a_turn(policy)
    state.observe(with_value(outcome, name, value))
    assert (state.episode.end, state.episode.error) == (EndReason.ENV_ERROR, error)


def test_half_a_character_is_replaced_wherever_an_environment_writes_it(policy: Policy) -> None:
    half = "page \ud83d"
    [outcome] = LocalEnvPool(lambda: Lamps("endless")).reset([0], [0])
    for name in ("observation", "task", "task_id", "task_type"):
        outcome = with_value(outcome, name, half)
    state = EpisodeState(agent_of(policy), task=0, group=0, split="train", max_tokens=400)
    prompt = state.start(with_value(outcome, "admissible", [half]))
    assert prompt is not None
    assert "page ?" in agent_text(policy, prompt.ids)
    assert {state.episode.task, state.episode.task_id, state.episode.task_type} == {"page ?"}


@pytest.mark.parametrize("key", ["task", "task_id", "task_type", "won", "score", "valid"])
def test_an_environment_without_a_required_key_ends_the_episode_and_not_the_run(policy: Policy, key: str) -> None:
    def without(outcome: Outcome) -> Outcome:
        assert outcome.info is not None
        info = cast(Info, {name: value for name, value in outcome.info.items() if name != key})
        return replace(outcome, info=info)

    at_reset = EpisodeState(agent_of(policy), task=0, group=0, split="train", max_tokens=400)
    [outcome] = LocalEnvPool(lambda: Lamps("endless")).reset([0], [0])
    assert at_reset.start(without(outcome)) is None
    state, outcome = after_a_turn(policy)
    assert state.observe(without(outcome)) is None
    for episode in (at_reset.episode, state.episode):
        assert episode.end is EndReason.ENV_ERROR
        assert episode.error.startswith(f"info: expected the key {key!r}, got ")


@pytest.mark.parametrize(
    ("fate", "turns", "section", "end"),
    [
        ("lose:1", ["<think></think><action>press 9</action>"], {}, EndReason.LOST),
        ("endless", RIGHT, {"max_steps": 2}, EndReason.STEP_LIMIT),
        ("endless", ["press 0", "<think>no action</think>"], {"max_malformed_turns": 2}, EndReason.MALFORMED),
        ("raise:1", RIGHT[:1], {}, EndReason.ENV_ERROR),
        ("raise:0", [], {}, EndReason.ENV_ERROR),
        ("endless", [], {"max_tokens": 10}, EndReason.TOKEN_LIMIT),
    ],
)
def test_every_end_has_its_reason(
    policy: Policy, fate: str, turns: list[str], section: dict[str, int], end: EndReason
) -> None:
    episode = play(policy, fate, turns, **section)
    assert episode.end is end
    assert not episode.success
    assert len(episode.turns) == len(turns)
    assert bool(episode.error) == (end is EndReason.ENV_ERROR)


def test_a_malformed_turn_and_a_rejected_action_are_told_apart(policy: Policy) -> None:
    turns = ["nothing", "<think>t</think><action>jump</action>", PRESS.format(0)]
    episode = play(policy, "press:1", turns)
    malformed, rejected, right = episode.turns
    assert (malformed.action, malformed.valid, malformed.rejected) == ("", False, False)
    assert (rejected.action, rejected.valid, rejected.rejected) == ("jump", False, True)
    assert (right.valid, right.rejected) == (True, False)


def test_a_turn_without_the_room_to_end_is_marked_as_cut(policy: Policy) -> None:
    agent = Agent(find("alfworld").prompt, AgentSection(), ChatFormat(policy.tokenizer))
    for written, cut in (("no end", True), ("end", False)):
        pool = LocalEnvPool(lambda: Lamps("endless"))
        ids = agent.chat.reply("<think>and so")
        ids = ids[:-1] if written == "no end" else ids
        first = EpisodeState(agent, task=0, group=0, split="train", max_tokens=400).start(*pool.reset([0], [0]))
        assert first is not None
        state = EpisodeState(agent, task=0, group=0, split="train", max_tokens=len(first.ids) + len(ids))
        state.start(*pool.reset([0], [0]))
        assert state.room == len(ids)
        action = state.act(Sampled(ids, [0.0] * len(ids), [0.0] * len(ids)))
        assert state.observe(*pool.step([0], [action])) is None
        assert (state.episode.turns[0].cut, state.episode.end) == (cut, EndReason.TOKEN_LIMIT)


def test_malformed_turns_end_an_episode_only_if_they_are_consecutive(policy: Policy) -> None:
    turns = ["nothing", PRESS.format(0), "nothing", PRESS.format(2)]
    episode = play(policy, "press:2", turns, max_malformed_turns=2)
    assert episode.end is EndReason.WON
    assert [turn.valid for turn in episode.turns] == [False, True, False, True]
