"""The loggers of a recipe: TensorBoard, Weights & Biases, trackio. They get the numbers of metrics.jsonl.

A logger never ends a run. One that fails is reported in one line and gets nothing more. Weights & Biases and trackio
read their settings, such as keys and modes, from their own environment variables.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from typing import Any, Protocol

from torch.utils.tensorboard import SummaryWriter

from empg.errors import MissingExtraError, UserError, message_of
from empg.recipe import Recipe
from empg.record.records import Record
from empg.record.runfolder import RunFolder

PROJECT = "empg"
_INIT_SECONDS, _FINISH_SECONDS = 30.0, 60.0  # of Weights & Biases; what is not uploaded then stays on the disk


class MetricLogger(Protocol):
    """Takes numbers by name and iteration. `address` says where they can be seen; it may be empty."""

    address: str

    def log(self, numbers: Mapping[str, float], iteration: int) -> None:
        """Take some numbers of one iteration."""

    def close(self, failed: bool) -> None:
        """End the log of a run, which may have failed."""


def require_packages(recipe: Recipe) -> None:
    """Check that the packages of a recipe's loggers are installed.

    Raises:
        MissingExtraError: one is not installed.
    """
    for name in recipe.loggers:
        if importlib.util.find_spec(name) is None:
            raise MissingExtraError(f"loggers: {name} is not installed: pip install 'empg[{name}]'")


def run_id(records: Sequence[Record]) -> str:
    """Return an id of a run that stays the same when it is resumed, made from its records. A fork has another one."""
    began = [record for record in records if record["kind"] == "run"][:1]
    forked = [record for record in records if record["kind"] == "resume" and record.get("forked_from")][-1:]
    return hashlib.sha256(json.dumps([*began, *forked], sort_keys=True).encode()).hexdigest()[:12]


class MetricLoggers:
    """All loggers of a recipe.

    Args:
        folder: the run.
        recipe: its recipe.
        resumed_at: the iteration after which the run continues, -1 for its start, None for a new run.
        say: prints a line.
    """

    def __init__(self, folder: RunFolder, recipe: Recipe, resumed_at: int | None, say: Callable[[str], None]) -> None:
        self._folder, self._recipe, self._resumed_at, self._say = folder, recipe, resumed_at, say
        self._open: dict[str, MetricLogger] = {}
        self.started = False

    def start(self) -> None:
        """Start every logger. The run has its first record already, from which it gets its id."""
        self.started = True
        purge = None if self._resumed_at is None else self._resumed_at + 1
        starts: dict[str, Callable[[], MetricLogger]] = {
            "tensorboard": lambda: TensorBoard(self._folder, purge),
            "wandb": lambda: Wandb(self._folder, self._recipe),
            "trackio": lambda: Trackio(self._folder, self._recipe),
        }
        for name in dict.fromkeys(self._recipe.loggers):
            try:
                self._open[name] = starts[name]()
            except Exception as error:
                self._leave_out(name, error)
                continue
            if address := self._open[name].address:
                self._say(f"{name}: {address}")

    def log(self, numbers: Mapping[str, float], iteration: int) -> None:
        """Give every logger some numbers of one iteration."""
        assert self.started
        for name, logger in list(self._open.items()):
            try:
                logger.log(numbers, iteration)
            except Exception as error:
                self._leave_out(name, error)

    def close(self, failed: bool) -> None:
        """End every log."""
        for name, logger in list(self._open.items()):
            try:
                logger.close(failed)
            except Exception as error:
                self._leave_out(name, error)
        self._open.clear()

    def _leave_out(self, name: str, error: Exception) -> None:
        self._open.pop(name, None)
        reason = message_of(error) or type(error).__name__
        self._say(f"{name}: {reason}; the run continues without this logger")


class TensorBoard:
    """Event files in the run folder. What they have from the iteration `purge` on is replaced."""

    address = ""

    def __init__(self, folder: RunFolder, purge: int | None) -> None:
        self._writer = SummaryWriter(str(folder.tensorboard), purge_step=purge)

    def log(self, numbers: Mapping[str, float], iteration: int) -> None:
        """Write the numbers to the disk: what a checkpoint has is not written again."""
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()

    def close(self, failed: bool) -> None:
        """Close the file."""
        self._writer.close()


class Wandb:
    """A run of Weights & Biases; a resumed run continues it, and logs repeated iterations a second time."""

    def __init__(self, folder: RunFolder, recipe: Recipe) -> None:
        import wandb

        settings = {"silent": True, "console": "off"}  # the display is ours
        mode = wandb.setup(wandb.Settings(**settings)).settings.mode
        if mode == "online" and not wandb.login(prompt=False):  # else it would ask for a key and wait
            raise UserError("not logged in; run `wandb login`, or set WANDB_API_KEY or WANDB_MODE=offline")
        self._run = wandb.init(
            **_described(folder, recipe),
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run_id(folder.read_metrics()),
            name=folder.path.absolute().name,
            dir=os.environ.get("WANDB_DIR", str(folder.path)),
            settings=wandb.Settings(**settings, init_timeout=_INIT_SECONDS, finish_timeout=_FINISH_SECONDS),
        )
        # Not its own step: that must grow, but a resumed run goes back to its checkpoint.
        self._run.define_metric("iteration", hidden=True)
        self._run.define_metric("*", step_metric="iteration")
        self.address = f"offline, in {self._run.settings.sync_dir}" if self._run.offline else str(self._run.url)

    def log(self, numbers: Mapping[str, float], iteration: int) -> None:
        """Hand the numbers to the process of Weights & Biases, which does not make the run wait."""
        self._run.log({"iteration": iteration, **numbers})

    def close(self, failed: bool) -> None:
        """Upload the rest, as far as the time suffices."""
        self._run.finish(exit_code=int(failed))


class Trackio:
    """A run of trackio; a resumed run continues it, and logs repeated iterations a second time."""

    def __init__(self, folder: RunFolder, recipe: Recipe) -> None:
        import trackio

        self._finish: Callable[[], None] = trackio.finish  # of the run that `init` starts
        name = f"{folder.path.absolute().name}-{run_id(folder.read_metrics())}"  # trackio resumes by name
        project = os.environ.get("TRACKIO_PROJECT", PROJECT)
        with redirect_stdout(io.StringIO()):
            self._run = trackio.init(**_described(folder, recipe), project=project, name=name, embed=False)
        self.address = f"run {name}; to see it: trackio show --project {project}"

    def log(self, numbers: Mapping[str, float], iteration: int) -> None:
        """Hand the numbers to the thread of trackio."""
        self._run.log(dict(numbers), step=iteration)

    def close(self, failed: bool) -> None:
        """Write the rest."""
        with redirect_stdout(io.StringIO()):
            self._finish()


def _described(folder: RunFolder, recipe: Recipe) -> dict[str, Any]:
    return {"group": recipe.name, "config": recipe.model_dump(mode="json"), "resume": "allow"}
