"""Alarms compare a run with its first iteration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import cast

import pytest

from empg.record.records import TrainNumbers
from empg.run.alarms import Alarms

FINE = {"entropy/step_mean": 1.0, "rollout/turn_tokens": 20.0, "rollout/valid_actions": 0.8}


def check(alarms: Alarms, numbers: Mapping[str, float | None]) -> list[str]:
    """Check a record that has only these numbers."""
    return alarms.check(cast("TrainNumbers", numbers))


def alarms(**now: float) -> list[str]:
    started = Alarms(max_turn_tokens=64)
    assert check(started, FINE) == []
    return check(started, {**FINE, **{name.replace("__", "/"): value for name, value in now.items()}})


@pytest.mark.parametrize(
    ("now", "alarm"),
    [
        ({"entropy__step_mean": 0.049}, "entropy collapsed: 0.0490 nats per step, 1.0000 at the start"),
        ({"rollout__turn_tokens": 41.0}, "turn length grew: 41 tokens, 20 at the start; limit 64"),
        ({"rollout__valid_actions": 0.69}, "valid-action rate dropped: 69%, 80% at the start"),
        ({"guard__dropped_steps": 3}, "3 steps dropped: non-finite entropy or log-probability"),
        (
            {"tokens__trained": 0, "credit__zero_variance_groups": 1.0},
            "no token was trained on; 100% of the groups have only equal rewards",
        ),
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
    check(long, {"rollout/turn_tokens": 60.0})
    assert check(long, {"rollout/turn_tokens": 64.0}) == []


def test_the_beginning_is_kept_over_a_resume() -> None:
    first = Alarms(64)
    check(first, FINE)
    resumed = Alarms(64)
    resumed.restore(json.loads(json.dumps(first.state())))
    collapsed = {**FINE, "entropy/step_mean": 0.01}
    assert check(resumed, collapsed) == check(first, collapsed) != []


def test_what_is_not_measured_is_no_alarm() -> None:
    assert check(Alarms(64), {}) == []
    quiet = Alarms(64)
    check(quiet, FINE)
    assert check(quiet, {"entropy/step_mean": None}) == []


FLAT = {**FINE, "credit/zero_variance_groups": 1.0, "rollout/success": 0.0}


def test_rewards_that_never_differ_within_a_group_raise_an_alarm_every_few_iterations() -> None:
    flat = Alarms(64)
    said = [check(flat, FLAT) for _ in range(10)]
    assert [number for number, alarm in enumerate(said, 1) if alarm] == [5, 10]
    assert said[4] == ["all groups have had equal rewards only for 5 iterations (success 0%), so rewards teach nothing"]
    check(flat, {**FLAT, "credit/zero_variance_groups": 0.9})
    assert not any(check(flat, FLAT) for _ in range(4))
    assert not any(check(baseline, FLAT) for baseline in [Alarms(64, compares_groups=False)] for _ in range(9))


def test_gradients_that_stay_non_finite_end_the_run() -> None:
    spoiled = Alarms(64)
    nothing = {**FINE, "guard/skipped_updates": 2, "policy/grad_norm": math.nan}
    for _ in range(2):
        check(spoiled, nothing)
    assert not spoiled.cannot_learn
    resumed = Alarms(64)
    resumed.restore(spoiled.state())
    check(resumed, nothing)
    assert resumed.cannot_learn == (
        "the gradient was not finite in 3 iterations in a row, so the policy no longer changes"
    )
    check(spoiled, {**FINE, "guard/skipped_updates": 1, "policy/grad_norm": 1.0})  # the last step was taken
    check(spoiled, nothing)
    assert not spoiled.cannot_learn
