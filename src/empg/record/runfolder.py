"""The folder of a run: the one place that defines where a run keeps its files.

    recipe.yaml                                       the complete, resolved recipe
    metrics.jsonl                                     one JSON object per line, in the order of events
    episodes/iter-000012.parquet                      one row per turn of the training rollouts (`tables.EPISODES`)
    evaluations/iter-000012-<split>-<decoding>-<panel>-t<temperature>.parquet
                                                      one row per episode of a panel (`tables.EVALUATIONS`)
    evaluations/<the same>.jsonl                      one line per episode, of an evaluation that can be resumed
    model.txt                                         the identity of the model that `empg evaluate` played, if known
    checkpoints/  tensorboard/  report.html  entropy.json
    .lock  .metrics.lock                              held by the process that trains, and by one that adds a line

Everything in it can be read without this package. Lines are added to `metrics.jsonl` and to `evaluations/*.jsonl`; the
other files are written under a temporary name and renamed, so a run that is killed leaves no partial file. Every file
is on the disk before a later one is written.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from empg.errors import message_of
from empg.record.durable import require_room, write_whole
from empg.record.errors import RunFolderError, os_errors_as
from empg.record.lines import json_line
from empg.record.lock import locked
from empg.record.metrics import METRICS_LOCK, append_record, metrics_lock, read_records
from empg.record.records import Record
from empg.record.tables import EPISODES, EVALUATIONS, read_table, write_table
from empg.yaml_text import read_yaml

START = "start"  # name of the checkpoint of the policy before reinforcement learning

_EPISODES = re.compile(r"iter-\d{6,}\.parquet")
_EVALUATION = re.compile(r"iter-\d{6,}-.+\.parquet")
_PLAYED = re.compile(r"iter-\d{6,}-.+\.jsonl")
_CHECKPOINT = re.compile(rf"{START}|iter-\d{{6,}}|trl|verl")
_EVENTS = re.compile(r"events\.out\.tfevents\..+")
_PARTIAL = re.compile(r"\..+\.(?:partial|replaced)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.]*")
_ROOM = 1 << 20  # bytes; the evaluation of 1,000 tasks takes about a tenth
_LOCK = ".lock"
_LOCK_WAIT = 2.0  # seconds; the children of a process that was killed end within this time


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, by its path. The constructor touches no file; `create` and `open` check the folder."""

    path: Path

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.path))

    @classmethod
    def create(cls, path: str | Path, recipe: str, *, force: bool = False) -> RunFolder:
        """Create the folder of a new run with its resolved recipe (YAML text).

        The folder may be missing or empty. `force` overwrites a run: the files of a run are removed, any other file is
        kept. A process that trains calls `reserve` and `hold` before.

        Raises:
            RunFolderError: the folder is not empty, or cannot be written.
        """
        run = cls.reserve(path, force=force)
        with os_errors_as(f"cannot create the run folder {run.path}"):
            run._remove_run()
            # In this order a folder without recipe.yaml has no records, and one with it is recognized as a run.
            write_whole(run.metrics_path, b"")
            write_whole(run.recipe_path, recipe.encode())
        return run

    @classmethod
    def reserve(cls, path: str | Path, *, force: bool = False) -> RunFolder:
        """Create an empty folder for a run if there is none, and change nothing else.

        Raises:
            RunFolderError: the folder has other files; it has a run and `force` is not set; it cannot be created.
        """
        run = cls(Path(path))
        with os_errors_as(f"cannot create the run folder {run.path}"):
            run._require_free(force)
            run.path.mkdir(parents=True, exist_ok=True)
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open the folder of an existing run.

        Raises:
            RunFolderError: it does not exist, is not a run folder, or cannot be read.
        """
        run = cls(Path(path))
        with os_errors_as(f"cannot read {run.path}"):
            if not run.path.is_dir():
                what = "is a file" if run.path.exists() else "does not exist"
                raise RunFolderError(f"{run.path} {what}; name the folder of a run")
            if not run.exists:
                raise RunFolderError(f"{run.path} is not a run folder: recipe.yaml is missing")
        return run

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the run, which exists, so that no other process trains into it during the block.

        Raises:
            UserError: another process holds it.
        """
        busy = f"{self.path} is in use by another empg process; wait until it has ended, or stop it"
        with locked(self.path / _LOCK, wait=_LOCK_WAIT, busy=busy):
            yield

    @property
    def exists(self) -> bool:
        """Whether the folder has a run: a recipe."""
        return self.recipe_path.is_file()

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
    def start(self) -> Path:
        """The checkpoint of the policy before reinforcement learning."""
        return self.checkpoints / START

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard event files."""
        return self.path / "tensorboard"

    @property
    def report(self) -> Path:
        """The page that `empg report` writes."""
        return self.path / "report.html"

    @property
    def entropy(self) -> Path:
        """The measurements that `empg entropy` writes."""
        return self.path / "entropy.json"

    @property
    def model(self) -> Path:
        """The identity of the model that `empg evaluate` played, if known."""
        return self.path / "model.txt"

    def recipe_text(self) -> str:
        """Return the resolved recipe as written (YAML).

        Raises:
            RunFolderError: the file cannot be read.
        """
        try:
            return self.recipe_path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunFolderError(f"cannot read {self.recipe_path}: {message_of(error)}") from None

    def recipe_values(self, text: str | None = None) -> dict[str, Any]:
        """Return the resolved recipe as a mapping; `text` is what `recipe_text` returned, None reads the file.

        Raises:
            RunFolderError: the file cannot be read, or is not a mapping.
        """
        values = read_yaml(self.recipe_text() if text is None else text, str(self.recipe_path))
        if not isinstance(values, dict):
            got = "nothing" if values is None else f"a {type(values).__name__}"
            raise RunFolderError(f"{self.recipe_path} is damaged: expected a mapping, got {got}")
        return values

    def replace_recipe(self, text: str) -> None:
        """Replace the resolved recipe, after a change at a resume."""
        with os_errors_as(f"cannot write {self.recipe_path}"):
            write_whole(self.recipe_path, text.encode())

    # --- metrics.jsonl ---------------------------------------------------------------------------------------------

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Append one record as one line and wait until it is on the disk. Several processes may append.

        JSON has no NaN: numbers that are not finite are written as null and their keys listed under `nonfinite`.
        An incomplete last line, left by a kill, is removed first, so no line but the last can be damaged.

        Raises:
            RunFolderError: the line cannot be written (for example, the disk is full).
        """
        append_record(self.metrics_path, record)

    def read_metrics(self) -> list[Record]:
        """Return all records, in the order in which they were written.

        An incomplete last line, left by a kill, is skipped.

        Raises:
            RunFolderError: the file cannot be read, a line before the last is not a JSON object, or a record lacks a
                field that its readers rely on, or has it with another type (`fields.py`).
        """
        return self.read_metrics_and_problems()[0]

    def read_metrics_and_problems(self) -> tuple[list[Record], list[str]]:
        """Return what `read_metrics` does, and what it left out, in words; nothing if the file is complete."""
        lines, problems = read_records(self.metrics_path)
        return [record for _, record in lines], problems

    def rewind(self, iteration: int) -> None:
        """Remove what was written after `iteration`, so that a run resumed from there continues as if never killed.

        Records with a greater `iteration` are removed, those without one (`run`, `warm_start`, `resume`) are kept; the
        kept lines do not change by a byte. Files of later iterations are removed. `-1` also removes the evaluation
        before training (iteration 0).
        """
        with os_errors_as(f"cannot write {self.path}"):
            with metrics_lock(self.metrics_path):
                lines, _ = read_records(self.metrics_path)
                kept = [line for line, record in lines if record.get("iteration", iteration) <= iteration]
                write_whole(self.metrics_path, b"".join(kept))
            for file in (*_matching(self._episodes, _EPISODES), *_matching(self._evaluations, _EVALUATION, _PLAYED)):
                if int(re.split("[-.]", file.name)[1]) > iteration:
                    file.unlink()

    def copy_records(self, source: RunFolder, iteration: int) -> None:
        """Replace the records and tables, of which there are none yet, by those of another run up to `iteration`."""
        with os_errors_as(f"cannot copy {source.path} to {self.path}"):
            for folder in (source._episodes, source._evaluations):
                for file in _matching(folder, _EPISODES, _EVALUATION):
                    target = self.path / folder.name / file.name
                    target.parent.mkdir(exist_ok=True)
                    write_whole(target, file.read_bytes())
            write_whole(self.metrics_path, source.metrics_path.read_bytes())
        self.rewind(iteration)

    def copy_summary(self, target: Path) -> None:
        """Write what is needed to report the run into a folder: recipe, metrics and evaluations, no turns or weights.

        The records of warm-start steps are left out. The result is small, and is itself a run folder.
        """
        lines = [json_line(record) for record in self.read_metrics() if record.get("kind") != "warm_start"]
        with os_errors_as(f"cannot copy {self.path} to {target}"):
            (target / self._evaluations.name).mkdir(parents=True, exist_ok=True)
            for file in _matching(self._evaluations, _EVALUATION):
                write_whole(target / file.parent.name / file.name, file.read_bytes())
            write_whole(target / self.metrics_path.name, b"".join(lines))
            write_whole(target / self.recipe_path.name, self.recipe_path.read_bytes())

    # --- tables ----------------------------------------------------------------------------------------------------

    def write_episodes(self, iteration: int, columns: Mapping[str, Sequence[Any]]) -> Path:
        """Write the turns of an iteration, one row per turn (`tables.EPISODES`); a missing column is all null."""
        return write_table(self.episodes_path(iteration), EPISODES, columns)

    def read_episodes(self, iteration: int) -> dict[str, list[Any]]:
        """Return the turns of an iteration by column."""
        return read_table(self.episodes_path(iteration))

    def episodes_path(self, iteration: int) -> Path:
        """Return the path of the turns of an iteration."""
        return self._episodes / f"iter-{iteration:06d}.parquet"

    def episode_iterations(self) -> list[int]:
        """Return the iterations that have an episodes file, in order.

        Raises:
            RunFolderError: the folder of these files cannot be read.
        """
        return sorted(int(file.stem.removeprefix("iter-")) for file in _matching(self._episodes, _EPISODES))

    def write_evaluation(self, record: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Path:
        """Write the episodes of an evaluation (given by its record) in panel order, one row per episode."""
        names = list(rows[0]) if rows else []
        columns = {name: [row.get(name) for row in rows] for name in names}
        return write_table(self.evaluation_path(record), EVALUATIONS, columns)

    def read_evaluation(self, record: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Return the episodes of an evaluation (given by its record) by column, in panel order."""
        required = [EVALUATIONS.field(name) for name in ("task_id", "task_type", "success")]
        return read_table(self.evaluation_path(record), required)

    def played_path(self, record: Mapping[str, Any]) -> Path:
        """Return the path of the episodes that were kept while an evaluation was played (`played.py`)."""
        return self.evaluation_path(record).with_suffix(".jsonl")

    def has_played(self) -> bool:
        """Whether an episode of an evaluation that can be resumed was kept."""
        return bool(_matching(self._evaluations, _PLAYED))

    def evaluation_path(self, record: Mapping[str, Any]) -> Path:
        """Return the path of the episodes of an evaluation (given by its record); it contains all that identifies it.

        Raises:
            RunFolderError: a decoding or panel digest that cannot be part of a file name. A split may have any name.
        """
        decoding, panel = record["decoding"], record["panel_sha256"]
        for name in (decoding, panel):
            if not _NAME.fullmatch(name):
                raise RunFolderError(f"{name!r} cannot be part of a file name; use letters, digits and underscores")
        heat = float(record.get("temperature", 1.0))
        split = quote(record["split"], safe="", errors="replace")[:120]  # the panel's digest tells longer ones apart
        name = f"iter-{record['iteration']:06d}-{split}-{decoding}-{panel[:8]}-t{heat:g}.parquet"
        return self._evaluations / name

    def require_evaluable(self) -> None:
        """Check that the records can be read and an evaluation can be written, before one is played.

        Raises:
            RunFolderError: a record is damaged, a file cannot be written, or the disk is full.
        """
        self.read_metrics()
        with os_errors_as(f"cannot write {self.metrics_path}"), metrics_lock(self.metrics_path):
            self.metrics_path.open("ab").close()
        with os_errors_as(f"cannot write {self._evaluations}"):
            self._evaluations.mkdir(exist_ok=True)
            require_room(self._evaluations, _ROOM)

    @property
    def _episodes(self) -> Path:
        return self.path / "episodes"

    @property
    def _evaluations(self) -> Path:
        return self.path / "evaluations"

    # --- what may be overwritten --------------------------------------------------------------------------------------

    def _require_free(self, force: bool) -> None:
        """Raise an error unless the folder is missing or empty, or has a run that `force` may overwrite."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(f"{self.path} is a file, not a folder; name another folder for the run")
        if not self.path.is_dir():
            return
        if self._is_run():
            if not force:
                raise RunFolderError(
                    f"{self.path} already holds a run; use --resume to continue, --force to overwrite, "
                    "or name another folder"
                )
        elif any(not self._is_leftover(entry) for entry in self.path.iterdir()):
            raise RunFolderError(f"{self.path} is not empty and is not a run folder; name another folder")

    def _is_run(self) -> bool:
        """Whether this package wrote the folder: it has a recipe and, in `metrics.jsonl`, nothing or records."""
        if any(file.is_symlink() or not file.is_file() for file in (self.recipe_path, self.metrics_path)):
            return False
        with self.metrics_path.open("rb") as file:
            start = file.read(len(_RECORD))
        return _RECORD.startswith(start)

    def _is_leftover(self, entry: Path) -> bool:
        """Whether a file is all that a run left which was killed when its folder was created."""
        if entry.name == self.metrics_path.name:
            return entry.is_file() and entry.stat().st_size == 0
        return entry.name in (_LOCK, METRICS_LOCK) or _PARTIAL.fullmatch(entry.name) is not None

    def _remove_run(self) -> None:
        """Remove what a run wrote, by name; the recipe and the metrics are replaced afterwards."""
        folders = {
            self._episodes: (_EPISODES,),
            self._evaluations: (_EVALUATION, _PLAYED),
            self.checkpoints: (_CHECKPOINT,),
            self.tensorboard: (_EVENTS,),
        }
        for folder, names in folders.items():
            if folder.is_symlink():  # its target is outside the run folder
                folder.unlink()
                continue
            for entry in _matching(folder, *names, _PARTIAL):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()
            with suppress(OSError):  # it has files that are not of a run
                folder.rmdir()
        for file in (self.report, self.entropy, self.model):
            file.unlink(missing_ok=True)


_RECORD = b'{"kind":'  # how a line of metrics.jsonl begins


def _matching(folder: Path, *names: re.Pattern[str]) -> list[Path]:
    """Return what is in a folder under one of these names; nothing if the folder does not exist."""
    with os_errors_as(f"cannot read {folder}"):
        entries = sorted(folder.iterdir()) if folder.is_dir() else []
    return [entry for entry in entries if any(name.fullmatch(entry.name) for name in names)]
