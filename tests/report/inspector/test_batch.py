"""All steps of one iteration at once."""

from __future__ import annotations

from typing import Any

import pytest

from empg.record.runfolder import RunFolder
from empg.report.inspector.batch import batch_charts, extremes, kinds_of_steps


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
    assert batch_charts(steps, "")[1].note == f"{note}. Click the first and the last bar"


def test_the_bars_of_large_entropies_have_places() -> None:
    steps = [step("go", 1.0, entropy=h) for h in (0.5e308, 1.5e308)]
    [_, histogram, _] = batch_charts(steps, "")
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


def test_an_iteration_without_numbers_has_no_charts() -> None:
    assert batch_charts([step("go", None, entropy=float("nan"))], "") == []
    assert kinds_of_steps([]) == []
