"""Episodes with a chat model: what is sent, what is kept, how they end, and what a failure leaves."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from empg.agent.messages import Message
from empg.environments.registry import find
from empg.recipe import AgentSection
from empg.rollout.chat_collector import ChatCollector, Usage
from empg.rollout.collector import Request
from empg.rollout.endpoint import Completion, ContextFullError, EndpointError
from empg.rollout.env_pool import LocalEnvPool
from empg.rollout.types import EndReason, Episode
from tests.lamps import Lamps
from tests.rollout.chat_server import turn

Reply = Callable[[Sequence[Message]], Completion]


def completion(text: str, reasoning: str = "", metered: bool = True) -> Completion:
    return Completion(text, reasoning, 10 * metered, 5 * metered, metered)


def press(messages: Sequence[Message]) -> Completion:
    """Press the lamp that is lit."""
    return completion(turn(f"press {re.findall(r'Lamp ([0-9]) is lit', messages[-1]['content'])[-1]}"))


def play(ask: Reply, *fates: str, slots: int = 4, max_tokens: int = 10_000, **section: Any) -> list[Episode]:
    return [episode for episode, _ in played(ask, *fates, slots=slots, max_tokens=max_tokens, **section)]


def played(
    ask: Reply, *fates: str, slots: int = 4, max_tokens: int = 10_000, kept: list[tuple[Episode, Usage]] | None = None,
    **section: Any,
) -> list[tuple[Episode, Usage]]:  # fmt: skip
    kept = [] if kept is None else kept
    agent = AgentSection(**{"prompt": "instruct", "history": "per_turn", **section})
    pool = LocalEnvPool(lambda: Lamps(*fates))
    requests = [Request(task, task, (0,)) for task in range(len(fates))]
    collector = ChatCollector(ask, find("alfworld").prompt, agent, pool, "train", max_tokens, slots)
    collector.collect(requests, lambda episode, usage: kept.append((episode, usage)))
    return sorted(kept, key=lambda item: item[0].group)


def test_every_request_is_played_to_its_end() -> None:
    fates = ["press:2", "lose:1", "endless", "raise:0", "raise:2", "press:3"]
    episodes = play(press, *fates, slots=2)
    ends = [EndReason.WON, EndReason.LOST, EndReason.STEP_LIMIT, EndReason.ENV_ERROR, EndReason.ENV_ERROR]
    assert [episode.end for episode in episodes] == [*ends, EndReason.WON]
    assert [len(episode.turns) for episode in episodes] == [2, 1, 6, 0, 2, 3]
    first = episodes[0].turns[0]
    assert (first.observation, first.thought, first.action, first.valid) == (
        "Lamp 0 is lit.", "Let me see.", "press 0", True,
    )  # fmt: skip


def test_no_more_episodes_than_slots_are_asked_at_once() -> None:
    open_now, most, lock, all_in = 0, 0, threading.Lock(), threading.Barrier(3, timeout=10)

    def ask(messages: Sequence[Message]) -> Completion:
        nonlocal open_now, most
        with lock:
            open_now += 1
            most = max(most, open_now)
        all_in.wait()  # passes only if three requests are open
        with lock:
            open_now -= 1
        return press(messages)

    assert len(play(ask, *["win:1"] * 9, slots=3)) == 9
    assert most == 3


def test_a_merged_conversation_grows_and_a_per_turn_one_starts_again() -> None:
    sent: list[list[Message]] = []

    def ask(messages: Sequence[Message]) -> Completion:
        sent.append(list(messages))
        return press(messages)

    [(_, usage)] = played(ask, "press:2", history="merged")
    assert [[message["role"] for message in messages] for messages in sent] == [
        ["system", "user"], ["system", "user", "assistant", "user"],
    ]  # fmt: skip
    assert sent[1][:2] == sent[0]
    assert sent[1][2]["content"] == turn("press 0")
    assert usage == Usage(requests=2, prompt_tokens=20, completion_tokens=10, context=15)
    sent.clear()
    [(_, usage)] = played(ask, "press:2")
    assert [[message["role"] for message in messages] for messages in sent] == [["system", "user"]] * 2
    assert "did: press 0" in sent[1][1]["content"]
    assert usage.context == 30


@pytest.mark.parametrize(
    ("reply", "thought", "action", "valid"),
    [
        (completion("<action>press 0</action>", reasoning="It is lit."), "It is lit.", "press 0", True),
        (completion("<think>mine</think><action>press 0</action>", reasoning="no"), "mine", "press 0", True),
        (completion("<action>press 0</action>", reasoning="<think>a</think> <action>press 1</action>"),
         "<think>a</think> <action>press 1</action>", "press 0", True),
        (completion("<action>press 0</action>"), "", "press 0", False),
        (completion(""), "", "", False),
        (completion("<think>why</think><action>press"), "why", "", False),  # finish_reason: length
    ],
)  # fmt: skip
def test_turns(reply: Completion, thought: str, action: str, valid: bool) -> None:
    [episode] = play(lambda messages: reply, "win:1")
    [written] = episode.turns
    assert (written.thought, written.action, written.valid) == (thought, action, valid)


def test_a_reasoning_field_is_not_sent_back() -> None:
    sent: list[list[Message]] = []

    def ask(messages: Sequence[Message]) -> Completion:
        sent.append(list(messages))
        return completion("<action>look</action>" if len(sent) == 1 else "", reasoning="a long thought")

    play(ask, "win:3", history="merged")
    assert [m["content"] for m in sent[2] if m["role"] == "assistant"] == ["<action>look</action>", "(no answer)"]


def test_malformed_turns_in_a_row_end_an_episode() -> None:
    [episode] = play(lambda messages: completion("I refuse."), "endless", max_malformed_turns=3)
    assert (episode.end, len(episode.turns)) == (EndReason.MALFORMED, 3)


def test_a_search_r1_turn_ends_after_its_first_block() -> None:
    sent: list[list[Message]] = []

    def ask(messages: Sequence[Message]) -> Completion:
        sent.append(list(messages))
        return completion("<search>a</search><information>invented</information><answer>b</answer>")

    [episode] = play(ask, "win:2", form="search_r1", history="merged")
    assert episode.turns[0].action == "search[a]"
    assert sent[1][2]["content"] == "<search>a</search>"


def test_the_context_of_the_model_and_the_token_limit_end_an_episode() -> None:
    def full(messages: Sequence[Message]) -> Completion:
        if len(messages) > 4:
            raise ContextFullError
        return press(messages)

    [episode] = play(full, "endless", history="merged")
    assert (episode.end, len(episode.turns)) == (EndReason.TOKEN_LIMIT, 2)
    [episode] = play(press, "endless", history="merged", max_tokens=15)
    assert (episode.end, len(episode.turns)) == (EndReason.TOKEN_LIMIT, 1)


def test_replies_without_counts_are_counted() -> None:
    [(_, usage)] = played(lambda messages: completion(turn("press 0"), metered=False), "win:2")
    assert usage == Usage(requests=2, unmetered=2)


def test_a_failure_stops_and_finished_episodes_are_kept() -> None:
    kept: list[tuple[Episode, Usage]] = []

    def ask(messages: Sequence[Message]) -> Completion:
        if len(kept) >= 2:
            raise EndpointError("host answered 402")
        return press(messages)

    with pytest.raises(EndpointError, match="host answered 402"):
        played(ask, *["win:1"] * 6, slots=1, kept=kept)
    assert [episode.end for episode, _ in kept] == [EndReason.WON] * 2
