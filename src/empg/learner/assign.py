"""From episodes to the advantage of each sampled token: base algorithm, then modulation."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from empg.credit import (
    AdvantageEstimator,
    AdvantageInputs,
    ModulationInputs,
    StepCredit,
    StepTable,
    modulated,
    zero_variance_groups,
)
from empg.learner.batch import TokenBatch, make_batch
from empg.learner.critic import Critic, ValueTargets
from empg.learner.process_reward import process_rewards
from empg.recipe import Recipe
from empg.rollout.types import EndReason, Episode, Turn
from empg.system.workers import Workers


@dataclass(frozen=True, kw_only=True)
class Assigned:
    """The share of one worker in an update, of E episodes with N turns and M sampled tokens in total.

    Attributes:
        episodes: the E episodes that were played and can be compared, in batch order.
        batch: their tokens.
        base_advantages: (N,) advantage of each step from the base algorithm.
        process_reward: (N,) process reward of each step: of the environment and of the recipe, minus the penalty. The
            part of the recipe is 0 in dropped episodes.
        signal: (E,) bool, False for episodes that are dropped because their group has zero variance.
        counted: (N,) bool, the steps that are trained on.
        advantages: (N,) final advantage of each step, 0 for a step that is not counted.
        credit: the result of the modulation for the counted steps; without intermediates for a plain base algorithm.
        finite: (N,) bool, False for a step with a non-finite entropy or log-probability, which would spoil an update.
        groups: number of groups of this worker.
        zero_variance_groups: how many of them have equal rewards only.
        targets: what the critic learns from; None without a critic.
    """

    episodes: list[Episode]
    batch: TokenBatch
    base_advantages: Tensor
    process_reward: Tensor
    signal: Tensor
    counted: Tensor
    advantages: Tensor
    credit: StepCredit
    finite: Tensor
    groups: int
    zero_variance_groups: int
    targets: ValueTargets | None = None

    @property
    def dropped_steps(self) -> int:
        """The number of steps that are not finite."""
        return int((~self.finite).sum())

    @property
    def keep(self) -> Tensor:
        """(M,) bool: the tokens that are trained on."""
        return self.counted[self.batch.step]

    @property
    def token_advantages(self) -> Tensor:
        """(M,) float32: the advantage of each token's step."""
        return self.advantages[self.batch.step]


def shaped_reward(episode: Episode, recipe: Recipe) -> float:
    """Return the reward used in training: that of the environment, minus the penalty for its length."""
    return episode.reward - recipe.credit.overlong_penalty * overlong_share(episode, recipe)


def overlong_share(episode: Episode, recipe: Recipe) -> float:
    """Return the share of `overlong_penalty` that an episode gets, from 0 to 1.

    This is -R_length of DAPO (arXiv 2503.14476, equation 13) with L_max = `rollout.max_episode_tokens` and L_cache =
    `credit.overlong_ramp` * L_max: it rises linearly from L_max - L_cache to L_max. The length of an episode is that of
    its longest context, as the limit counts it: prompts and observations included. An episode that ended at the token
    limit has a share of 1, because its next prompt did not fit.
    """
    lengths = [len(turn.prompt_ids) + len(turn.action_ids) for turn in episode.turns]
    limit, ramp = recipe.rollout.max_episode_tokens, recipe.credit.overlong_ramp
    return length_share(lengths, episode.end, limit, ramp, merged=recipe.agent.history == "merged")


def length_share(lengths: Sequence[int], end: EndReason, limit: int, ramp: float, *, merged: bool) -> float:
    """Return the share of `overlong_penalty` for turns with these numbers of tokens; see `overlong_share`."""
    if end is EndReason.TOKEN_LIMIT:
        return 1.0
    if not ramp * limit:
        return 0.0
    length = sum(lengths) if merged else max(lengths, default=0)
    return min(1.0, max(0.0, (length - (limit - ramp * limit)) / (ramp * limit)))


def groups_with_signal(played: Sequence[Episode], recipe: Recipe) -> int:
    """Return the number of groups whose rewards differ, as `assign_credit` will see them."""
    episodes = [e for e in played if comparable(e)]
    groups = _groups(episodes)
    return len(groups[~zero_variance_groups(_rewards(episodes, recipe), groups)].unique())


def assign_credit(
    played: Sequence[Episode],
    recipe: Recipe,
    workers: Workers,
    *,
    finished: float = 0.0,
    critic: Critic | None = None,
) -> Assigned:
    """Compute the base advantages, then modulate them over all steps of the update, on all workers together.

    `finished` is the share of the run's iterations that are finished. `critic` is for an estimator that needs one.
    """
    credit = recipe.credit
    episodes = _compared(played, 2 if credit.within_group_key else 1)
    batch = make_batch(episodes, recipe.agent.history)
    inputs, targets = _estimator_inputs(episodes, batch, recipe, workers, critic)
    flat = zero_variance_groups(inputs.rewards, inputs.groups)
    signal = ~flat if credit.drop_zero_variance else torch.ones_like(flat)
    base = _base_advantages(inputs, signal, credit.estimator)
    entropy = _of_turns(episodes, lambda turn: turn.entropy)
    finite, counted = _trainable(batch, entropy, signal[inputs.episode])
    process_reward = _process_rewards(episodes, signal, recipe)
    table = StepTable(
        entropy=entropy[counted],
        episode=inputs.episode[counted],
        advantage=base[counted],
        process_reward=process_reward[counted],
        action_entropy=_of_turns(episodes, lambda turn: turn.action_entropy)[counted],
    )
    seen = ModulationInputs(
        steps=table, rewards=inputs.rewards, groups=inputs.groups, reduce=workers.reduce, finished=finished
    )
    rule = credit.modulation
    step_credit = modulated(seen, None) if rule is None else modulated(seen, rule.name, rule.options)
    advantages = torch.zeros(len(entropy))
    advantages[counted] = step_credit.advantage
    return Assigned(
        episodes=episodes,
        batch=batch,
        base_advantages=base,
        process_reward=process_reward,
        signal=signal,
        counted=counted,
        advantages=advantages,
        credit=step_credit,
        finite=finite,
        groups=len(inputs.groups.unique()),
        zero_variance_groups=len(inputs.groups[flat].unique()),
        targets=targets,
    )


def _base_advantages(inputs: AdvantageInputs, signal: Tensor, estimator: AdvantageEstimator) -> Tensor:
    """Return (N,) base advantages: 0 in episodes without `signal` (E,), which are not part of any statistic."""
    base = torch.zeros(len(inputs.episode))
    base[signal[inputs.episode]] = estimator(inputs.only(signal))
    return base


def _of_turns(episodes: Sequence[Episode], value: Callable[[Turn], float]) -> Tensor:
    """Return (N,) float32, the value of each turn."""
    return torch.tensor([value(turn) for e in episodes for turn in e.turns], dtype=torch.float32)


def _trainable(batch: TokenBatch, entropy: Tensor, signal: Tensor) -> tuple[Tensor, Tensor]:
    """Return which steps (N,) have finite numbers, and which of those are trained on.

    Args:
        batch: the tokens of the steps.
        entropy: (N,) step entropies.
        signal: (N,) bool, False for the steps of dropped episodes.
    """
    finite = entropy.isfinite()
    finite[batch.step[~batch.logprobs.isfinite()]] = False
    written = torch.bincount(batch.step, minlength=len(entropy)) > 0  # an engine may return a turn without tokens
    return finite, finite & written & signal


def _compared(played: Sequence[Episode], least: int) -> list[Episode]:
    """The episodes that can be compared, of groups that have at least `least` of them."""
    sizes = Counter(e.group for e in played if comparable(e))
    return [e for e in played if comparable(e) and sizes[e.group] >= least]


def comparable(episode: Episode) -> bool:
    """Return whether an episode has an outcome: not if its environment failed, or it has no turn."""
    return episode.end is not EndReason.ENV_ERROR and bool(episode.turns)


def _rewards(episodes: Sequence[Episode], recipe: Recipe) -> Tensor:
    return torch.tensor([shaped_reward(e, recipe) for e in episodes], dtype=torch.float32)


def _groups(episodes: Sequence[Episode]) -> Tensor:
    return torch.tensor([e.group for e in episodes], dtype=torch.long)


def _estimator_inputs(
    episodes: Sequence[Episode], batch: TokenBatch, recipe: Recipe, workers: Workers, critic: Critic | None
) -> tuple[AdvantageInputs, ValueTargets | None]:
    """Return what an estimator may use, and what the critic, if there is one, learns from it."""
    inputs = _played(episodes, recipe, workers)
    if critic is None:
        return inputs, None
    states = critic.states(batch, len(inputs.episode))
    values = critic.values(states)
    inputs = replace(inputs, values=values)
    returns = recipe.credit.estimator.critic_targets(inputs)
    return inputs, ValueTargets(states=states, values=values, returns=returns)


def _played(episodes: Sequence[Episode], recipe: Recipe, workers: Workers) -> AdvantageInputs:
    """Return everything about the episodes that an estimator may use, so that a new one needs no change here."""
    known: dict[int, dict[str, int]] = {}  # of each group, the observations that the agent read before a step
    states: list[int] = []
    for episode in episodes:
        seen = known.setdefault(episode.group, {})
        states += [seen.setdefault(turn.observation, len(seen)) for turn in episode.turns]
    num_steps = torch.tensor([len(e.turns) for e in episodes], dtype=torch.long)
    rewards = [turn.reward for e in episodes for turn in e.turns]
    for episode, end in zip(episodes, num_steps.cumsum(0).tolist(), strict=True):
        rewards[end - 1] += shaped_reward(episode, recipe) - episode.reward  # a penalty comes with the last step
    return AdvantageInputs(
        rewards=_rewards(episodes, recipe),
        groups=_groups(episodes),
        episode=torch.arange(len(episodes)).repeat_interleave(num_steps),
        step_rewards=torch.tensor(rewards, dtype=torch.float32),
        states=torch.tensor(states, dtype=torch.long),
        weighting=recipe.credit.weighting,
        reduce=workers.reduce,
    )


def _process_rewards(episodes: Sequence[Episode], signal: Tensor, recipe: Recipe) -> Tensor:
    """Return (N,) the process reward of the environment and that of the recipe, minus the penalty if not valid.

    A judge may be paid per episode, so the reward of the recipe is only computed for episodes with `signal` (E,). It is
    0 for the others, which are not trained on.
    """
    credit, kept = recipe.credit, signal.tolist()
    named = iter(process_rewards(list(itertools.compress(episodes, kept)), credit.step_reward))
    given = [next(named) if keep else [0.0] * len(e.turns) for e, keep in zip(episodes, kept, strict=True)]
    return torch.tensor(
        [
            turn.process_reward - (credit.invalid_penalty if _penalised(turn, episode, recipe) else 0.0) + reward
            for episode, rewards in zip(episodes, given, strict=True)
            for turn, reward in zip(episode.turns, rewards, strict=True)
        ],
        dtype=torch.float32,
    )


def _penalised(turn: Turn, episode: Episode, recipe: Recipe) -> bool:
    """Return whether `invalid_penalty` applies: once per fault, so not where `overlong_penalty` applies to the cut."""
    fined_as_cut = turn.cut and episode.end is EndReason.TOKEN_LIMIT and recipe.credit.overlong_penalty > 0
    return not turn.valid and not fined_as_cut
