"""The folder of a run: the one place that defines where a run keeps its files.

    recipe.yaml                                       the complete, resolved recipe
    metrics.jsonl                                     one JSON object per line, in the order of events
    episodes/iter-000012.parquet                      one row per turn of the training rollouts (`tables.EPISODES`)
    evaluations/iter-000012-<split>-<decoding>-<panel>-t<temperature>.parquet
                                                      one row per episode of a panel (`tables.EVALUATIONS`)
    checkpoints/  tensorboard/  report.html

Everything in it can be read without this package. Files other than `metrics.jsonl` are written under a temporary name
and renamed, so a run that is killed leaves no partial file.
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
from empg.yaml_text import read_yaml

_EPISODES = re.compile(r"iter-(\d{6,})\.parquet")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")


class RunFolderError(UserError):
    """A run folder cannot be created, read or written; the message names the file or line and says what to do."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, by its path. The constructor touches no file; `create` and `open` check the folder."""

    path: Path
    problems: list[str] = field(default_factory=list, compare=False)
    """What the last `read_metrics` left out, in words; empty if the file was complete."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @classmethod
    def create(cls, path: str | Path, recipe: str, *, force: bool = False) -> RunFolder:
        """Create the folder of a new run with its resolved recipe (YAML text).

        The folder may be missing or empty. `force` overwrites a run: the files and folders of a run are removed, any
        other file is kept.

        Raises:
            RunFolderError: the folder is not empty, or cannot be written.
        """
        run = cls(Path(path))
        try:
            if run.path.exists() and not run.path.is_dir():
                raise RunFolderError(f"{run.path} is a file, not a folder; name another folder for the run")
            if run.recipe_path.exists():
                if not force:
                    raise RunFolderError(
                        f"{run.path} already holds a run; use --resume to continue, --force to overwrite, "
                        "or name another folder"
                    )
                run._remove_run()
            elif run.path.is_dir() and any(run.path.iterdir()):
                raise RunFolderError(f"{run.path} is not empty and is not a run folder; name another folder")
            run.path.mkdir(parents=True, exist_ok=True)
            write_whole(run.recipe_path, recipe.encode())
            run.metrics_path.touch()
        except OSError as error:
            raise RunFolderError(f"cannot create the run folder {run.path}: {error.strerror or error}") from None
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of an existing run.

        Raises:
            RunFolderError: it does not exist, or is not a run folder.
        """
        run = cls(Path(path))
        if not run.path.is_dir():
            raise RunFolderError(f"{run.path} does not exist; name the folder of a run")
        if not run.recipe_path.is_file():
            raise RunFolderError(f"{run.path} is not a run folder: recipe.yaml is missing")
        return run

    @property
    def recipe_path(self) -> Path:
        """The complete, resolved recipe (YAML)."""
        return self.path / "recipe.yaml"

    @property
    def metrics_path(self) -> Path:
        """The records of the run, one JSON object per line."""
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
        """Return the resolved recipe as written (YAML)."""
        return self.recipe_path.read_text(encoding="utf-8")

    def recipe_values(self) -> dict[str, Any]:
        """The resolved recipe as a mapping.

        Raises:
            RunFolderError: the file cannot be read, or is not a mapping.
        """
        try:
            values = read_yaml(self.recipe_text(), str(self.recipe_path))
        except (OSError, UnicodeDecodeError) as error:
            raise RunFolderError(f"cannot read {self.recipe_path}: {' '.join(str(error).split())[:200]}") from None
        if not isinstance(values, dict):
            raise RunFolderError(f"{self.recipe_path} is damaged: expected a mapping, got a {type(values).__name__}")
        return values

    # --- metrics.jsonl ---------------------------------------------------------------------------------------------

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one record as one line and flush.

        JSON has no NaN: numbers that are not finite are written as null and their keys listed under `nonfinite`.
        An incomplete last line, left by a kill, is removed first, so no line but the last can be damaged.

        Raises:
            RunFolderError: the line cannot be written (for example, the disk is full).
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
        """Return all records, in the order in which they were written.

        An incomplete last line, left by a kill, is skipped and reported in `problems`.

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
            if torn:  # even if it parses: its last number may be incomplete
                self.problems.append(f"metrics.jsonl line {number} is incomplete because the run was killed; skipped")
            elif not isinstance(record, dict):
                raise RunFolderError(f"{self.metrics_path} line {number} is not a JSON object; fix or delete the line")
            else:
                records.append(record)
        return records

    def truncate_metrics(self, iteration: int) -> None:
        """Remove what was written after `iteration`, so that a run resumed from there continues as if never killed.

        Records with a greater `iteration` are removed, those without one (`run`, `warm_start`) are kept; the kept lines
        do not change by a byte. `-1` also removes the evaluation before training (iteration 0).
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
            # Not splitlines: text may contain line separators that JSON does not escape.
            return [line for line in re.findall(rb"[^\n]*\n|[^\n]+", self.metrics_path.read_bytes()) if line.strip()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise RunFolderError(f"cannot read {self.metrics_path}: {error.strerror or error}") from None

    # --- tables ----------------------------------------------------------------------------------------------------

    def write_episodes(self, iteration: int, columns: Mapping[str, Sequence[Any]]) -> Path:
        """Write the turns of an iteration, one row per turn (`tables.EPISODES`); a missing column is all null."""
        return write_table(self.episodes_path(iteration), EPISODES, columns)

    def read_episodes(self, iteration: int) -> dict[str, list[Any]]:
        """Return the turns of an iteration by column."""
        return read_table(self.episodes_path(iteration))

    def episodes_path(self, iteration: int) -> Path:
        """Return the path of the turns of an iteration."""
        return self.path / "episodes" / f"iter-{iteration:06d}.parquet"

    def episode_iterations(self) -> list[int]:
        """Return the iterations that have an episodes file, in order."""
        folder = self.path / "episodes"
        names = (_EPISODES.fullmatch(entry.name) for entry in folder.iterdir()) if folder.is_dir() else ()
        return sorted(int(name.group(1)) for name in names if name)

    def write_evaluation(self, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write the episodes of an evaluation (given by its record) in panel order, one row per episode."""
        names = list(rows[0]) if rows else []
        columns = {name: [row.get(name) for row in rows] for name in names}
        return write_table(self.evaluation_path(record), EVALUATIONS, columns)

    def read_evaluation(self, record: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return the episodes of an evaluation (given by its record) by column, in panel order."""
        path = self.evaluation_path(record)
        before = path.with_name(f"iter-{record['iteration']:06d}-{record['split']}-{record['decoding']}.parquet")
        # Earlier versions kept one file for all panels and temperatures, that of the latest evaluation.
        return read_table(before if before.is_file() and not path.is_file() else path)

    def evaluation_path(self, record: Mapping[str, Any]) -> Path:
        """Return the path of the episodes of an evaluation (given by its record); it contains all that identifies it.

        Raises:
            RunFolderError: a split, decoding or panel digest that cannot be part of a file name.
        """
        split, decoding, panel = record["split"], record["decoding"], record["panel_sha256"]
        for name in (split, decoding, panel):
            if not _NAME.fullmatch(name):
                raise RunFolderError(f"{name!r} cannot be part of a file name; use letters, digits and underscores")
        heat = float(record.get("temperature", 1.0))
        name = f"iter-{record['iteration']:06d}-{split}-{decoding}-{panel[:8]}-t{heat:g}.parquet"
        return self.path / "evaluations" / name

    def _remove_run(self) -> None:
        for folder in (self.path / "episodes", self.path / "evaluations", self.checkpoints, self.tensorboard):
            if folder.is_symlink():  # its target is outside the run folder
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)
        for file in (self.metrics_path, self.report, self.recipe_path):
            file.unlink(missing_ok=True)


def _finite(value: Any, key: str, nonfinite: list[str]) -> Any:
    """Return the value as plain JSON; add the names of numbers that are not finite to `nonfinite`."""
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
    """Truncate a file that is open for appending to its last newline."""
    end = file.seek(0, os.SEEK_END)
    if end == 0:
        return
    file.seek(end - 1)
    if file.read(1) == b"\n":
        return
    file.seek(0)
    file.truncate(file.read().rfind(b"\n") + 1)


def write_whole(path: Path, data: bytes) -> None:
    """Write a complete file or none; any failure is an `OSError`."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
