"""Curves of several runs over one another."""

from __future__ import annotations

from typing import Any

import pytest

from empg.report.overlay import evaluation_curves, overlay, training_curves_by_type


def run(name: str, seed: int, values: list[float | None], k: float = 1.0) -> tuple[str, dict[str, Any], list[Any]]:
    records = [{"iteration": i, "m": v} for i, v in enumerate(values, 1)]
    return name, {"name": f"study-{name}", "seed": seed, "credit": {"k": k}}, records


def test_a_run_that_is_shorter_ends_earlier() -> None:
    [chart] = overlay([run("a", 0, [1.0, 2.0, 3.0]), run("b", 0, [5.0])], ["m", "unknown"])
    assert chart.x == [1, 2, 3]
    assert [s.values for s in chart.series] == [[1.0, 2.0, 3.0], [5.0, None, None]]


def test_seeds_of_a_recipe_are_a_band_and_another_recipe_is_a_line() -> None:
    runs = [run("a", 0, [1.0, 2.0]), run("b", 1, [3.0, None]), run("c", 0, [9.0, 9.0], k=2.0)]
    [chart] = overlay(runs, ["m"], bands=True)
    band, mean, line = chart.series
    assert (band.kind, band.low, band.high) == ("band", [1.0, 2.0], [3.0, 2.0])
    assert mean.values == [2.0, 2.0]
    assert (line.label, line.values) == ("c", [9.0, 9.0])


def test_smoothing_is_the_mean_of_the_last_values_and_leaves_gaps() -> None:
    [chart] = overlay([run("a", 0, [1.0, 3.0, float("nan"), 5.0])], ["m"], smooth=2)
    assert chart.series[0].values == [1.0, 2.0, None, pytest.approx(5.0)]


def test_a_mean_of_numbers_whose_sum_is_too_large_is_a_gap() -> None:
    large: list[float | None] = [1.0, 1e308, 1e308]
    [chart] = overlay([run("a", 0, large)], ["m"], smooth=2)
    assert chart.series[0].values == [1.0, 5e307, None]
    [chart] = overlay([run("a", 0, large), run("b", 1, large)], ["m"], bands=True)
    assert chart.series[1].values == [1.0, None, None]


def test_a_recipe_with_keys_of_several_types_is_compared_too() -> None:
    mixed = [(name, {1: 2, "credit": {"k": 1, 2: [{3: 4, "x": 5}]}}, run(name, 0, [1.0])[2]) for name in "ab"]
    [chart] = overlay([*mixed, run("c", 0, [2.0])], ["m"], bands=True)  # type: ignore[list-item]
    assert [s.label for s in chart.series] == ["a and 1 more: lowest to highest", "a and 1 more: mean", "c"]


def test_runs_of_which_no_recipe_is_known_are_not_seeds_of_one_recipe() -> None:
    runs = [(name, {"seed": seed}, run(name, seed, [1.0])[2]) for seed, name in enumerate("ab")]
    runs.append(("unreadable", {}, run("c", 0, [2.0])[2]))
    [chart] = overlay(runs, ["m"], bands=True)
    assert [(s.label, s.kind) for s in chart.series] == [("a", "line"), ("b", "line"), ("unreadable", "line")]


def test_a_run_has_the_same_colour_in_a_chart_that_another_run_is_not_in() -> None:
    first, second = run("a", 0, [1.0]), run("b", 0, [2.0], k=2.0)
    second[2][0]["other"] = 3.0
    charts = overlay([first, second], ["m", "other"])
    assert [[(s.label, s.colour) for s in c.series] for c in charts] == [[("a", 1), ("b", 2)], [("b", 2)]]


def test_runs_beyond_the_palette_have_its_colours_again_with_dashes() -> None:
    [chart] = overlay([run(f"r{i}", 0, [1.0], k=float(i)) for i in range(19)], ["m"])
    drawn = [(s.colour, s.dashes) for s in chart.series]
    assert drawn[:2] + drawn[6:8] + drawn[12:13] == [(1, 0), (2, 0), (1, 1), (2, 1), (1, 2)]
    assert len(set(drawn)) == 18
    assert drawn[18] == drawn[0]


def test_runs_of_one_name_are_two_lines() -> None:
    [chart] = overlay([run("a", 0, [1.0]), run("a", 1, [2.0])], ["m"])
    assert [(s.kind, s.values) for s in chart.series] == [("line", [1.0]), ("line", [2.0])]


@pytest.mark.parametrize(
    ("metric", "unit"),
    [
        ("rollout/success", "percent"), ("rollout/failed_turns", "percent"), ("rollout/end/won", "percent"),
        ("policy/clip_low", "percent"), ("policy/kl_old", "nats per token"), ("entropy/step_p50", "nats"),
        ("entropy/step_mean", "nats"), ("time/total", "seconds"), ("time/rollout", "seconds"),
        ("rollout/turns", "turns"), ("tokens/sampled", "tokens"), ("credit/scale_std", ""), ("another", ""),
    ],
)  # fmt: skip
def test_a_curve_has_the_unit_of_its_metric(metric: str, unit: str) -> None:
    [chart] = overlay([("a", {}, [{"iteration": 1, metric: 0.5}])], [metric])
    assert chart.unit == unit


def test_no_numbers_no_chart() -> None:
    assert overlay([run("a", 0, [None])], ["m"]) == []
    assert overlay([], ["m"]) == []


def evaluation(iteration: int, success: float, **types: float) -> Any:
    by_type = {name: {"success": rate} for name, rate in types.items()}
    place = {"iteration": iteration, "split": "valid_seen", "decoding": "sampled"}
    return {**place, "success": success, "by_type": by_type}


def test_evaluations_are_curves_of_all_tasks_and_of_each_type() -> None:
    evaluations = [evaluation(0, 0.2, heat=0.1, cool=0.3), evaluation(10, 0.6, heat=0.5, cool=0.7)]
    records = evaluation_curves(evaluations, by_type=True)
    charts = overlay([("a", {}, records)], list(records[0])[1:])
    assert {c.title: c.series[0].values for c in charts} == {
        "valid_seen, sampled: success": [0.2, 0.6],
        "valid_seen, sampled: success, cool": [0.3, 0.7],
        "valid_seen, sampled: success, heat": [0.1, 0.5],
    }
    assert {c.unit for c in charts} == {"percent"}
    assert list(evaluation_curves(evaluations, by_type=False)[0]) == ["iteration", "valid_seen, sampled: success"]


def test_a_damaged_evaluation_has_no_curve() -> None:
    records = evaluation_curves([{"iteration": 1, "by_type": {"heat": None}}], by_type=True)  # type: ignore[typeddict-item]
    assert overlay([("a", {}, records)], list(records[0])[1:]) == []


def test_training_episodes_are_curves_of_each_type() -> None:
    episodes = [
        {"iteration": 2, "task_type": t, "success": w} for t, w in (("heat", True), ("heat", False), ("cool", True))
    ]
    [record] = training_curves_by_type(episodes)
    assert record == {
        "iteration": 2,
        "kept training episodes: success, cool": 1.0,
        "kept training episodes: success, heat": 0.5,
    }
