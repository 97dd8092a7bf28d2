"""The charts: which there are, and which numbers they show."""

from __future__ import annotations

from typing import Any

from empg.record.records import Record, eval_records
from empg.record.runfolder import RunFolder
from empg.report.curves import Chart, charts, panels


def titled(made: list[Chart], title: str) -> Chart:
    (chart,) = [chart for chart in made if chart.title == title]
    return chart


def played(iteration: int, split: str, success: float, **changes: Any) -> Record:
    return {
        "kind": "eval",
        "iteration": iteration,
        "split": split,
        "decoding": "sampled",
        "success": success,
        "low": success - 0.1,
        "high": success + 0.1,
        **changes,
    }


def test_no_records_make_no_charts() -> None:
    assert charts([]) == []
    assert charts([{"kind": "run", "seed": 0}]) == []


def test_a_whole_run_has_the_main_curves(finished_run: RunFolder) -> None:
    titles = [chart.title for chart in charts(finished_run.read_metrics())]
    assert titles[0] == "Success"
    assert {
        "Reward",
        "Step entropy",
        "KL",
        "Spread of gradient scaling",
        "Tokens per turn",
        "Valid actions",
        "Time per iteration",
        "End reasons of episodes",
        "Warm start: loss",
    } <= set(titles)


def test_every_series_is_as_long_as_its_x(finished_run: RunFolder) -> None:
    for chart in charts(finished_run.read_metrics()):
        assert chart.x == sorted(set(chart.x)), chart.title
        for series in chart.series:
            for values in (series.values, series.low, series.high):
                assert len(values) in (0, len(chart.x)), (chart.title, series.label)
            assert series.values or series.kind == "band"


def test_success_puts_rollouts_and_panels_over_the_same_iterations() -> None:
    records = [
        played(0, "valid_seen", 0.3),
        {"kind": "train", "iteration": 1, "rollout/success": 0.4},
        {"kind": "train", "iteration": 2, "rollout/success": 0.5},
        played(2, "valid_seen", 0.6),
        played(2, "valid_unseen", 0.5),
    ]
    chart = charts(records)[0]
    assert chart.x == [0, 1, 2]
    assert [(s.label, s.values) for s in chart.series] == [
        ("training episodes", [None, 0.4, 0.5]),
        ("valid_seen, sampled", [0.3, None, 0.6]),
        ("valid_unseen, sampled", [None, None, 0.5]),
    ]
    assert chart.series[2].low == [None, None, 0.4]


def test_panels_beyond_the_palette_have_its_colours_again_with_dashes() -> None:
    chart = charts([played(0, f"split-{i}", 0.3) for i in range(8)])[0]
    assert [(s.colour, s.dashes) for s in chart.series][5:] == [(6, 0), (1, 1), (2, 1)]


def test_a_panel_that_was_played_again_counts_as_it_was_played_last() -> None:
    chart = charts([played(5, "valid_seen", 0.3), played(5, "valid_seen", 0.4)])[0]
    assert chart.series[0].values == [0.4]


def test_a_warm_start_that_was_begun_again_is_drawn_once() -> None:
    records = [{"kind": "warm_start", "step": s, "loss": loss} for s, loss in ((1, 3.0), (2, 2.0), (1, 2.9), (2, 1.9))]
    chart = titled(charts(records), "Warm start: loss")
    assert (chart.x, chart.series[0].values) == ([1, 2], [2.9, 1.9])


def test_end_reasons_that_did_not_occur_are_not_in_the_legend(finished_run: RunFolder) -> None:
    made = charts(finished_run.read_metrics())
    assert [s.label for s in titled(made, "End reasons of episodes").series] == ["won", "step limit", "token limit"]
    assert [s.label for s in titled(made, "KL").series] == ["to the sampling policy", "to the reference"]


def test_a_number_that_was_not_finite_is_a_gap() -> None:
    records = [{"kind": "train", "iteration": i, "policy/loss": loss} for i, loss in ((1, 0.5), (2, None), (3, 0.25))]
    assert titled(charts(records), "Loss").series[0].values == [0.5, None, 0.25]


def test_a_statistic_of_the_update_without_a_chart_of_its_own_gets_one_under_its_name() -> None:
    records: list[Record] = [
        {"kind": "train", "iteration": i, "policy/loss": 0.1, "policy/spread": i / 4} for i in (1, 2)
    ]
    records.append({"kind": "train", "iteration": 3, "policy/loss": 0.1, "policy/spread": None, "policy/late": 7.0})
    made = charts(records)
    assert [chart.title for chart in made] == ["Loss", "policy/spread", "policy/late"]
    assert [(s.label, s.values) for s in made[1].series] == [("spread", [0.25, 0.5, None])]
    assert made[2].series[0].values == [None, None, 7.0]


def test_panels_come_in_the_order_they_were_first_played() -> None:
    records = [played(0, "b", 0.1), played(0, "a", 0.1), played(5, "b", 0.1), played(5, "a", 0.1, decoding="greedy")]
    assert panels(eval_records(records)) == [("b", "sampled"), ("a", "sampled"), ("a", "greedy")]
