"""The step view's data: which episodes are shown, and that every number is the one in the file."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from empg.record.runfolder import RunFolder
from empg.report.stepview import MAX_TEXT, handful, step_view
from empg.report.turns import Row

MakeRun = Callable[..., RunFolder]


def episodes(outcomes: dict[int, str]) -> list[list[Row]]:
    """Group -> one letter per episode, `w` won and `l` lost; an episode is one turn here."""
    return [[{"group": group, "success": letter == "w"}] for group, letters in outcomes.items() for letter in letters]


def shown(outcomes: dict[int, str]) -> str:
    return " ".join(f"{t[0]['group']}{'w' if t[0]['success'] else 'l'}" for t in handful(episodes(outcomes)))


@pytest.mark.parametrize(
    ("outcomes", "expected"),
    [
        ({0: "wwww", 1: "wwll"}, "1w 1w 1l 1l 0w 0w"),  # the even group first; too few failures, so more successes
        ({0: "wwwllll"}, "0w 0w 0w 0l 0l 0l"),
        ({0: "llll", 1: "llll"}, "0l 0l 0l 0l 1l 1l"),
        ({0: "w"}, "0w"),
        ({}, ""),
    ],
)
def test_a_handful_shows_one_task_both_ways(outcomes: dict[int, str], expected: str) -> None:
    assert shown(outcomes) == expected


@given(st.lists(st.text("wl", min_size=1, max_size=8), max_size=6))
def test_a_handful_is_six_or_all(groups: list[str]) -> None:
    letters = "".join(groups)
    kept = shown(dict(enumerate(groups))).split()
    assert len(kept) == min(6, len(letters))
    assert sum("w" in k for k in kept) >= min(3, letters.count("w"))
    assert sum("l" in k for k in kept) >= min(3, letters.count("l"))


def test_last_first_and_middle_iterations_are_shown(make_run: MakeRun) -> None:
    run = make_run(iterations=8, every=8, keep_episodes=(1, 2, 5, 8))
    assert [view["iteration"] for view in step_view(run)] == [8, 1, 5]
    assert step_view(make_run("none", iterations=1, every=1, keep_episodes=())) == []


def test_numbers_are_those_of_the_file(finished_run: RunFolder) -> None:
    columns = finished_run.read_episodes(40)
    view = step_view(finished_run)[0]
    assert view["total"] == len(set(columns["episode"]))
    for episode in view["episodes"]:
        rows = [i for i, number in enumerate(columns["episode"]) if number == episode["episode"]]
        for name, key in (("entropy", "entropy"), ("scale", "g"), ("clarity", "f"), ("advantage", "advantage")):
            assert [t[key] for t in episode["turns"]] == pytest.approx([columns[name][i] for i in rows], abs=1e-6)
        assert [t["action"] for t in episode["turns"]] == [columns["action"][i] for i in rows]
        assert episode["turns"][-1]["f"] == 0.0


def test_an_episode_has_the_smallest_and_the_largest_base_advantage_of_its_steps(make_run: MakeRun) -> None:
    run = make_run(iterations=1, every=1, keep_episodes=(1,))
    rows = run.read_episodes(1)
    rows["advantage_outcome"] = [0.5 - turn * (e % 2) for e, turn in zip(rows["episode"], rows["turn"], strict=True)]
    run.write_episodes(1, rows)
    for episode in step_view(run)[0]["episodes"]:
        last = len(episode["turns"]) - 1
        assert episode["outcome"] == ([0.5 - last, 0.5] if episode["episode"] % 2 and last else [0.5])


def test_bars_share_the_scale_of_their_iteration(finished_run: RunFolder) -> None:
    for view in step_view(finished_run):
        turns = [turn for episode in view["episodes"] for turn in episode["turns"]]
        assert view["largest"]["entropy"] == max(t["entropy"] for t in turns)
        assert view["largest"]["advantage"] == max(abs(t["advantage"]) for t in turns)


def one_turn(tmp_path: Path, **changes: Any) -> dict[str, Any]:
    run = RunFolder.create(tmp_path / "run", "seed: 0\n")
    turn = {
        "iteration": 1,
        "episode": 0,
        "group": 0,
        "task_index": 0,
        "task_id": "t",
        "task_type": "p",
        "split": "s",
        "turn": 0,
        **changes,
    }
    run.write_episodes(1, {name: [value] for name, value in turn.items()})
    view = step_view(run)
    json.dumps(view, allow_nan=False)
    turns: list[dict[str, Any]] = view[0]["episodes"][0]["turns"]
    return turns[0]


def test_a_step_without_credit_is_shown_without(tmp_path: Path) -> None:
    turn = one_turn(tmp_path, entropy=math.nan, dropped=True)
    assert (turn["entropy"], turn["g"], turn["f"], turn["advantage"]) == (None, None, None, None)
    assert (turn["dropped"], turn["fault"], turn["observation"]) == (True, "", "")


def test_a_turn_that_is_not_valid_and_the_end_are_named_as_in_the_inspector(make_run: MakeRun) -> None:
    run = make_run(iterations=1, every=1, keep_episodes=(1,))
    rows = run.read_episodes(1)
    count = len(rows["turn"])
    run.write_episodes(1, {**rows, "valid": [False] * count, "rejected": [True] * count, "end": ["env_error"] * count})
    for episode in step_view(run)[0]["episodes"]:
        assert episode["end"] == "environment error"
        assert {turn["fault"] for turn in episode["turns"]} == {"rejected action"}


def test_long_text_is_cut_visibly(tmp_path: Path) -> None:
    turn = one_turn(tmp_path, observation="x" * (MAX_TEXT + 1_234), action="y" * MAX_TEXT)
    assert turn["observation"] == "x" * MAX_TEXT + " … (1,234 more characters)"
    assert turn["action"] == "y" * MAX_TEXT


def test_a_damaged_file_is_named_and_the_others_are_shown(make_run: MakeRun) -> None:
    run = make_run(iterations=2, every=2, keep_episodes=(1, 2))
    run.episodes_path(2).write_bytes(b"PAR1 not a table")
    damaged, whole = step_view(run)
    assert "iter-000002.parquet" in damaged["problem"]
    assert damaged["episodes"] == []
    assert len(whole["episodes"]) == 6


@pytest.mark.parametrize("column", ["dropped", "score", "task"])
def test_a_column_that_is_missing_is_empty(column: str, make_run: MakeRun) -> None:
    run = make_run(iterations=2, every=2, keep_episodes=(2,))
    table = pq.read_table(run.episodes_path(2))
    pq.write_table(table.drop_columns([column]), run.episodes_path(2))
    [whole] = step_view(run)
    assert len(whole["episodes"]) == 6


@pytest.mark.parametrize(("column", "value"), [("entropy", "low"), ("observation", 5), ("success", "yes")])
def test_a_column_of_another_type_is_named(column: str, value: object, make_run: MakeRun) -> None:
    run = make_run(iterations=2, every=2, keep_episodes=(2,))
    table = pq.read_table(run.episodes_path(2))
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array([value] * len(table))), run.episodes_path(2))
    [damaged] = step_view(run)
    assert damaged["episodes"] == []
    assert "iter-000002.parquet has wrong columns" in damaged["problem"]
