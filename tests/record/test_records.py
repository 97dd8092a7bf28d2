"""Which evaluations of a run are its own, and which were added by `empg evaluate`."""

from __future__ import annotations

from typing import Any

import pytest

from empg.record.records import own_evaluations
from tests.record.made_runs import eval_record

RECIPE = {"evaluation": {"temperature": 1.0, "episodes": 100}}


def played(iteration: int, temperature: float = 1.0, n: int = 100, **more: Any) -> dict[str, Any]:
    return eval_record(iteration, temperature=temperature, n=n, panel_sha256=f"{n:064d}", **more)


OWN = [played(0), played(10)]


@pytest.mark.parametrize(
    "added",
    [
        [played(i, temperature=0.6) for i in (0, 5, 10)],
        [played(i, n=500) for i in (0, 5, 10)],
        [played(i, n=50) for i in (0, 5, 10)],
    ],
    ids=["temperature", "more tasks", "fewer tasks"],
)
def test_many_other_evaluations_do_not_replace_those_of_the_run(added: list[dict[str, Any]]) -> None:
    assert own_evaluations([*OWN, *added], RECIPE) == OWN
    assert own_evaluations([*added, *OWN], RECIPE) == OWN


def test_an_evaluation_of_another_checkpoint_with_the_settings_of_the_run_is_one_of_them() -> None:
    assert own_evaluations([*OWN, played(5)], RECIPE) == [*OWN, played(5)]


def test_a_split_with_fewer_tasks_than_the_recipe_asks_for_has_a_smaller_panel() -> None:
    small = [played(0, n=60, split="test"), played(0, n=50, split="test")]
    assert own_evaluations([*OWN, *small], RECIPE) == [*OWN, small[0]]


def test_greedy_evaluations_have_the_temperature_0() -> None:
    greedy = played(0, temperature=0.0, decoding="greedy")
    assert own_evaluations([*OWN, greedy], RECIPE) == [*OWN, greedy]


def test_a_run_whose_evaluations_all_have_other_settings_has_none_of_its_own() -> None:
    assert own_evaluations([played(0, temperature=0.6)], RECIPE) == []


def test_an_evaluation_of_an_earlier_version_has_the_temperature_of_the_recipe() -> None:
    old = eval_record(0)
    assert own_evaluations([old], {"evaluation": {"temperature": 0.7, "episodes": 2}}) == [old]


@pytest.mark.parametrize(
    "recipe", [None, {}, {"evaluation": None}, {"evaluation": {"temperature": "1", "episodes": 3}}]
)
def test_without_a_usable_recipe_the_most_frequent_settings_count(recipe: dict[str, Any] | None) -> None:
    added = [played(i, temperature=0.6) for i in (0, 5, 10)]
    assert own_evaluations([*OWN, *added], recipe) == added
    assert own_evaluations([*OWN, *added[:2]], recipe) == OWN


def test_of_several_evaluations_at_one_iteration_the_newest_counts() -> None:
    again = played(10, success=1.0, successes=100)
    assert own_evaluations([*OWN, again], RECIPE) == [OWN[0], again]
