"""The tasks of a recipe as verl's data files: which task a row plays, and with which agent loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from empg.recipe import Recipe


def agent_name(environment: str) -> str:
    """Return the name of the agent loop of an environment."""
    return f"empg_{environment}"


def task_rows(recipe: Recipe, split: str, count: int) -> list[dict[str, Any]]:
    """Return rows for `count` groups of a split, in order; the first task comes again when the split is used up.

    The agent loop plays task `extra_info.task` of the split. verl does not use `prompt`.
    """
    tasks = recipe.environment.make(split).num_tasks
    name = recipe.environment.id
    return [
        {
            "prompt": [{"role": "user", "content": f"task {group % tasks} of {split}"}],
            "agent_name": agent_name(name),
            "data_source": f"{name}/{split}",
            "reward_model": {"style": "rule", "ground_truth": ""},
            "extra_info": {"index": group, "split": split, "task": group % tasks},
        }
        for group in range(count)
    ]


def write_tasks(recipe: Recipe, folder: Path) -> tuple[Path, Path]:
    """Write `train.parquet` and `valid.parquet` into a folder; returns their paths.

    The former has a row per group of the run (`iterations` times `rollout.groups`), for `data.shuffle=False` and one
    epoch. The latter has `evaluation.episodes` rows of each split of `evaluation.splits`, or one row of the train split
    if there is no evaluation, because verl requires the file.
    """
    panels = dict.fromkeys(recipe.evaluation.panels, recipe.evaluation.episodes)
    parts = {
        "train": {recipe.environment.train_split: recipe.iterations * recipe.rollout.groups},
        "valid": panels or {recipe.environment.train_split: 1},
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, splits in parts.items():
        rows = [row for split, count in splits.items() for row in task_rows(recipe, split, count)]
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    return folder / "train.parquet", folder / "valid.parquet"
