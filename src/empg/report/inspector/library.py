"""The runs that the inspector shows, read from their files when a page asks for them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from threading import RLock
from typing import Any

import pyarrow as pa

from empg.errors import UserError
from empg.record.fields import finite
from empg.record.loading import LoadedRun, episodes_of, grouped
from empg.record.records import Record
from empg.record.runfolder import RunFolder
from empg.record.tables import EPISODES
from empg.report.inspector.tokens import TokenTexts, tokenizer_path
from empg.report.markup import short
from empg.report.names import names_of
from empg.report.turns import Row

MAX_NAME = 100  # characters of the name of a rule or an option
_TABLES_KEPT = 48  # tables of steps in memory; the least recently used is dropped first
_State = tuple[int, int]  # time of the last change in ns, size in bytes
_ABSENT: _State = (0, 0)


class InspectedRun:
    """One run. A file is read again when it has changed, so pages follow a run that trains."""

    def __init__(self, folder: RunFolder, number: int, name: str) -> None:
        self.folder, self.number, self.name = folder, number, name
        self._steps: OrderedDict[tuple[int, _State], pa.Table] = OrderedDict()
        self._episodes: dict[int, tuple[_State, list[Row]]] = {}
        self._recipe: tuple[_State, dict[str, Any]] | None = None
        self._tokens: tuple[_State, TokenTexts] | None = None
        self._problems: dict[Path, tuple[_State, list[str]]] = {}
        self._reading = RLock()  # requests are answered in several threads

    @property
    def problems(self) -> list[str]:
        """What is wrong with files that were read and have not changed since, in words."""
        with self._reading:
            return [p for path, (state, found) in self._problems.items() if state == _state(path) for p in found]

    def problems_of(self, iteration: int) -> list[str]:
        """Return what is wrong with the file of an iteration, or with its folder, in words, if they were read."""
        file = self.folder.episodes_path(iteration)
        with self._reading:
            return [p for path in (file.parent, file) for p in self._problems.get(path, (_ABSENT, []))[1]]

    def iterations(self) -> list[int]:
        """Return the iterations that have kept episodes; none if their folder cannot be read."""
        path = self.folder.episodes_path(0).parent
        with self._reading:
            try:
                found, problems = self.folder.episode_iterations(), []
            except UserError as error:
                found, problems = [], [str(error)]
            self._note(path, _state(path), problems)
        return found

    def steps(self, iteration: int) -> pa.Table:
        """Return the steps of an iteration; no rows if nothing was kept of it, or if its file is damaged."""
        key = self._key(iteration)
        with self._reading:
            # An address can name any iteration, which is not a problem of the run.
            if key[1] == _ABSENT and iteration not in self.iterations():
                return EPISODES.empty_table()
            if key not in self._steps:
                loaded = LoadedRun(self.folder)
                self._steps[key] = loaded.steps_of(iteration)
                self._note(self.folder.episodes_path(iteration), key[1], loaded.problems)
            self._steps.move_to_end(key)
            while len(self._steps) > _TABLES_KEPT:
                self._steps.popitem(last=False)
            return self._steps[key]

    def episodes(self) -> list[Row]:
        """Return all kept episodes of all iterations, one row per episode, with the number of the run as `run`."""
        with self._reading:
            before, self._episodes = self._episodes, {}  # what has changed or is gone since is kept no longer
            for iteration in self.iterations():
                _, state = self._key(iteration)
                known, rows = before.get(iteration, (None, []))
                if known != state:
                    rows = [{**row, "run": self.number} for row in episodes_of(self.steps(iteration)).to_pylist()]
                self._episodes[iteration] = state, rows
            return [row for _, rows in self._episodes.values() for row in rows]

    def turns(self, iteration: int) -> list[list[Row]]:
        """Return the episodes of an iteration as lists of steps."""
        return grouped(self.steps(iteration).to_pylist())

    def records(self) -> list[Record]:
        """Return the records of the run; none if the file is damaged, which `problems` says."""
        with self._reading:
            path = self.folder.metrics_path
            state = _state(path)
            try:
                records, found = self.folder.read_metrics_and_problems()
            except UserError as error:
                records, found = [], [str(error)]
            self._note(path, state, found)
        return records

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe; empty if it cannot be read."""
        with self._reading:
            path = self.folder.recipe_path
            state = _state(path)
            if self._recipe is None or self._recipe[0] != state:
                values, found = {}, []
                try:
                    values = self.folder.recipe_values()
                except UserError as error:
                    found = [str(error)]
                self._recipe = state, values
                self._note(path, state, found)
            return self._recipe[1]

    @property
    def modulation(self) -> tuple[str, dict[str, Any]]:
        """The name of the modulation and its options; "" for a plain base algorithm, "?" if the recipe has none."""
        credit = self.recipe.get("credit")
        if not isinstance(credit, dict) or "modulation" not in credit:
            return "?", {}
        found = credit["modulation"]
        if found is None:
            return "", {}
        if not isinstance(found, dict) or not isinstance(found.get("name"), str):
            return "?", {}
        options = {short(str(k), MAX_NAME): _simple(v) for k, v in found.items() if k != "name"}
        return short(found["name"], MAX_NAME), options

    @property
    def tokens(self) -> TokenTexts:
        """The texts of token ids."""
        with self._reading:
            state = _state(tokenizer_path(self.folder))
            if self._tokens is None or self._tokens[0] != state:
                self._tokens = state, TokenTexts(self.folder)
            return self._tokens[1]

    def _key(self, iteration: int) -> tuple[int, _State]:
        return iteration, _state(self.folder.episodes_path(iteration))

    def _note(self, path: Path, state: _State, found: list[str]) -> None:
        """Replace what is known to be wrong with a file."""
        self._problems.pop(path, None)
        if found:
            self._problems[path] = state, found


def _state(path: Path) -> _State:
    """Return what changes when a file is written."""
    try:
        found = path.stat()
    except OSError:
        return _ABSENT
    return found.st_mtime_ns, found.st_size


def _simple(value: Any) -> float | bool | str:
    """Return an option as the page can compare it; what is not a finite number or a bool is its text."""
    number = finite(value)
    return number if number is not None else value if isinstance(value, bool) else short(str(value), MAX_NAME)


def open_runs(folders: Sequence[RunFolder]) -> list[InspectedRun]:
    """Open runs, in the order in which pages number them.

    Raises:
        UserError: a run is named twice.
    """
    names = names_of(folders)
    return [
        InspectedRun(folder, number, name) for number, (folder, name) in enumerate(zip(folders, names, strict=True))
    ]
