"""The records of a rollout: one turn, one episode.

Token-in token-out: `prompt_ids` and `action_ids` are the very ids the policy read and sampled. Text is kept for people;
it is never tokenised again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class EndReason(str, Enum):
    """Why an episode ended."""

    WON = "won"  # the environment ended it with success
    LOST = "lost"  # the environment ended it without success
    STEP_LIMIT = "step_limit"  # the environment's max_steps
    TOKEN_LIMIT = "token_limit"  # no room left for another turn
    MALFORMED = "malformed"  # too many malformed turns in a row
    ENV_ERROR = "env_error"  # the environment raised; counted, shown, never trained on


@dataclass(slots=True, kw_only=True)
class Turn:
    """One step of an episode: what was read, what was written, what came of it.

    `prompt_ids` are the ids read before acting: in a `merged` episode those new since the previous turn's action, in a
    `per_turn` episode the whole prompt. `action_ids` are the sampled ids, the end-of-turn token among them when it
    was sampled. `logprobs` (of the sampled ids) and `entropies` (full vocabulary, nats, at the sampling temperature,
    before any top-p cut) have the length of `action_ids`. The action begins with the token `action_start`; it is 0 in a
    turn without an action or without a thought before it. `text` is what the sampled ids say, control tokens included.
    `info` is the environment's info after the action (`won`, `score`, `valid` and any further keys), without the keys
    that the episode has and without the admissible commands. `progress` is how far the task was done then, from 0 to 1;
    the score, if the environment does not report it.

    A turn is malformed if no action could be read from it (`action` is empty). `rejected` says that the environment did
    not accept its action. `valid` is False for both, and for a turn without the thought that its form requires. `cut`
    says that the token limit of the context ended the turn.
    """

    observation: str
    prompt_ids: list[int]
    action_ids: list[int]
    logprobs: list[float]
    entropies: list[float]
    action_start: int = 0
    text: str = ""
    thought: str = ""
    action: str = ""
    valid: bool = True
    rejected: bool = False
    cut: bool = False
    reward: float = 0.0
    process_reward: float = 0.0
    progress: float = 0.0
    failure: str = ""  # why an external service that the action needs was unavailable; the episode continues
    info: dict[str, Any] = field(default_factory=dict)

    @property
    def entropy(self) -> float:
        """Step entropy H: the mean of the token entropies (nats)."""
        return _mean(self.entropies)

    @property
    def action_entropy(self) -> float:
        """The mean of the entropies (nats) of the tokens of the action, from its opening tag to the end of the turn."""
        return _mean(self.entropies[self.action_start :])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


@dataclass(slots=True, kw_only=True)
class Episode:
    """One episode of one task. `group` is equal for the episodes that are compared with one another.

    `progress` is how far the task was done before the first turn; `Turn.progress` is how far it was done after a turn.
    """

    task_id: str
    task_index: int
    task_type: str
    split: str
    group: int
    task: str = ""
    turns: list[Turn] = field(default_factory=list)
    progress: float = 0.0
    reward: float = 0.0
    score: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)  # further measures of the outcome, by name
    success: bool = False
    end: EndReason = EndReason.STEP_LIMIT
    error: str = ""  # what the environment raised, when `end` is ENV_ERROR

    @property
    def num_action_tokens(self) -> int:
        """Tokens the policy wrote, over all turns."""
        return sum(len(turn.action_ids) for turn in self.turns)
