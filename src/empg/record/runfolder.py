"""A run's folder: the one place that knows where a run keeps what.

    recipe.yaml                                       the complete, resolved recipe
    metrics.jsonl                                     one JSON object a line, in the order of events
    episodes/iter-000012.parquet                      one row per turn of the training rollouts (`tables.EPISODES`)
    evaluations/iter-000012-<split>-<decoding>-<panel>-t<temperature>.parquet
                                                      one row per episode of a panel (`tables.EVALUATIONS`)
    checkpoints/  tensorboard/  report.html

Everything in it can be read without this package. Files other than `metrics.jsonl` are written beside their place and
renamed into it, so a run that is killed leaves no half of one.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from empg.errors import UserError
from empg.record.records import Record
from empg.record.tables import EPISODES, EVALUATIONS, read_table, write_table

_EPISODES = re.compile(r"iter-(\d{6,})\.parquet")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")


class RunFolderError(UserError):
    """A run folder cannot be made, read or written; the message names the file or line and says what to do."""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, by its path. Constructing one touches nothing; `create` and `open` check."""

    path: Path
    problems: list[str] = field(default_factory=list, compare=False)
    """What the last `read_metrics` had to leave out, in words; empty when the file was whole."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @classmethod
    def create(cls, path: str | Path, recipe: str, *, force: bool = False) -> RunFolder:
        """Make a new run's folder with its resolved recipe (YAML text).

        An empty or missing folder is taken as it is. `force` starts a folder that holds a run anew: what belongs to a
        run's layout is removed, anything else in it is left alone.

        Raises:
            RunFolderError: the folder holds something already, or cannot be written.
        """
        run = cls(Path(path))
        try:
            if run.path.exists() and not run.path.is_dir():
                raise RunFolderError(f"{run.path} is a file, not a folder; name another folder for the run")
            if run.recipe_path.exists():
                if not force:
                    raise RunFolderError(
                        f"{run.path} already holds a run; go on with --resume, start it anew with --force, "
                        "or name another folder"
                    )
                run._remove_run()
            elif run.path.is_dir() and any(run.path.iterdir()):
                raise RunFolderError(f"{run.path} is not empty and holds no run; name another folder")
            run.path.mkdir(parents=True, exist_ok=True)
            write_whole(run.recipe_path, recipe.encode())
            run.metrics_path.touch()
        except OSError as error:
            raise RunFolderError(f"cannot make the run folder {run.path}: {error.strerror or error}") from None
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run's folder.

        Raises:
            RunFolderError: there is no run in it.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            raise RunFolderError(f"{run.path} does not exist; name the folder of a run")
        if not run.recipe_path.is_file():
            raise RunFolderError(f"{run.path} holds no run: recipe.yaml is missing")
        return run

    @property
    def recipe_path(self) -> Path:
        """The complete, resolved recipe (YAML)."""
        return self.path / "recipe.yaml"

    @property
    def metrics_path(self) -> Path:
        """The records of the run, one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard event files."""
        return self.path / "tensorboard"

    @property
    def report(self) -> Path:
        """The page that `empg report` writes."""
        return self.path / "report.html"

    def recipe_text(self) -> str:
        """The resolved recipe, as written (YAML)."""
        return self.recipe_path.read_text(encoding="utf-8")

    # --- metrics.jsonl ---------------------------------------------------------------------------------------------

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one record as one line, flushed.

        JSON has no NaN: numbers that are not finite are written as null and their keys listed under `nonfinite`.
        A line torn by a kill is removed first, so the file never holds a damaged line in its middle.

        Raises:
            RunFolderError: the line cannot be written (a full disk, say).
        """
        nonfinite: list[str] = []
        clean = _finite(dict(record), "", nonfinite)
        if nonfinite:
            clean["nonfinite"] = nonfinite
        line = json.dumps(clean, allow_nan=False, separators=(",", ":")).encode() + b"\n"
        try:
            with self.metrics_path.open("ab+") as file:
                _drop_torn_line(file)
                file.write(line)
        except OSError as error:
            raise RunFolderError(f"cannot write {self.metrics_path}: {error.strerror or error}") from None

    def read_metrics(self) -> list[Record]:
        """All records, in the order they were written.

        A last line torn by a kill is left out and reported in `problems`.

        Raises:
            RunFolderError: the file cannot be read, or a line before the last is not a JSON object.
        """
        self.problems.clear()
        records: list[Record] = []
        lines = self._lines()
        for number, line in enumerate(lines, 1):
            torn = number == len(lines) and not line.endswith(b"\n")
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if torn:  # even one that parses: its number may have been cut short
                self.problems.append(f"metrics.jsonl line {number} was cut off when the run was killed; left out")
            elif not isinstance(record, dict):
                raise RunFolderError(f"{self.metrics_path} line {number} is not a JSON object; mend or remove it")
            else:
                records.append(record)
        return records

    def truncate_metrics(self, iteration: int) -> None:
        """Forget what was written after `iteration`, so that a run resumed from there goes on as if never killed.

        Records with a greater `iteration` are dropped, those without one (`run`, `warm_start`) are kept; the lines
        that stay are kept to the byte. `-1` forgets the evaluation before training (iteration 0) too.
        """
        self.read_metrics()
        kept = [
            line
            for line in self._lines()
            if line.endswith(b"\n") and json.loads(line).get("iteration", iteration) <= iteration
        ]
        try:
            write_whole(self.metrics_path, b"".join(kept))
        except OSError as error:
            raise RunFolderError(f"cannot write {self.metrics_path}: {error.strerror or error}") from None

    def _lines(self) -> list[bytes]:
        try:
            # Not splitlines: text may hold line separators that JSON does not escape.
            return [line for line in re.findall(rb"[^\n]*\n|[^\n]+", self.metrics_path.read_bytes()) if line.strip()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunFolderError(f"cannot read {self.metrics_path}: {error.strerror or error}") from None

    # --- tables ----------------------------------------------------------------------------------------------------

    def write_episodes(self, iteration: int, columns: Mapping[str, Sequence[Any]]) -> Path:
        """Write an iteration's turns, one row each (`tables.EPISODES`); columns left out are null throughout."""
        return write_table(self.episodes_path(iteration), EPISODES, columns)

    def read_episodes(self, iteration: int) -> dict[str, list[Any]]:
        """An iteration's turns by column."""
        return read_table(self.episodes_path(iteration))

    def episodes_path(self, iteration: int) -> Path:
        """Where an iteration's turns are kept."""
        return self.path / "episodes" / f"iter-{iteration:06d}.parquet"

    def episode_iterations(self) -> list[int]:
        """The iterations whose episodes were kept, in order."""
        folder = self.path / "episodes"
        names = (_EPISODES.fullmatch(entry.name) for entry in folder.iterdir()) if folder.is_dir() else ()
        return sorted(int(name.group(1)) for name in names if name)

    def write_evaluation(self, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write the episodes of an evaluation (its `eval` record) in panel order, one row each."""
        names = list(rows[0]) if rows else []
        columns = {name: [row.get(name) for row in rows] for name in names}
        return write_table(self.evaluation_path(record), EVALUATIONS, columns)

    def read_evaluation(self, record: Mapping[str, Any]) -> dict[str, list[Any]]:
        """The episodes of an evaluation (its `eval` record) by column, in panel order."""
        path = self.evaluation_path(record)
        before = path.with_name(f"iter-{record['iteration']:06d}-{record['split']}-{record['decoding']}.parquet")
        # Runs of earlier versions had one file for all panels and temperatures, that of the evaluation played last.
        return read_table(before if before.is_file() and not path.is_file() else path)

    def evaluation_path(self, record: Mapping[str, Any]) -> Path:
        """Where the episodes of an evaluation (its `eval` record) are kept: one file for everything that tells them.

        Raises:
            RunFolderError: a split, decoding or panel digest that is no plain name.
        """
        split, decoding, panel = record["split"], record["decoding"], record["panel_sha256"]
        for name in (split, decoding, panel):
            if not _NAME.fullmatch(name):
                raise RunFolderError(f"{name!r} cannot be part of a file's name; use letters, digits and underscores")
        heat = float(record.get("temperature", 1.0))
        name = f"iter-{record['iteration']:06d}-{split}-{decoding}-{panel[:8]}-t{heat:g}.parquet"
        return self.path / "evaluations" / name

    def _remove_run(self) -> None:
        for folder in (self.path / "episodes", self.path / "evaluations", self.checkpoints, self.tensorboard):
            if folder.is_symlink():  # what it points to is not ours to empty
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)
        for file in (self.metrics_path, self.report, self.recipe_path):
            file.unlink(missing_ok=True)


def _finite(value: Any, key: str, nonfinite: list[str]) -> Any:
    """The value as plain JSON; names of numbers that are not finite are added to `nonfinite`."""
    if isinstance(value, Mapping):
        return {str(k): _finite(v, f"{key}/{k}" if key else str(k), nonfinite) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v, f"{key}/{i}", nonfinite) for i, v in enumerate(value)]
    if hasattr(value, "item"):  # a NumPy or torch scalar
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        nonfinite.append(key)
        return None
    return value


def _drop_torn_line(file: Any) -> None:
    """Cut a file open for appending back to its last newline."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; whatever fails is an `OSError`."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
