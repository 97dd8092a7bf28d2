"""A run as one of its workers holds it: the parts that stay the same from the first iteration to the last."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from empg.learner.checkpoint import Checkpoints
from empg.recipe import Recipe
from empg.record.runfolder import RunFolder
from empg.run.logger import RunLogger
from empg.system.workers import Workers


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What the phases of a run hand on to one another."""

    recipe: Recipe
    folder: RunFolder
    workers: Workers
    logger: RunLogger
    checkpoints: Checkpoints


@contextmanager
def open_run(recipe: Recipe, path: Path, workers: Workers, resumed_at: int | None = None) -> Iterator[Run]:
    """Open the run in an existing run folder; its logger is open until the end of the block.

    `resumed_at` is the iteration after which the run continues, -1 for its start, None for a new run.
    """
    folder = RunFolder.open(path)
    with RunLogger(folder, recipe, workers, resumed_at) as logger:
        checkpoints = Checkpoints(folder.checkpoints, recipe.keep_checkpoints, logger.say)
        yield Run(recipe=recipe, folder=folder, workers=workers, logger=logger, checkpoints=checkpoints)
