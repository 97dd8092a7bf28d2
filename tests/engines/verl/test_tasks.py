"""The data files say which task a row plays, with which agent loop."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

from empg.engines.verl.tasks import task_rows, write_tasks
from empg.recipe import parse_recipe
from empg.run.evaluate import panel_of


def test_a_row_is_a_group_and_names_its_task_and_agent_loop(tmp_path: Path) -> None:
    recipe = parse_recipe(
        {"iterations": 3, "rollout": {"groups": 2}, "evaluation": {"splits": ["valid_seen"], "episodes": 5}}
    )
    train, valid = (pq.read_table(path).to_pylist() for path in write_tasks(recipe, tmp_path / "data"))
    assert [row["extra_info"] for row in train] == [
        {"environment": "alfworld", "index": group, "split": "train", "task": group} for group in range(6)
    ]
    assert {row["agent_name"] for row in train} == {"empg"}
    panel = panel_of(recipe, "valid_seen")
    assert [(row["data_source"], row["extra_info"]["index"], row["extra_info"]["task"]) for row in valid] == [
        ("alfworld/valid_seen", place, task) for place, task in enumerate(panel.tasks)
    ]
    assert len(valid) == 5


def test_without_an_evaluation_the_second_file_has_one_row(tmp_path: Path) -> None:
    recipe = parse_recipe({"evaluation": {"splits": []}})
    assert pq.read_table(write_tasks(recipe, tmp_path)[1]).num_rows == 1


def test_a_row_has_the_registered_name_of_its_environment() -> None:
    recipe = parse_recipe({"environment": {"id": "empg/ALFWorld-v1"}})
    assert task_rows(recipe, "train", [0])[0]["extra_info"]["environment"] == "alfworld"
