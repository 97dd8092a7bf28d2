"""Alarms about suspicious changes during a run, and about runs that learn nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from empg.record.records import TrainNumbers

FLAT_ITERATIONS = 5  # in a row, before an alarm says that rewards teach nothing; it is repeated after as many
SPOILED_ITERATIONS = 3  # in a row whose last gradient was not finite, before the run stops


@dataclass
class Alarms:
    """Compares each iteration with the first iteration of the run, and counts iterations that teach nothing.

    Args:
        max_turn_tokens: `rollout.max_turn_tokens`.
        compares_groups: whether the advantage of an episode is its difference from the others of its group.
        first: the numbers of the first iteration.
        flat: how many iterations up to the last one had only groups whose rewards are all equal.
        spoiled: how many iterations up to the last one ended with a gradient that was not finite.
    """

    max_turn_tokens: int
    compares_groups: bool = True
    first: dict[str, float] = field(default_factory=dict)
    flat: int = 0
    spoiled: int = 0

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint stores, so that a resumed run raises the same alarms."""
        return {"first": self.first, "flat": self.flat, "spoiled": self.spoiled}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.first, self.flat, self.spoiled = state["first"], state["flat"], state["spoiled"]

    @property
    def cannot_learn(self) -> str:
        """Why the run should stop, as the beginning of a sentence; empty if it should not."""
        if self.spoiled < SPOILED_ITERATIONS:
            return ""
        return f"the gradient was not finite in {self.spoiled} iterations in a row, so the policy no longer changes"

    def check(self, record: TrainNumbers) -> list[str]:
        """Return one sentence for each problem of this iteration."""
        return [*self._changes(record), *self._nothing_learned(record), *self._failures(record)]

    def _changes(self, record: TrainNumbers) -> list[str]:
        now = {
            key: float(record[key])
            for key in ("entropy/step_mean", "rollout/turn_tokens", "rollout/valid_actions")
            if record.get(key) is not None
        }
        self.first = self.first or now
        alarms = []
        entropy, before = now.get("entropy/step_mean"), self.first.get("entropy/step_mean")
        if entropy is not None and before is not None and entropy < 0.05 * before:
            alarms.append(f"entropy collapsed: {entropy:.4f} nats per step, {before:.4f} at the start")
        length, before = now.get("rollout/turn_tokens"), self.first.get("rollout/turn_tokens")
        limit = self.max_turn_tokens
        if length is not None and before is not None and length > min(2.0 * before, 0.9 * limit) > before:
            alarms.append(f"turn length grew: {length:.0f} tokens, {before:.0f} at the start; limit {limit}")
        valid, before = now.get("rollout/valid_actions"), self.first.get("rollout/valid_actions")
        if valid is not None and before is not None and valid < before - 0.1:
            alarms.append(f"valid-action rate dropped: {valid:.0%}, {before:.0%} at the start")
        return alarms

    def _nothing_learned(self, record: TrainNumbers) -> list[str]:
        alarms = []
        share = record.get("credit/zero_variance_groups", 0.0)
        if record.get("tokens/trained") == 0:
            alarms.append(f"no token was trained on; {share:.0%} of the groups have only equal rewards")
        self.flat = self.flat + 1 if self.compares_groups and share == 1.0 else 0
        if self.flat and self.flat % FLAT_ITERATIONS == 0:
            success = record.get("rollout/success", 0.0)
            alarms.append(
                f"all groups have had equal rewards only for {self.flat} iterations (success {success:.0%}), "
                "so rewards teach nothing"
            )
        skipped = record.get("guard/skipped_updates", 0)
        if skipped:
            alarms.append("an optimizer step was skipped: its gradient was not finite")
        self.spoiled = self.spoiled + 1 if skipped and not math.isfinite(record.get("policy/grad_norm", 0.0)) else 0
        return alarms

    def _failures(self, record: TrainNumbers) -> list[str]:
        alarms = []
        if record.get("guard/dropped_steps"):
            alarms.append(f"{record['guard/dropped_steps']:.0f} steps dropped: non-finite entropy or log-probability")
        if record.get("rollout/end/env_error"):
            alarms.append(f"{record['rollout/end/env_error']:.1%} of the episodes ended in an environment error")
        if record.get("rollout/failed_turns"):
            share = record["rollout/failed_turns"]
            alarms.append(f"{share:.1%} of the turns failed because an external service was unavailable")
        return alarms
