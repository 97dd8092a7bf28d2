"""From episodes to the advantage of each sampled token: base algorithm, then modulation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from empg.credit import (
    MODULATIONS,
    AdvantageInputs,
    ModulationInputs,
    StepCredit,
    StepTable,
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
        process_reward: (N,) process reward of each step: of the environment and of the recipe, minus the penalty.
        signal: (E,) bool, False for episodes that are dropped because their group has zero variance.
        counted: (N,) bool, the steps that are trained on.
        advantages: (N,) final advantage of each step, 0 for a step that is not counted.
        credit: the result of the modulation for the counted steps; None for a plain base algorithm.
        dropped_steps: number of steps with a non-finite entropy or log-probability, which would spoil an update.
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
    credit: StepCredit | None
    dropped_steps: int
    groups: int
    zero_variance_groups: int
    targets: ValueTargets | None = None

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
    episodes = _compared(played, 2 if credit.compares_within_group else 1)
    batch = make_batch(episodes, recipe.agent.history)
    inputs, targets = _estimator_inputs(episodes, batch, recipe, workers, critic)
    flat = zero_variance_groups(inputs.rewards, inputs.groups)
    signal = ~flat if credit.drop_zero_variance else torch.ones_like(flat)
    base = torch.zeros(len(inputs.episode))
    base[signal[inputs.episode]] = credit.estimator(inputs.only(signal))  # statistics over the batch are those of the rest

    turns = [turn for e in episodes for turn in e.turns]
    entropy = torch.tensor([turn.entropy for turn in turns], dtype=torch.float32)
    action_entropy = torch.tensor([turn.action_entropy for turn in turns], dtype=torch.float32)
    finite = entropy.isfinite()
    finite[batch.step[~batch.logprobs.isfinite()]] = False
    written = torch.bincount(batch.step, minlength=len(entropy)) > 0  # an engine may return a turn without tokens
    counted = finite & written & signal[inputs.episode]
    process_reward = _process_rewards(episodes, recipe)
    table = StepTable(
        entropy=entropy[counted],
        episode=inputs.episode[counted],
        advantage=base[counted],
        process_reward=process_reward[counted],
        action_entropy=action_entropy[counted],
    )
    seen = ModulationInputs(
        steps=table, rewards=inputs.rewards, groups=inputs.groups, reduce=workers.reduce, finished=finished
    )
    final, step_credit = _modulated(seen, recipe)
    advantages = torch.zeros(len(entropy))
    advantages[counted] = final
    return Assigned(
        episodes=episodes,
        batch=batch,
        base_advantages=base,
        process_reward=process_reward,
        signal=signal,
        counted=counted,
        advantages=advantages,
        credit=step_credit,
        dropped_steps=int((~finite).sum()),
        groups=len(inputs.groups.unique()),
        zero_variance_groups=len(inputs.groups[flat].unique()),
        targets=targets,
    )


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


def _modulated(seen: ModulationInputs, recipe: Recipe) -> tuple[Tensor, StepCredit | None]:
    """Return the final advantage of each step, and the result of the modulation, if there is one."""
    steps, modulation = seen.steps, recipe.credit.modulation
    if modulation is not None:
        credit = MODULATIONS[modulation.name](seen, modulation.options)
        return credit.advantage, credit
    return steps.advantage if steps.process_reward is None else steps.advantage + steps.process_reward, None


def _process_rewards(episodes: Sequence[Episode], recipe: Recipe) -> Tensor:
    """(N,): the process reward of the environment and that of the recipe, minus the penalty if not valid."""
    credit = recipe.credit
    named = process_rewards(episodes, credit.step_reward)
    return torch.tensor(
        [
            turn.process_reward - (credit.invalid_penalty if _penalised(turn, episode, recipe) else 0.0) + given
            for episode, rewards in zip(episodes, named, strict=True)
            for turn, given in zip(episode.turns, rewards, strict=True)
        ],
        dtype=torch.float32,
    )


def _penalised(turn: Turn, episode: Episode, recipe: Recipe) -> bool:
    """Return whether `invalid_penalty` applies: once per fault, so not where `overlong_penalty` applies to the cut."""
    fined_as_cut = turn.cut and episode.end is EndReason.TOKEN_LIMIT and recipe.credit.overlong_penalty > 0
    return not turn.valid and not fined_as_cut
