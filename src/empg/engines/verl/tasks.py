"""The tasks of a recipe as verl's data files: which task a row plays, and with which agent loop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from empg.recipe import Recipe
from empg.run.evaluate import panel_of

AGENT = "empg"
"""The name of the agent loop, which plays the environment of the job's recipe."""


def task_rows(recipe: Recipe, split: str, tasks: Sequence[int]) -> list[dict[str, Any]]:
    """Return one row per group for tasks of a split, in order.

    The agent loop plays task `extra_info.task` of the split, if the job's recipe has the environment of the row. verl
    does not use `prompt`.
    """
    name, environment = recipe.environment.id, recipe.environment.spec.id
    return [
        {
            "prompt": [{"role": "user", "content": f"task {task} of {split}"}],
            "agent_name": AGENT,
            "data_source": f"{name}/{split}",
            "reward_model": {"style": "rule", "ground_truth": ""},
            "extra_info": {"index": group, "environment": environment, "split": split, "task": task},
        }
        for group, task in enumerate(tasks)
    ]


def write_tasks(recipe: Recipe, folder: Path) -> tuple[Path, Path]:
    """Write `train.parquet` and `valid.parquet` into a folder; returns their paths.

    The former has a row per group of the run (`iterations` times `rollout.groups`), for `data.shuffle=False` and one
    epoch; after the last task of the split the first one comes again. The latter has the panel of each split of
    `evaluation.splits`, or one row of the train split if there is no evaluation, because verl requires the file.
    """
    train = recipe.environment.train_split
    available = recipe.environment.num_tasks(train)
    groups = [group % available for group in range(recipe.iterations * recipe.rollout.groups)]
    panels = {split: list(panel_of(recipe, split).tasks) for split in recipe.evaluation.panels}
    folder.mkdir(parents=True, exist_ok=True)
    for name, parts in (("train", {train: groups}), ("valid", panels or {train: [0]})):
        rows = [row for split, tasks in parts.items() for row in task_rows(recipe, split, tasks)]
        # Arrow takes a relative path such as `lr:3e-4/a.parquet` for a URI.
        pq.write_table(pa.Table.from_pylist(rows), (folder / f"{name}.parquet").absolute())
    return folder / "train.parquet", folder / "valid.parquet"
