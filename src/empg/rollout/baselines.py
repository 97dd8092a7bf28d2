"""The expert and a random policy as episodes: what the success of a model is compared with."""

from __future__ import annotations

import random
from collections.abc import Callable

from empg.environments.base import ANSWER, SEARCH, Info, TextEnvironment
from empg.errors import UserError
from empg.recipe import AgentSection
from empg.rollout.env_pool import LocalEnvPool
from empg.rollout.turns import EpisodeRules
from empg.rollout.types import Episode, Turn
from empg.system.random_keys import random_policy_key

Read = tuple[str, Info]
"""What a baseline reads before a turn: the observation and its info."""
Act = Callable[[str, Info], str]
"""Returns the next command, given the observation and its info."""

_MAX_WORDS = 4  # of a random search


class NoBaselineError(UserError):
    """An environment has no expert, or does not list its commands."""


def expert_episode(environment: TextEnvironment, task: int, place: int) -> Episode:
    """Play a task with the environment's expert; `place` is its position in the panel.

    Raises:
        NoBaselineError: the environment has no expert.
    """

    def begin(info: Info) -> Act:
        try:
            expert = environment.expert()
        except UserError as error:
            raise NoBaselineError(str(error)) from None
        return lambda seen, known: expert.act(seen, known)["action"]

    return _played(environment, task, place, begin)


def random_episode(environment: TextEnvironment, task: int, place: int) -> Episode:
    """Play a task with a policy that draws one of the admissible commands; `place` seeds it.

    A search consists of words of the task, an answer of one word of the observation.

    Raises:
        NoBaselineError: the environment does not list the admissible commands.
    """

    def begin(info: Info) -> Act:
        if not info.get("admissible"):
            raise NoBaselineError("this environment does not list its commands, so there is no random policy for it")
        rng = random.Random(random_policy_key(place))
        return lambda seen, known: _random_command(seen, known, rng)

    return _played(environment, task, place, begin)


def _random_command(observation: str, info: Info, rng: random.Random) -> str:
    """Return a command; an empty text, which is a malformed turn, if none is listed now."""
    commands = info.get("admissible")
    if not commands:
        return ""
    command = rng.choice(commands)
    if command == SEARCH:
        words = info["task"].split() or ["a"]
        return f"search[{' '.join(rng.sample(words, min(len(words), rng.randint(1, _MAX_WORDS))))}]"
    return f"answer[{rng.choice(observation.split() or ['a'])}]" if command == ANSWER else command


class _Baseline(EpisodeRules[Read]):
    """An episode in commands: no prompt is written and no token sampled."""

    def act(self, action: str) -> None:
        """Add a turn; its observation is not kept."""
        turn = Turn(observation="", prompt_ids=[], action_ids=[], logprobs=[], entropies=[], action=action)
        turn.valid = bool(action)
        self.episode.turns.append(turn)

    def _next_prompt(self, observation: str, info: Info) -> Read:
        return observation, info


def _played(environment: TextEnvironment, task: int, place: int, begin: Callable[[Info], Act]) -> Episode:
    """Play an episode to its end; `begin` makes its policy after the reset."""
    pool = LocalEnvPool(lambda: environment)
    rules = _Baseline(AgentSection(), task=task, group=place, split=environment.split)
    read = rules.start(*pool.reset([0], [task]))
    act = None
    while read is not None:
        act = act or begin(read[1])
        action = act(*read)
        rules.act(action)
        read = rules.observe(*pool.step([0], [action]))
    return rules.episode
