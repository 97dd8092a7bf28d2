"""All steps of one iteration at once."""

from __future__ import annotations

from typing import Any

import pytest

from empg.record.runfolder import RunFolder
from empg.report.inspector.batch import batch_charts, extremes, gradient_shares


def step(action: str, advantage: float | None, tokens: int = 2, **values: Any) -> dict[str, Any]:
    row = {"entropy": 0.5, "turn": 0, "episode": 0, "success": True, "valid": True, "rejected": False, "text": ""}
    return {**row, "action": action, "advantage": advantage, "num_action_tokens": tokens, **values}


def test_the_share_of_a_kind_is_that_of_its_advantages_times_tokens() -> None:
    steps = [step("go to 1", -3.0), step("go to 2", 1.0), step("search[a b]", 1.0, 4), step("", 2.0, 2, valid=False),
             step("go to 3", None)]  # fmt: skip
    shares = {k["kind"]: (k["steps"], k["share"]) for k in gradient_shares(steps)}
    assert shares == {"go": (2, 0.5), "search": (1, 0.25), "malformed": (1, 0.25)}


def test_many_kinds_become_one_row() -> None:
    shares = gradient_shares([step(f"do{i}", 1.0) for i in range(40)])
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
    assert gradient_shares([]) == []
