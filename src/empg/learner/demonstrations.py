"""The expert's play, as text and as rows to imitate."""

from __future__ import annotations

import random
from dataclasses import dataclass

from empg.agent.dialogue import Agent
from empg.agent.parsing import write_turn
from empg.environments.base import Info, TextEnvironment
from empg.rollout.types import Episode, Turn


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """One turn of the expert: what it saw, what it said and did. A slip (a random action) is not to be imitated."""

    observation: str
    info: Info
    thought: str
    action: str
    slip: bool


def demonstrate(environment: TextEnvironment, task: int, noise: float, key: tuple[int, ...]) -> list[Demonstrated]:
    """Let the expert play a task.

    With probability `noise` a turn's command is replaced by a random admissible one, so that the policy also learns
    how to come back from its own mistakes. The same `key` gives the same play.
    """
    dice = random.Random(repr(key))
    observation, info = environment.reset(options={"task": task})
    expert = environment.expert()
    turns = []
    while True:
        decision = expert.act(observation, info)
        action = decision["action"]
        admissible = info.get("admissible")
        slip = bool(admissible) and dice.random() < noise
        if slip and admissible:
            action = dice.choice(admissible)
        turns.append(Demonstrated(observation, info, decision["thought"], action, slip))
        observation, _, terminated, truncated, info = environment.step(action)
        if terminated or truncated:
            return turns


def as_episode(turns: list[Demonstrated], agent: Agent, limit: int) -> tuple[Episode, list[bool]]:
    """The play in token ids, and for each turn whether to imitate it; cut before `limit` tokens are passed."""
    info = turns[0].info
    episode = Episode(info["task_id"], 0, info["task_type"], "", 0, info["task"])
    dialogue = agent.dialogue()
    imitate: list[bool] = []
    context = 0
    for turn in turns:
        prompt = dialogue.read(turn.observation, turn.info)
        action_ids = agent.chat.reply(write_turn(turn.thought, turn.action))
        context = (0 if prompt.fresh else context) + len(prompt.ids) + len(action_ids)
        if context > limit:
            break
        dialogue.wrote(action_ids, turn.action)
        nothing = [0.0] * len(action_ids)
        episode.turns.append(Turn(turn.observation, prompt.ids, action_ids, nothing, nothing, turn.thought, turn.action))
        imitate.append(not turn.slip)
    return episode, imitate


def corpus(environment: TextEnvironment, agent_text: int, key: tuple[int, ...]) -> list[str]:
    """Texts of `agent_text` expert episodes, to train a tokenizer on: observations and turns as they are read."""
    texts = []
    for index in range(agent_text):
        for turn in demonstrate(environment, index % environment.num_tasks, 0.1, (*key, index)):
            texts.append(f"{turn.observation} Your task is to: {turn.info['task']}.")
            texts.append(turn.thought)
            texts.append(turn.action)
    return texts
