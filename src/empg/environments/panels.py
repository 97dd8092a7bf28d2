"""Panels: fixed, ordered lists of tasks with a name and a hash. Every evaluation plays all tasks of its panel."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from empg.environments.base import TextEnvironment


@dataclass(frozen=True, slots=True)
class Panel:
    """The tasks of a split that an evaluation plays.

    `tasks` are indices for `reset(options={"task": i})`; `task_ids` are their ids. `sha256` is the digest of the
    ordered ids; two success rates are comparable if it is the same.
    """

    name: str
    split: str
    tasks: tuple[int, ...]
    task_ids: tuple[str, ...]
    sha256: str


def make_panel(environment: TextEnvironment, episodes: int, name: str) -> Panel:
    """Return the first `episodes` tasks of the environment's split in `panel_order` (all of them, if it has fewer)."""
    tasks = tuple(panel_order(environment.num_tasks)[:episodes])
    task_ids = tuple(environment.task_id(task) for task in tasks)
    # An id may have a lone surrogate, such as from the name of a file that is not UTF-8.
    digest = hashlib.sha256("\n".join(task_ids).encode("utf-8", "backslashreplace")).hexdigest()
    return Panel(f"{name}-{len(tasks)}", environment.split, tasks, task_ids, digest)


def panel_order(num_tasks: int) -> list[int]:
    """Return the tasks of a split in the order in which panels take them: a fixed shuffle.

    The tasks are shuffled because official data is sorted by task type. The shuffle does not depend on any seed of a
    run.
    """
    order = list(range(num_tasks))
    random.Random("empg panel 1").shuffle(order)
    return order
