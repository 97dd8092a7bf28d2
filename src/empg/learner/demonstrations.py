"""The expert's play, as text and as rows to imitate."""

from __future__ import annotations

import random
from dataclasses import dataclass

from empg.agent.dialogue import Agent
from empg.agent.parsing import FORMS
from empg.agent.prompts import World, observation_text
from empg.environments.base import ANSWER, SEARCH, Info, TextEnvironment
from empg.rollout.types import Episode, Turn


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """One turn of the expert: what it saw, what it said and did. A slip is a random action."""

    observation: str
    info: Info
    thought: str
    action: str
    slip: bool


def demonstrate(environment: TextEnvironment, task: int, noise: float, key: tuple[int, ...]) -> list[Demonstrated]:
    """Let the expert play a task.

    With probability `noise` a turn's command is replaced: by a random admissible one, or by one that could be given
    earlier and cannot now. So the policy learns to come back from its own mistakes, and what "nothing happened" means
    for what it holds. The same `key` gives the same play.
    """
    dice = random.Random(repr(key))
    observation, info = environment.reset(options={"task": task})
    expert = environment.expert()
    turns = []
    known: dict[str, None] = {}  # every command that was admissible so far, in order
    while True:
        decision = expert.act(observation, info)
        action = decision["action"]
        admissible = [command for command in info.get("admissible") or [] if command not in (SEARCH, ANSWER)]
        known.update(dict.fromkeys(admissible))
        slip = bool(admissible) and dice.random() < noise
        if slip:
            now = set(admissible)
            stale = [command for command in known if command not in now]
            action = dice.choice(stale if stale and dice.random() < 0.5 else admissible)
        turns.append(Demonstrated(observation, info, decision["thought"], action, slip))
        observation, _, terminated, truncated, info = environment.step(action)
        if terminated or truncated:
            return turns


def as_episode(turns: list[Demonstrated], agent: Agent, limit: int) -> tuple[Episode, list[bool]]:
    """The play in token ids, cut before `limit` tokens are passed; and for each turn whether it was meant (no slip)."""
    info = turns[0].info
    episode = Episode(info["task_id"], 0, info["task_type"], "", 0, info["task"])
    dialogue = agent.dialogue()
    meant: list[bool] = []
    context = 0
    for turn in turns:
        prompt = dialogue.read(turn.observation, turn.info)
        action_ids = agent.write(turn.thought, turn.action)
        context = (0 if prompt.fresh else context) + len(prompt.ids) + len(action_ids)
        if context > limit:
            break
        dialogue.wrote(action_ids, turn.action)
        nothing = [0.0] * len(action_ids)
        spoken = (turn.thought, turn.action)
        episode.turns.append(Turn(turn.observation, prompt.ids, action_ids, nothing, nothing, *spoken))
        meant.append(not turn.slip)
    return episode, meant


def corpus(environment: TextEnvironment, world: World, form: str, episodes: int, key: tuple[int, ...]) -> list[str]:
    """Texts of the expert's `episodes` plays, to train a tokenizer on: observations and turns as they are read."""
    texts = []
    for index in range(episodes):
        for turn in demonstrate(environment, index % environment.num_tasks, 0.1, (*key, index)):
            texts.append(observation_text(world, turn.observation, turn.info, first=False))
            texts.append(FORMS[form].write(turn.thought, turn.action))
    return texts
