"""The critic of estimators that need one: a linear head on the last hidden state of the policy, V = w h + b.

h is the state at the last token before a turn, so V does not see the turn. The head has its own optimizer and learning
rate. It reads h without gradient: the critic never changes the policy.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from empg.learner.batch import TokenBatch, micro_batches
from empg.policy.model import Policy
from empg.policy.scoring import hidden_at
from empg.recipe import Recipe
from empg.system.memory import explain_out_of_memory
from empg.system.workers import Workers


@dataclass(frozen=True, eq=False, kw_only=True)
class ValueTargets:
    """What the critic learns from an iteration.

    Attributes:
        states: (N, hidden) float32, h before each step.
        values: (N,) V before the update.
        returns: (N,) the target, `AdvantageEstimator.critic_targets`.
    """

    states: Tensor
    values: Tensor
    returns: Tensor


class Critic:
    """Predicts the rest of the episode's reward before each step. It starts at 0 everywhere."""

    def __init__(self, policy: Policy, recipe: Recipe, workers: Workers) -> None:
        self._policy, self._workers = policy, workers
        self._section, self._passes = recipe.credit.critic, recipe.optimizer
        self.head = nn.Linear(policy.model.config.get_text_config().hidden_size, 1)
        for parameter in self.head.parameters():
            nn.init.zeros_(parameter)
        self.optimizer = torch.optim.AdamW(self.head.parameters(), lr=self._section.lr, weight_decay=0.0)

    @torch.no_grad()
    def states(self, batch: TokenBatch, steps: int) -> Tensor:
        """Return (N, hidden) float32 on the CPU; 0 for a step without tokens, or whose state is not finite.

        Args:
            batch: the tokens of N steps.
            steps: N.
        """
        states = torch.zeros(steps, self.head.in_features)
        first = torch.ones(len(batch), dtype=torch.bool)
        first[1:] = batch.step[1:] != batch.step[:-1]
        with explain_out_of_memory("optimizer.micro_batch_tokens"):
            for micro in micro_batches(batch, first, self._passes.micro_batch_tokens, self._policy.device):
                with self._policy.autocast(self._passes.autocast):
                    found = hidden_at(self._policy, micro.input_ids, micro.rows, micro.columns - 1)
                states[batch.step[micro.tokens]] = found.float().cpu()
        states[~states.isfinite().all(1)] = 0.0  # one NaN would reach all steps, and stay in the head
        return states

    @torch.no_grad()
    def values(self, states: Tensor) -> Tensor:
        """Return V (N,) of states (N, hidden)."""
        return self.head(states)[:, 0]  # type: ignore[no-any-return]

    def fit(self, targets: ValueTargets) -> dict[str, float]:
        """Fit the head to the returns of all workers' steps, and return statistics, over all workers.

        The loss of a step is max((V - R)^2, (V_clipped - R)^2) / 2 with V_clipped within `clip` of V before the update.
        """
        total = self._workers.total(len(targets.returns))
        if not total:
            return {}
        parameters = list(self.head.parameters())
        statistics = self._statistics(targets, total)
        for _ in range(self._section.epochs):
            values = self.head(targets.states)[:, 0]
            clip = self._section.clip
            clipped = targets.values + (values - targets.values).clamp(-clip, clip)
            error = torch.maximum((values - targets.returns).square(), (clipped - targets.returns).square())
            (error.sum() / (2 * total)).backward()
            self._workers.sum_gradients(parameters)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return statistics

    def _statistics(self, targets: ValueTargets, total: float) -> dict[str, float]:
        """Return half the squared error of V before the fit, and the share of the returns' variance that V explains."""
        returns, error = targets.returns.double(), (targets.returns - targets.values).double()
        sums = [float(part.sum()) for part in (returns, returns.square(), error, error.square())]
        mean, square, bias, squared_error = (self._workers.total(part) / total for part in sums)
        variance = square - mean**2
        explained = 1.0 - (squared_error - bias**2) / variance if variance > 1e-12 else 0.0
        return {"value_loss": squared_error / 2, "value_explained": explained}
