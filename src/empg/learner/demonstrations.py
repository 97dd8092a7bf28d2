"""The expert's play, as text and as rows to imitate."""

from __future__ import annotations

import random
from dataclasses import dataclass

from empg.agent.dialogue import Agent
from empg.agent.parsing import FORMS
from empg.agent.prompts import World, observation_text
from empg.environments.base import ANSWER, SEARCH, Decision, HastyExpert, Info, TextEnvironment
from empg.rollout.types import Episode, Turn


@dataclass(frozen=True, slots=True)
class Demonstrated:
    """One turn of the expert: what it saw, what it said and did. A slip went wrong on purpose."""

    observation: str
    info: Info
    thought: str
    action: str
    slip: bool


def demonstrate(
    environment: TextEnvironment, task: int, noise: float, key: tuple[int, ...], haste: float = 0.0
) -> list[Demonstrated]:
    """Let the expert play a task, and slip now and then.

    With probability `noise` a turn goes wrong (unless that would end the episode). A third of these slips insist: the
    turn before, word for word, once more. Half of the others are of the hand: a random command that is admissible, or
    was and is not now. The rest are of the mind: thought and command belong to another moment of the expert's play,
    such as taking what was not found yet. So the policy reads its own mistakes, and learns from what the expert does
    next to come back from them.

    With probability `haste` a turn ends the episode where it can, before its time. That is no slip: it is meant, and
    imitated, as the plays of people are with all their faults. The same `key` gives the same play.

    Raises:
        ValueError: haste is asked of an expert that cannot end an episode before its time.
    """
    dice = random.Random(repr(key))
    observation, info = environment.reset(options={"task": task})
    plan = _undisturbed(environment.clone(), observation, info) if noise else []
    expert = environment.expert()
    hasty = expert if haste and isinstance(expert, HastyExpert) else None
    if haste and hasty is None:
        raise ValueError("warm_start.haste: in this environment only success ends an episode; leave it at 0")
    turns: list[Demonstrated] = []
    known: dict[str, None] = {}  # every command that was admissible so far, in order
    while True:
        said = expert.act(observation, info)
        if hasty is not None and dice.random() < haste:
            said = hasty.conclude(observation, info) or said
        admissible = [command for command in info.get("admissible") or [] if command not in (SEARCH, ANSWER)]
        known.update(dict.fromkeys(admissible))
        before = Decision(thought=turns[-1].thought, action=turns[-1].action) if turns else None
        wrong = _wrong(said, before, plan, admissible, known, dice) if dice.random() < noise else None
        if wrong is not None and environment.clone().step(wrong["action"])[2]:
            wrong = None
        done = wrong or said
        turns.append(Demonstrated(observation, info, done["thought"], done["action"], slip=wrong is not None))
        observation, _, terminated, truncated, info = environment.step(done["action"])
        if terminated or truncated:
            return turns


def _undisturbed(environment: TextEnvironment, observation: str, info: Info) -> list[Decision]:
    """What the expert says when nothing goes wrong."""
    expert, plan = environment.expert(), []
    over = False
    while not over:
        plan.append(expert.act(observation, info))
        observation, _, terminated, truncated, info = environment.step(plan[-1]["action"])
        over = terminated or truncated
    return plan


def _wrong(
    right: Decision,
    before: Decision | None,
    plan: list[Decision],
    admissible: list[str],
    known: dict[str, None],
    dice: random.Random,
) -> Decision | None:
    """Something else than the right thing to do; None where there is nothing else."""
    if before is not None and before["action"] != right["action"] and dice.random() < 0.33:
        return before
    misjudged = [other for other in plan if other["action"] != right["action"]]
    if misjudged and dice.random() < 0.5:
        return dice.choice(misjudged)
    now = set(admissible)
    stale = [command for command in known if command not in now]
    commands = stale if stale and dice.random() < 0.5 else admissible
    return Decision(thought=right["thought"], action=dice.choice(commands)) if commands else None


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
