"""Chat messages have the texts that a local model reads."""

from __future__ import annotations

import pytest

from empg.agent.chat import ChatFormat
from empg.agent.dialogue import Agent
from empg.agent.messages import ByteMeasure, Conversation
from empg.agent.wording import CUT
from empg.environments.registry import find, make
from empg.policy.model import Policy
from empg.recipe import AgentSection

ACTIONS = ["go to desk 1", "", "look", "inventory"]


@pytest.mark.parametrize("prompt", ["instruct", "terse"])
@pytest.mark.parametrize("history", ["merged", "per_turn"])
def test_rendered_messages_are_the_prompts_of_a_local_model(prompt: str, history: str, cased_policy: Policy) -> None:
    section = AgentSection(prompt=prompt, history=history, window=2)
    prompt_spec, tokenizer = find("alfworld").prompt, cased_policy.tokenizer
    dialogue = Agent(prompt_spec, section, ChatFormat(tokenizer)).dialogue()
    conversation = Conversation(prompt_spec, section)
    environment = make("alfworld", "valid_seen", {"rooms": "small"})
    observation, info = environment.reset(options={"task": 0})
    read: list[int] = []
    for action in ACTIONS:
        local = dialogue.read(observation, info)
        read = local.ids if local.fresh else [*read, *local.ids]
        messages = conversation.read(observation, info)
        rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(read) == tokenizer.decode(tokenizer.encode(rendered, add_special_tokens=False))
        text = f"<think>why</think><action>{action}</action>"
        ids = dialogue.agent.chat.reply(text)
        assert conversation.parse(text) == dialogue.parse(ids)
        dialogue.wrote(ids, action)
        conversation.wrote(text, action)
        read += ids
        observation, *_, info = environment.step(action)


def test_lengths_are_estimated_from_bytes() -> None:
    measure = ByteMeasure()
    assert [measure.length(text) for text in ("", "a", "abcd", "abcde", "\u4f60\u597d")] == [0, 1, 1, 2, 2]
    cut = measure.cut("one two three four five six", 5)
    assert cut == f"one two three{CUT}"
    assert measure.length(cut) <= 5
