"""The rules of an episode: what a turn becomes, what is kept of it, and when and why the episode ends.

These rules need no decoder. Whatever samples the tokens (our collector, TRL, verl) plays an `EpisodeState` like this:

    prompt = state.start(outcome of reset)
    while prompt is not None:
        write ids after the prompt until `agent.ends_turn(ids)`, or until a limit
        action = state.act(Sampled(ids, their log-probabilities and entropies))
        prompt = state.observe(outcome of the environment's step with that action)
    state.episode
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

from empg.agent.dialogue import Agent, Prompt
from empg.environments.base import Info
from empg.policy.decode import Sampled
from empg.recipe import AgentSection
from empg.rollout.env_pool import Outcome
from empg.rollout.types import EndReason, Episode, Turn
from empg.web.text import clean_text

# Keys of `info` that a turn does not keep: the episode has the first four, and the last is most of the memory.
_NOT_KEPT = ("task", "task_id", "task_type", "metrics", "admissible")

# Keys of `info` that the rules and the prompts of the agent need after every reset and step.
_REQUIRED = ("task", "task_id", "task_type", "won", "score", "valid")

_TEXTS = "task", "task_id", "task_type", "failure"

_LARGEST = 1e9  # of what credit is assigned for; its sums and squares stay finite in float32

Asked = TypeVar("Asked")


class EpisodeRules(Generic[Asked]):
    """One episode while it is played: what is kept of it, and when and why it ends.

    `Asked` is what the policy reads before a turn: token ids, or chat messages. A subclass writes it, and adds the
    policy's turns.

    Attributes:
        episode: what has been played so far.
    """

    def __init__(self, section: AgentSection, *, task: int, group: int, split: str) -> None:
        self.episode = Episode(task_id="", task_index=task, task_type="", split=split, group=group)
        self._section = section
        self._observation = ""
        self._malformed_in_a_row = 0

    def start(self, outcome: Outcome) -> Asked | None:
        """Take the environment's reset and return the first prompt, or None when the episode is over already."""
        taken = self._taken(outcome)
        if taken is None:
            return None
        observation, info = taken
        self.episode.task_id, self.episode.task_type = info["task_id"], info["task_type"]
        self.episode.task, self.episode.progress = info["task"], _progress(info)
        return self._next_prompt(observation, info)

    def observe(self, outcome: Outcome) -> Asked | None:
        """Take the environment's answer to the last action and return the next prompt; None at the episode's end."""
        taken = self._taken(outcome)
        if taken is None:
            return None
        observation, info = taken
        episode, turn = self.episode, self.episode.turns[-1]
        turn.rejected = bool(turn.action) and not info["valid"]
        turn.valid = turn.valid and not turn.rejected
        turn.reward, turn.process_reward = float(outcome.reward), float(info.get("process_reward", 0.0))
        turn.progress, turn.failure = _progress(info), info.get("failure", "")
        turn.info = {key: value for key, value in info.items() if key not in _NOT_KEPT}
        episode.reward += turn.reward
        episode.score, episode.success = float(info["score"]), bool(info["won"])
        episode.metrics = {name: float(value) for name, value in info.get("metrics", {}).items()}
        self._malformed_in_a_row = 0 if turn.action else self._malformed_in_a_row + 1
        end = self._end_reason(outcome)
        if end is not None:
            episode.end = end
            return None
        return self._next_prompt(observation, info)

    def _end_reason(self, outcome: Outcome) -> EndReason | None:
        """Return why the episode is over after this outcome; None if it continues."""
        if outcome.terminated:
            return EndReason.WON if self.episode.success else EndReason.LOST
        if outcome.truncated:
            return EndReason.STEP_LIMIT
        if self._malformed_in_a_row >= self._section.max_malformed_turns:
            return EndReason.MALFORMED
        return None

    def _taken(self, outcome: Outcome) -> tuple[str, Info] | None:
        """Return the observation and the info, with text that can be encoded.

        None ends the episode: the environment raised, or broke its contract.
        """
        observation, info = outcome.observation, outcome.info
        if outcome.error or not isinstance(info, Mapping):
            problem = outcome.error or f"info: expected a mapping, got {info!r:.80}"
        else:
            problem = _breach(outcome.reward, info) or _no_text(observation, info)
            if not problem:
                return clean_text(observation), _with_clean_texts(info)
        self.episode.error, self.episode.end = problem, EndReason.ENV_ERROR
        self.episode.success, self.episode.score = False, 0.0  # whatever the environment said before
        return None

    def _next_prompt(self, observation: str, info: Info) -> Asked | None:
        """Return the next prompt; None when no further turn fits."""
        raise NotImplementedError


class EpisodeState(EpisodeRules[Prompt]):
    """An episode in token ids.

    Attributes:
        context: tokens that the policy has in its context: prompts and, in a `merged` history, all earlier turns.
    """

    def __init__(self, agent: Agent, *, task: int, group: int, split: str, max_tokens: int) -> None:
        super().__init__(agent.section, task=task, group=group, split=split)
        self.context = 0
        self._agent, self._max_tokens = agent, max_tokens
        self._dialogue = agent.dialogue()
        self._read: list[int] = []

    @property
    def room(self) -> int:
        """The tokens that fit into the context before the token limit of the episode; a turn may have a lower limit."""
        return self._max_tokens - self.context

    def act(self, sampled: Sampled) -> str:
        """Add the turn that the policy wrote after the last prompt and return its action; empty if it is malformed."""
        parsed = self._dialogue.parse(sampled.ids)
        cut = len(sampled.ids) >= self.room and not self._agent.ends_turn(sampled.ids)
        self.context += len(sampled.ids)
        turn = Turn(
            observation=self._observation,
            prompt_ids=self._read,
            action_ids=sampled.ids,
            logprobs=sampled.logprobs,
            entropies=sampled.entropies,
            action_start=self._agent.action_start(sampled.ids, parsed),
            text=self._agent.chat.raw_text(sampled.ids),
            thought=parsed.thought,
            action=parsed.action,
            valid=parsed.well_formed,
            cut=cut,
        )
        self.episode.turns.append(turn)
        self._dialogue.wrote(sampled.ids, parsed.action)
        return turn.action

    def _next_prompt(self, observation: str, info: Info) -> Prompt | None:
        """Return the next prompt; None when it and one more token do not fit."""
        self._observation = observation
        prompt = self._dialogue.read(observation, info)
        context = (0 if prompt.fresh else self.context) + len(prompt.ids)
        if context >= self._max_tokens:
            self.episode.end = EndReason.TOKEN_LIMIT
            return None
        self.context, self._read = context, prompt.ids
        return prompt


def _breach(reward: object, info: Mapping[str, Any]) -> str:
    """Return how an environment breaks its contract: a key that it lacks, or what is not a number; empty if nowhere."""
    lacking = [key for key in _REQUIRED if key not in info]
    if lacking:
        return f"info: expected the key {lacking[0]!r}, got {', '.join(info) or 'no key'}"[:300]
    credited: dict[str, Any] = {"reward": reward, "score": info["score"]}
    credited |= {name: info[name] for name in ("process_reward", "progress") if name in info}
    metrics = info.get("metrics", {})
    if not isinstance(metrics, Mapping) or not all(isinstance(name, str) for name in metrics):
        return f"metrics: expected numbers by name, got {metrics!r:.80}"
    numbers = credited | {f"metrics.{name}": value for name, value in metrics.items()}
    for name, value in numbers.items():
        if not _is_finite(value):
            return f"{name}: expected a finite number, got {value!r:.80}"
    for name, value in credited.items():
        if abs(value) > _LARGEST:
            return f"{name}: expected a number of at most {_LARGEST:.0e} in size, got {value!r:.80}"
    return ""


def _no_text(observation: object, info: Mapping[str, Any]) -> str:
    """Return which text of an environment is not a text; empty if all are."""
    texts = {"observation": observation} | {name: info[name] for name in _TEXTS if name in info}
    for name, text in texts.items():
        if not isinstance(text, str):
            return f"{name}: expected a text, got {text!r:.80}"
    admissible = info.get("admissible") or []
    if not isinstance(admissible, Sequence) or isinstance(admissible, str):
        return f"admissible: expected a list of texts, got {admissible!r:.80}"
    for place, command in enumerate(admissible):
        if not isinstance(command, str):
            return f"admissible[{place}]: expected a text, got {command!r:.80}"
    return ""


def _with_clean_texts(info: Info) -> Info:
    """Return the info with its texts cleaned: a page or a server's answer can have lone surrogates."""
    cleaned: Any = dict(info)
    cleaned |= {name: clean_text(cleaned[name]) for name in _TEXTS if name in cleaned}
    if cleaned.get("admissible"):
        cleaned["admissible"] = [clean_text(command) for command in cleaned["admissible"]]
    return cleaned  # type: ignore[no-any-return]


def _is_finite(value: object) -> bool:
    """Return whether a value is a finite number: of Python, numpy or, as an array of one number, torch."""
    try:
        return not isinstance(value, (str, bytes)) and math.isfinite(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return False


def _progress(info: Info) -> float:
    return float(info.get("progress", info["score"]))
