"""One policy update: the clipped surrogate over an iteration's tokens, in passes that fit in memory."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import Tensor

from empg.credit import LossConfig, LossStats, policy_loss, token_weights
from empg.learner.assign import Assigned
from empg.learner.batch import MEMORY_KEYS, MicroBatch, micro_batches
from empg.learner.critic import Critic
from empg.policy.layers import replaced_layers, training_layers
from empg.policy.model import Policy
from empg.policy.scoring import score_tokens
from empg.recipe import OptimizerSection, Recipe
from empg.system.memory import explain_out_of_memory
from empg.system.random_keys import Use, random_key
from empg.system.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateStats:
    """The statistics of an update, over all workers.

    Attributes:
        loss: statistics of the loss by name (`LossStats.metrics`), then those of the critic, if there is one
            (`Critic.fit`); `loss` itself is the mean over optimizer steps.
        grad_norm: gradient norm of the last optimizer step, before clipping.
        mismatch: mean |log-prob when trained - log-prob when sampled| before the first optimizer step, nats.
        lr: learning rate.
        skipped: number of optimizer steps skipped because the gradient was not finite.
        tokens: number of tokens trained on, each counted once.
        scored: number of tokens in the loss, each counted once per epoch.
    """

    loss: dict[str, float]
    grad_norm: float
    mismatch: float
    lr: float
    skipped: int
    tokens: int
    scored: int


def make_optimizer(policy: Policy, section: OptimizerSection) -> torch.optim.AdamW:
    """Make AdamW over the trainable parameters, with weight decay on matrices only."""
    matrices = [p for p in policy.parameters if p.ndim >= 2]
    vectors = [p for p in policy.parameters if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": section.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=section.lr, betas=section.betas)


def learning_rate(section: OptimizerSection, iteration: int, iterations: int) -> float:
    """Return the learning rate of an iteration (counted from 0)."""
    if iteration < section.warmup_iterations:
        return section.lr * (iteration + 1) / section.warmup_iterations
    progress = (iteration - section.warmup_iterations) / max(1, iterations - section.warmup_iterations)
    if section.schedule == "linear":
        return section.lr * (1.0 - progress)
    if section.schedule == "cosine":
        return section.lr * 0.5 * (1.0 + float(torch.cos(torch.tensor(torch.pi * progress))))
    return section.lr


class Update:
    """Updates a policy in place; holds what does not change between iterations."""

    def __init__(
        self,
        policy: Policy,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        workers: Workers,
        reference: Policy | None,
        critic: Critic | None = None,
    ) -> None:
        self.policy, self.optimizer, self.recipe, self.workers = policy, optimizer, recipe, workers
        self.reference, self.critic = reference, critic
        loss = recipe.loss
        self.config = LossConfig(**loss.model_dump(exclude={"aggregation", "ratio"}))
        self.layers = {"recomputed": recipe.optimizer.gradient_checkpointing, "compiled": recipe.optimizer.compile}
        replaced_layers(policy, **self.layers)  # an error now, and not after the first rollout

    def __call__(self, assigned: Assigned, iteration: int) -> UpdateStats:
        """Take the optimizer steps of one iteration."""
        with training_layers(self.policy, **self.layers), explain_out_of_memory(*MEMORY_KEYS):
            return self._update(assigned, iteration)

    def _update(self, assigned: Assigned, iteration: int) -> UpdateStats:
        section = self.recipe.optimizer
        lr = learning_rate(section, iteration, self.recipe.iterations)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        old = assigned.batch.logprobs
        mismatch_sum, mismatch_tokens = torch.zeros((), dtype=torch.float64), 0
        if section.old_logprobs == "recomputed":
            old = self._recompute(assigned)
            mismatch_sum = (old - assigned.batch.logprobs)[assigned.keep].abs().sum().double()
            mismatch_tokens = int(assigned.keep.sum())
        stats: LossStats | None = None
        grad_norm, steps, skipped = 0.0, 0, 0
        for epoch in range(section.epochs):
            for part in self._minibatches(assigned, iteration, epoch):
                weights = self._weights(assigned, part)
                if weights is None:
                    continue
                for micro in self._passes(assigned, part):
                    loss, micro_stats, difference = self._loss(assigned, micro, weights, old)
                    loss.backward()
                    if steps + skipped == 0 and section.old_logprobs == "sampled":
                        mismatch_sum = mismatch_sum.to(difference.device) + difference
                        mismatch_tokens += len(micro.tokens)
                    stats = micro_stats if stats is None else stats + micro_stats
                self.workers.sum_gradients(self.policy.parameters)
                norm = torch.nn.utils.clip_grad_norm_(self.policy.parameters, section.max_grad_norm)
                grad_norm = float(norm)
                if torch.isfinite(norm):
                    self.optimizer.step()
                    steps += 1
                else:  # it would make the weights non-finite; the skipped step is counted and reported
                    skipped += 1
                self.optimizer.zero_grad(set_to_none=True)
        total = self._over_workers(stats)
        metrics = total.metrics()
        metrics["loss"] /= max(1, steps + skipped)
        if self.critic is not None and assigned.targets is not None:
            metrics |= self.critic.fit(assigned.targets)
        tokens = int(self.workers.total(int(assigned.keep.sum())))
        mismatch = self.workers.total(float(mismatch_sum)) / max(1.0, self.workers.total(mismatch_tokens))
        return UpdateStats(
            loss=metrics,
            grad_norm=grad_norm,
            mismatch=mismatch,
            lr=lr,
            skipped=skipped,
            tokens=tokens,
            scored=int(total.tokens),
        )

    def _loss(
        self, assigned: Assigned, micro: MicroBatch, weights: Tensor, old: Tensor
    ) -> tuple[Tensor, LossStats, Tensor]:
        device, temperature = self.policy.device, self.recipe.rollout.temperature
        reference = None
        if self.reference is not None:
            # Its autocast context ends before that of the policy: the casts of weights that both have, made without
            # gradient, must not be used again.
            with torch.no_grad(), self._autocast():
                reference, _ = score_tokens(self.reference, micro.input_ids, micro.rows, micro.columns, temperature)
        with self._autocast():
            logprobs, entropies = score_tokens(self.policy, micro.input_ids, micro.rows, micro.columns, temperature)
        tokens = micro.tokens
        before = old[tokens].to(device)
        batch = assigned.batch
        sequence = {"token": None, "step": batch.step, "episode": batch.episode}[self.recipe.loss.ratio]
        advantages = assigned.token_advantages[tokens].to(device)
        loss, stats = policy_loss(
            logprobs,
            before,
            advantages,
            weights[tokens].to(device),
            self.config,
            ref_logprobs=reference,
            entropies=entropies,
            sequences=None if sequence is None else sequence[tokens].to(device),
        )
        return loss, stats, (logprobs.detach() - before).abs().sum().double()

    @torch.no_grad()
    def _recompute(self, assigned: Assigned) -> Tensor:
        """Recompute the old log-probabilities with the kernels of training, to replace those of the sampler."""
        old = assigned.batch.logprobs.clone()
        for micro in self._passes(assigned, assigned.keep):
            with self._autocast():
                logprobs, _ = score_tokens(
                    self.policy, micro.input_ids, micro.rows, micro.columns, self.recipe.rollout.temperature
                )
            old[micro.tokens] = logprobs.cpu()
        return old

    def _autocast(self) -> torch.autocast:
        return self.policy.autocast(self.recipe.optimizer.autocast)

    def _passes(self, assigned: Assigned, keep: Tensor) -> list[MicroBatch]:
        return list(micro_batches(assigned.batch, keep, self.recipe.optimizer.micro_batch_tokens, self.policy.device))

    def _minibatches(self, assigned: Assigned, iteration: int, epoch: int) -> list[Tensor]:
        """Return a token mask (M,) for each optimizer step: whole episodes, in an order of this worker and epoch."""
        count = self.recipe.optimizer.minibatches
        if count == 1:
            return [assigned.keep]
        order = list(range(len(assigned.episodes)))
        key = random_key(Use.MINIBATCHES, iteration, epoch, self.workers.rank, seed=self.recipe.seed)
        random.Random(repr(key)).shuffle(order)
        part_of = torch.empty(len(order), dtype=torch.long)
        part_of[order] = torch.arange(len(order)) * count // max(1, len(order))
        return [assigned.keep & (part_of[assigned.batch.episode] == part) for part in range(count)]

    def _weights(self, assigned: Assigned, part: Tensor) -> Tensor | None:
        """Return the (M,) weight of each token of a part, from counts over all workers; None if no worker has any."""
        episodes = assigned.batch.episode[part]
        tokens = int(self.workers.total(len(episodes)))
        total = int(self.workers.total(len(episodes.unique())))
        if tokens == 0:
            return None
        weights = torch.zeros(len(assigned.batch))
        weights[part] = token_weights(
            episodes,
            self.recipe.loss.aggregation,
            constant=float(self.recipe.rollout.max_episode_tokens),
            num_episodes=total,
            num_tokens=tokens,
        )
        return weights

    def _over_workers(self, stats: LossStats | None) -> LossStats:
        if stats is None:  # this worker had nothing to train on, but others may have had
            nothing = torch.zeros(0)
            _, stats = policy_loss(nothing, nothing, nothing, nothing, LossConfig())
        return stats.over_workers(self.workers.reduce)
