"""Alarms compare a run with its first iteration."""

from __future__ import annotations

import pytest

from empg.run.alarms import Alarms

FINE = {"entropy/step_mean": 1.0, "rollout/turn_tokens": 20.0, "rollout/valid_actions": 0.8}


def alarms(**now: float) -> list[str]:
    started = Alarms(max_turn_tokens=64)
    assert started.check(FINE) == []
    return started.check({**FINE, **{name.replace("__", "/"): value for name, value in now.items()}})


@pytest.mark.parametrize(
    ("now", "alarm"),
    [
        ({"entropy__step_mean": 0.049}, "entropy collapsed: 0.0490 nats per step, 1.0000 at the start"),
        ({"rollout__turn_tokens": 41.0}, "turn length grew: 41 tokens, 20 at the start; limit 64"),
        ({"rollout__valid_actions": 0.69}, "valid-action rate dropped: 69%, 80% at the start"),
        ({"guard__dropped_steps": 3}, "3 steps dropped: non-finite entropy or log-probability"),
        ({"guard__skipped_updates": 1}, "an optimizer step was skipped: its gradient was not finite"),
        ({"rollout__end__env_error": 0.125}, "12.5% of the episodes ended in an environment error"),
        ({"rollout__failed_turns": 0.02}, "2.0% of the turns failed because an external service was unavailable"),
    ],
)
def test_each_problem_raises_its_alarm(now: dict[str, float], alarm: str) -> None:
    assert alarms(**now) == [alarm]


@pytest.mark.parametrize(
    "now", [{"entropy__step_mean": 0.051}, {"rollout__turn_tokens": 40.0}, {"rollout__valid_actions": 0.71}]
)
def test_values_within_bounds_raise_no_alarm(now: dict[str, float]) -> None:
    assert alarms(**now) == []


def test_turns_that_were_always_at_the_limit_raise_no_alarm() -> None:
    long = Alarms(max_turn_tokens=64)
    long.check({"rollout/turn_tokens": 60.0})
    assert long.check({"rollout/turn_tokens": 64.0}) == []


def test_the_beginning_is_kept_over_a_resume() -> None:
    first = Alarms(64)
    first.check(FINE)
    resumed = Alarms(64, first=dict(first.first))
    assert resumed.check({**FINE, "entropy/step_mean": 0.01}) == first.check({**FINE, "entropy/step_mean": 0.01}) != []


def test_what_is_not_measured_is_no_alarm() -> None:
    assert Alarms(64).check({}) == []
    quiet = Alarms(64)
    quiet.check(FINE)
    assert quiet.check({"entropy/step_mean": None}) == []
