"""The expert and a random policy as episodes: what the success of a model is compared with."""

from __future__ import annotations

import random
from collections.abc import Callable

from empg.environments.base import ANSWER, SEARCH, Info, TextEnvironment
from empg.errors import UserError
from empg.rollout.types import EndReason, Episode, Turn

Act = Callable[[str, Info], str]
"""Returns the next command, given the observation and its info."""

_MAX_WORDS = 4  # of a random search


def expert_episode(environment: TextEnvironment, task: int, place: int) -> Episode:
    """Play a task with the environment's expert; `place` is its position in the panel.

    Raises:
        UserError: the environment has no expert.
    """
    observation, info = environment.reset(options={"task": task})
    expert = environment.expert()
    return _played(environment, observation, info, task, place, lambda seen, known: expert.act(seen, known)["action"])


def random_episode(environment: TextEnvironment, task: int, place: int) -> Episode:
    """Play a task with a policy that draws one of the admissible commands; `place` seeds it.

    A search consists of words of the task, an answer of one word of the observation.

    Raises:
        UserError: the environment cannot list the admissible commands.
    """
    rng = random.Random(f"empg random policy {place}")
    observation, info = environment.reset(options={"task": task})
    return _played(environment, observation, info, task, place, lambda seen, known: _random_command(seen, known, rng))


def _random_command(observation: str, info: Info, rng: random.Random) -> str:
    commands = info.get("admissible")
    if not commands:
        raise UserError("this environment does not list its commands, so there is no random policy for it")
    command = rng.choice(commands)
    if command == SEARCH:
        words = info["task"].split() or ["a"]
        return f"search[{' '.join(rng.sample(words, min(len(words), rng.randint(1, _MAX_WORDS))))}]"
    return f"answer[{rng.choice(observation.split() or ['a'])}]" if command == ANSWER else command


def _played(environment: TextEnvironment, observation: str, info: Info, task: int, place: int, act: Act) -> Episode:
    """Play an episode that was just reset to its end."""
    episode = Episode(
        task_id=info["task_id"],
        task_index=task,
        task_type=info["task_type"],
        split=environment.split,
        group=place,
        task=info["task"],
    )
    over = False
    while not over:
        action = act(observation, info)
        turn = Turn(observation="", prompt_ids=[], action_ids=[], logprobs=[], entropies=[], action=action)
        observation, turn.reward, terminated, truncated, info = environment.step(action)
        turn.valid = info["valid"]
        episode.turns.append(turn)
        episode.reward += turn.reward
        over = terminated or truncated
    episode.score, episode.success, episode.metrics = info["score"], info["won"], info.get("metrics", {})
    if terminated:
        episode.end = EndReason.WON if episode.success else EndReason.LOST
    return episode
