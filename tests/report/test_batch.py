"""All steps of one iteration at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from empg.record.runfolder import RunFolder
from empg.report.batch import batch_charts, extremes, kinds_of_steps


def step(action: str, advantage: float | None, tokens: int = 2, **values: Any) -> dict[str, Any]:
    row = {"entropy": 0.5, "turn": 0, "episode": 0, "success": True, "valid": True, "rejected": False, "text": ""}
    return {**row, "action": action, "advantage": advantage, "num_action_tokens": tokens, **values}


def test_the_share_of_a_kind_is_that_of_its_advantages_times_tokens() -> None:
    steps = [step("go to 1", -3.0), step("go to 2", 1.0), step("search[a b]", 1.0, 4), step("", 2.0, 2, valid=False),
             step("go to 3", None)]  # fmt: skip
    shares = {k["kind"]: (k["steps"], k["share"]) for k in kinds_of_steps(steps)}
    assert shares == {"go": (2, 0.5), "search": (1, 0.25), "malformed": (1, 0.25)}


def test_a_kind_has_the_quartiles_of_its_entropies() -> None:
    steps = [step("go to 1", 1.0, entropy=h) for h in (0.0, 1.0, 2.0, 3.0, 4.0)]
    steps += [step("go to 1", 1.0, entropy=float("nan")), step("look", 1.0, entropy=None)]
    assert {k["kind"]: k["entropy"] for k in kinds_of_steps(steps)} == {"go": [1.0, 2.0, 3.0], "look": [None] * 3}


@pytest.mark.parametrize(
    ("normalised", "note"),
    [
        ([0.0, 0.5, 1.0, 1.0], "min 0 and max 3 nats; Hn is 0 up to 0 and 1 from 2"),
        ([0.0, 0.3, 0.6, 1.0], "min 0 and max 3 nats set Hn = 0 and Hn = 1"),
        ([0.0, 1.0, 0.5, 1.0], "min 0 and max 3 nats; the rule of the run normalises another entropy"),
        ([None, None, None, None], "min 0 and max 3 nats"),
        ([0.0, 0.0, 0.0, 0.0], "min 0 and max 3 nats"),
    ],
)
def test_the_histogram_says_which_entropies_rule_the_normalisation(normalised: list[Any], note: str) -> None:
    steps = [step("go", 1.0, entropy=float(i), entropy_normalised=hn) for i, hn in enumerate(normalised)]
    assert batch_charts(steps, None)[1].note == f"Steps that count: {note}"


def test_a_note_speaks_of_clicks_only_where_a_click_opens_a_step() -> None:
    steps = [step("go", 1.0, entropy=float(i), turn=i) for i in range(2)]
    clickable, plain = batch_charts(steps, "/e{episode}#{turn}"), batch_charts(steps, None)
    assert [chart.note.partition(". Click")[1:] for chart in clickable[:2]] == [
        (". Click", " a dot, or choose it with the arrow keys and Enter, to open its step"),
        (". Click", " the first and the last bar"),
    ]
    assert [chart.links[:1] + chart.links[-1:] for chart in clickable] == [["/e0#0", "/e0#1"]] * 2 + [[]]
    assert [chart.links for chart in plain] == [[], [], []]
    assert [chart.note for chart in plain[:2]] == [chart.note.partition(". Click")[0] for chart in clickable[:2]]


def test_the_bars_of_large_entropies_have_places() -> None:
    steps = [step("go", 1.0, entropy=h) for h in (0.5e308, 1.5e308)]
    [_, histogram, _] = batch_charts(steps, None)
    assert 0.5e308 < histogram.x[0] < histogram.x[-1] < 1.5e308


def test_many_kinds_become_one_row() -> None:
    shares = kinds_of_steps([step(f"do{i}", 1.0) for i in range(40)])
    assert shares[-1]["kind"] == "all other kinds"
    assert sum(k["share"] for k in shares) == pytest.approx(1.0)


def test_every_dot_leads_to_its_step(finished_run: RunFolder) -> None:
    columns = finished_run.read_episodes(20)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    scatter, histogram, positions = batch_charts(rows, "{episode}.{turn}")
    assert list(scatter.x) == sorted(columns["entropy"])
    lone = max(rows, key=lambda r: r["entropy"])
    assert scatter.links[-1] == f"{lone['episode']}.{lone['turn']}"
    assert histogram.links[-1] == scatter.links[-1]
    assert sum(v or 0 for s in histogram.series for v in s.values) == len(rows)
    assert list(positions.x) == sorted({t + 1 for t in columns["turn"]})
    assert extremes(rows)["largest H"][0] == lone


def test_steps_of_one_entropy_are_one_bar_that_leads_to_a_step() -> None:
    _, histogram, _ = batch_charts([step("go", 1.0, episode=e) for e in range(3)], "{episode}.{turn}")
    assert (list(histogram.x), histogram.series[1].values) == ([0.5], [3.0])
    assert histogram.links == ["0.0"]
    assert histogram.note.endswith("Click the bar")


def test_a_chart_says_which_steps_it_covers() -> None:
    steps = [step("go", 1.0, entropy=i / 7000) for i in range(7000)] + [step("go", None, entropy=9.0)]
    scatter, histogram, positions = batch_charts(steps, None)
    assert scatter.note == "One dot per 2 steps that count"
    assert len(scatter.x) == 3500
    assert histogram.note.startswith("Steps that count: ")
    assert sum(v or 0 for s in histogram.series for v in s.values) == 7000
    assert "All steps" in positions.note
    assert positions.series[0].high[0] == pytest.approx(np.quantile([s["entropy"] for s in steps], 0.75))
    assert batch_charts(steps[:9], None)[0].note == "One dot per step that counts"


def test_a_position_has_the_quartiles_of_the_won_and_of_the_lost_episodes() -> None:
    found = ((0, True, 0.0), (0, True, 1.0), (0, True, 2.0), (0, False, 5.0), (3, False, 7.0))
    steps = [step("go", 1.0, turn=turn, success=won, entropy=h) for turn, won, h in found]
    chart = batch_charts(steps, None)[2]
    assert list(chart.x) == [1, 4]
    assert [(s.label, s.low, s.values, s.high) for s in chart.series] == [
        ("won, middle half", [0.5, None], [], [1.5, None]),
        ("won, median", [], [1.0, None], []),
        ("lost, middle half", [5.0, 7.0], [], [5.0, 7.0]),
        ("lost, median", [], [5.0, 7.0], []),
    ]


def test_an_iteration_without_numbers_has_no_charts() -> None:
    assert batch_charts([step("go", None, entropy=float("nan"))], "") == []
    assert kinds_of_steps([]) == []
