"""From episodes to the advantage of every sampled token: which episodes count, what each step is worth."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from empg.credit import EMPGConfig, StepCredit, StepTable, modulate, outcome_advantages, zero_variance_groups
from empg.learner.batch import TokenBatch, make_batch
from empg.learner.process_reward import step_rewards
from empg.recipe import Recipe
from empg.rollout.types import EndReason, Episode
from empg.system.workers import Workers


@dataclass(frozen=True)
class Assigned:
    """One worker's share of an update.

    Attributes:
        episodes: those that were played and can be compared, in batch order.
        batch: their tokens.
        outcome: (E,) outcome advantage of each episode.
        signal: (E,) bool, False for episodes left out because their group has no variance.
        counted: (N,) bool, the steps that train; N counts all turns of `episodes`.
        advantages: (N,) final advantage of each step, 0 where it does not count.
        credit: the method's intermediates for the counted steps; None for a plain base algorithm.
        dropped_steps: steps with a non-finite entropy or log-probability, which poison an update.
        zero_variance: share of this worker's groups whose rewards are all equal, as (groups without, groups).
    """

    episodes: list[Episode]
    batch: TokenBatch
    outcome: Tensor
    signal: Tensor
    counted: Tensor
    advantages: Tensor
    credit: StepCredit | None
    dropped_steps: int
    zero_variance: tuple[int, int]

    @property
    def keep(self) -> Tensor:
        """(M,) bool: the tokens that train."""
        return self.counted[self.batch.step]

    @property
    def token_advantages(self) -> Tensor:
        """(M,) float32: each token carries its step's advantage."""
        return self.advantages[self.batch.step]


def shaped_reward(episode: Episode, recipe: Recipe) -> float:
    """The reward that training sees: the environment's, less the penalty for running out of tokens."""
    cut = episode.end is EndReason.TOKEN_LIMIT
    return episode.reward - (recipe.credit.overlong_penalty if cut else 0.0)


def has_signal(episodes: Sequence[Episode], recipe: Recipe) -> bool:
    """Whether a group's rewards differ."""
    return len({shaped_reward(e, recipe) for e in episodes if _comparable(e)}) > 1


def assign_credit(played: Sequence[Episode], recipe: Recipe, workers: Workers) -> Assigned:
    """Outcome advantages per episode, then EMPG over all steps of the update, whichever worker holds them."""
    credit = recipe.credit
    sizes = Counter(e.group for e in played if _comparable(e))
    needed = 1 if credit.advantage == "reinforce" else 2
    episodes = [e for e in played if _comparable(e) and sizes[e.group] >= needed]
    batch = make_batch(episodes, recipe.agent.history)
    rewards = torch.tensor([shaped_reward(e, recipe) for e in episodes], dtype=torch.float32)
    groups = torch.tensor([e.group for e in episodes], dtype=torch.long)
    num_steps = torch.tensor([len(e.turns) for e in episodes], dtype=torch.long)
    outcome = outcome_advantages(rewards, groups, credit.advantage, credit.weighting, num_steps, reduce=workers.reduce)
    flat = zero_variance_groups(rewards, groups)
    signal = ~flat if credit.drop_zero_variance else torch.ones_like(flat)

    turns = [turn for episode in episodes for turn in episode.turns]
    finite = torch.tensor([all(map(math.isfinite, t.logprobs + t.entropies)) for t in turns], dtype=torch.bool)
    episode_of = torch.repeat_interleave(torch.arange(len(episodes)), num_steps)
    counted = finite & signal[episode_of]
    table = StepTable(
        entropy=torch.tensor([t.entropy for t in turns], dtype=torch.float32)[counted],
        episode=episode_of[counted],
        advantage=outcome[episode_of][counted],
        process_reward=_process_rewards(episodes, recipe)[counted],
    )
    advantages = torch.zeros(len(turns))
    step_credit = None
    if credit.empg is not None:
        config = EMPGConfig(**credit.empg.model_dump())
        step_credit = modulate(table, config, workers.reduce)
        advantages[counted] = step_credit.advantage
    else:
        assert table.process_reward is not None
        advantages[counted] = table.advantage + table.process_reward
    without = len(set(groups[flat].tolist()))
    return Assigned(
        episodes,
        batch,
        outcome,
        signal,
        counted,
        advantages,
        step_credit,
        int((~finite).sum()),
        (without, len(set(groups.tolist()))),
    )


def _comparable(episode: Episode) -> bool:
    return episode.end is not EndReason.ENV_ERROR and bool(episode.turns)


def _process_rewards(episodes: Sequence[Episode], recipe: Recipe) -> Tensor:
    """(N,): what the environment and the recipe's function gave each turn, less the penalty if it is malformed."""
    credit = recipe.credit
    return torch.tensor(
        [
            turn.process_reward - (0.0 if turn.valid else credit.invalid_penalty) + given
            for episode in episodes
            for turn, given in zip(episode.turns, step_rewards(episode, credit.process_reward), strict=True)
        ],
        dtype=torch.float32,
    )
