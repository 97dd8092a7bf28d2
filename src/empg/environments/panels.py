"""Panels: fixed, ordered lists of tasks that every evaluation plays whole, named and hashed."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass

from empg.environments.base import TextEnvironment


@dataclass(frozen=True, slots=True)
class Panel:
    """Which tasks of a split are played: `tasks` are indices for `reset(options={"task": i})`, `task_ids` their ids.

    `sha256` is the digest of the ordered ids; two success rates can be compared if it is the same.
    """

    name: str
    split: str
    tasks: tuple[int, ...]
    task_ids: tuple[str, ...]
    sha256: str


def make_panel(environment: TextEnvironment, episodes: int, name: str) -> Panel:
    """The first `episodes` tasks of a fixed shuffle of the environment's split (all of them, if it has fewer).

    The shuffle is there because the tasks of official data are sorted by type. It does not depend on any seed of a
    run.
    """
    order = list(range(environment.num_tasks))
    random.Random("empg panel 1").shuffle(order)
    tasks = tuple(order[:episodes])
    task_ids = tuple(environment.task_id(task) for task in tasks)
    digest = hashlib.sha256("\n".join(task_ids).encode()).hexdigest()
    return Panel(f"{name}-{len(tasks)}", environment.split, tasks, task_ids, digest)
