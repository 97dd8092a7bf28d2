"""Alarms about suspicious changes during a run."""

from __future__ import annotations

from dataclasses import dataclass, field

from empg.record.records import TrainNumbers


@dataclass
class Alarms:
    """Compares each iteration with the first iteration of the run.

    `first` has the numbers of that iteration. It is part of a checkpoint, so a resumed run raises the same alarms.
    """

    max_turn_tokens: int
    first: dict[str, float] = field(default_factory=dict)

    def check(self, record: TrainNumbers) -> list[str]:
        """Return one sentence for each problem of this iteration."""
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
        if record.get("tokens/trained") == 0:
            share = record.get("credit/zero_variance_groups", 0.0)
            alarms.append(f"no token was trained on; {share:.0%} of the groups have equal rewards only")
        if record.get("guard/dropped_steps"):
            alarms.append(f"{record['guard/dropped_steps']:.0f} steps dropped: non-finite entropy or log-probability")
        if record.get("guard/skipped_updates"):
            alarms.append("an optimizer step was skipped: its gradient was not finite")
        if record.get("rollout/end/env_error"):
            alarms.append(f"{record['rollout/end/env_error']:.1%} of the episodes ended in an environment error")
        if record.get("rollout/failed_turns"):
            share = record["rollout/failed_turns"]
            alarms.append(f"{share:.1%} of the turns failed because an external service was unavailable")
        return alarms
