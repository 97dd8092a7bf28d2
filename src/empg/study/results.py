"""The results of a study: a folder that is small enough to commit, and from which every table and figure is made.

It has `study.yaml`, the study as it was run, and for each finished run a folder `<recipe>-<variant>-s<seed>/`: a run
folder with recipe.yaml, metrics.jsonl and evaluations/ alone, so that `empg compare` and `empg figure` read it. The
folder of a run that failed has the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from empg.errors import UserError
from empg.record.aggregate import Outcomes
from empg.record.durable import write_file
from empg.record.fields import finite
from empg.record.records import EvalRecord, Record, own_evaluations, train_records
from empg.record.runfolder import RunFolder
from empg.record.statistics import UNKNOWN, same_tasks
from empg.study.plan import RunKey, Study, load_study

_STUDY = "study.yaml"
FAILURE = "failed.txt"  # in the folder of a run that failed, in place of its results: the iteration and the message


@dataclass(frozen=True, slots=True)
class RunResult:
    """The results of one run: its records, and its own evaluations, which have the settings of its recipe."""

    key: RunKey
    folder: RunFolder
    records: list[Record]
    own: list[EvalRecord]

    def evaluations(self, split: str, decoding: str) -> list[EvalRecord]:
        """Return the run's own evaluations of a panel by iteration."""
        found = [r for r in self.own if (r["split"], r["decoding"]) == (split, decoding)]
        return sorted(found, key=lambda record: record["iteration"])

    def measured(self, split: str, decoding: str) -> tuple[int, object, str]:
        """Return the iteration, temperature and SHA-256 of the tasks of its last evaluation of a panel."""
        last = self.evaluations(split, decoding)[-1]
        return last["iteration"], last.get("temperature", "unknown"), str(last.get("panel_sha256"))

    @property
    def panels(self) -> list[tuple[str, str]]:
        """The (split, decoding) pairs of its own evaluations."""
        return list(dict.fromkeys((r["split"], r["decoding"]) for r in self.own))

    @property
    def rollouts(self) -> dict[int, float]:
        """Success of the training episodes by iteration, without those of which it is not known."""
        return {i: value for i, value in self._rollouts.items() if value is not None}

    @property
    def unknown_rollouts(self) -> int:
        """The number of iterations whose training success is not known."""
        return sum(value is None for value in self._rollouts.values())

    @property
    def _rollouts(self) -> dict[int, float | None]:
        found = {r["iteration"]: finite(r.get("rollout/success")) for r in train_records(self.records)}
        return dict(sorted(found.items()))

    @property
    def origin(self) -> Record:
        """The record of what began the run; empty if it is missing."""
        return next((r for r in self.records if r.get("kind") == "run"), {})


@dataclass(frozen=True, slots=True)
class Results:
    """The results of a study: the study, and its runs that are finished, in the order of the study."""

    folder: Path
    study: Study
    runs: list[RunResult]

    @property
    def failures(self) -> dict[str, str]:
        """Why runs failed, by their names; they have no results, and no table counts them."""
        files = {key.name: self.folder / key.name / FAILURE for key in self.study.keys}
        return {
            name: file.read_text(encoding="utf-8", errors="replace").strip()
            for name, file in files.items()
            if file.is_file() and not RunFolder(self.folder / name).exists
        }

    def of(self, recipe: str, variant: str, seeds: Iterable[int] | None = None) -> list[RunResult]:
        """Return the runs of a variant by seed, all or those with `seeds`."""
        wanted = None if seeds is None else set(seeds)
        runs = [r for r in self.runs if (r.key.recipe, r.key.variant) == (recipe, variant)]
        return sorted((r for r in runs if wanted is None or r.key.seed in wanted), key=lambda run: run.key.seed)

    def shared_seeds(self, recipes: Iterable[str], variants: Iterable[str]) -> set[int]:
        """Return the seeds that each of these variants has finished in each of these recipes."""
        names = list(variants)
        found = [{run.key.seed for run in self.of(recipe, variant)} for recipe in recipes for variant in names]
        return set.intersection(*found)

    @property
    def recipes(self) -> list[str]:
        """The labels of the recipes that have a run, in the order of the study."""
        return list(dict.fromkeys(run.key.recipe for run in self.runs))

    def of_recipe(self, recipe: str) -> list[RunResult]:
        """Return the runs of all variants of a recipe."""
        return [run for run in self.runs if run.key.recipe == recipe]

    def panels(self, recipe: str) -> list[tuple[str, str]]:
        """Return the (split, decoding) pairs on which all runs of a recipe were evaluated: `empg evaluate` adds others.

        They are of the study's splits, if it names some.
        """
        evaluated = [run.panels for run in self.of_recipe(recipe)]
        return [panel for panel in self._asked(evaluated[0]) if all(panel in of for of in evaluated)]

    def partial_panels(self, recipe: str) -> dict[tuple[str, str], int]:
        """Return the panels on which only some runs of a recipe were evaluated, with their number."""
        runs = self.of_recipe(recipe)
        counts = Counter(panel for run in runs for panel in self._asked(run.panels))
        return {panel: count for panel, count in counts.items() if count < len(runs)}

    def _asked(self, panels: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        return [panel for panel in panels if self.study.splits is None or panel[0] in self.study.splits]


def keep_study(source: Path, results: Path) -> None:
    """Copy the file of a study into the folder of its results.

    Raises:
        UserError: it cannot be read or written, or there are results of runs that this study does not have.
    """
    if (results / _STUDY).is_file():
        names = {key.name for key in load_study(source).keys}
        earlier = [key.name for key in load_study(results / _STUDY).keys]
        if others := [n for n in earlier if n not in names and RunFolder(results / n).exists]:
            raise UserError(
                f"{results} has results of {len(others)} runs that {source} does not have, {others[0]} among them: "
                "rename the study, choose another folder with --results, or remove these results"
            )
    try:
        content = source.read_bytes()
    except OSError as error:
        raise UserError(f"cannot read {source}: {error.strerror or error}") from None
    write_file(results / _STUDY, content)


def read_results(folder: Path) -> Results:
    """Read the results of a study; runs that have none yet are left out.

    Raises:
        UserError: the folder has no results, a file is damaged, or runs of a recipe were evaluated in different ways.
    """
    if not (folder / _STUDY).is_file():
        raise UserError(f"{folder} is not a folder of results: it has no {_STUDY}. Name one that empg study wrote")
    study = load_study(folder / _STUDY)
    runs = []
    for key in study.keys:
        if RunFolder(folder / key.name).exists:
            run = RunFolder.open(folder / key.name)
            records, problems = run.read_metrics_and_problems()
            if problems:  # without its last evaluation it would be compared at an earlier one
                raise UserError(f"{run.metrics_path} is cut off in its last line: restore it, or repeat the run")
            own = own_evaluations(records, run.recipe_values())
            if not own:
                raise UserError(f"{run.path} has no evaluation: repeat the run, or remove this folder")
            runs.append(RunResult(key, run, records, own))
    if not runs:
        raise UserError(f"{folder} has no results of a run yet: finish one with empg study")
    found = Results(folder, study, runs)
    for recipe in found.recipes:
        if not found.panels(recipe):
            wanted = f" of the splits {', '.join(study.splits)}" if study.splits else ""
            raise UserError(f"{folder}: there is no panel{wanted} on which all runs of {recipe} were evaluated")
        for panel in found.panels(recipe):
            _require_alike(found.of_recipe(recipe), panel)
    return found


def _require_alike(runs: Sequence[RunResult], panel: tuple[str, str]) -> None:
    """Reject runs whose last evaluations of a panel are at different iterations or temperatures, or on other tasks."""
    seen: dict[str, Path] = {}
    for run in runs:
        iteration, temperature, digest = run.measured(*panel)
        how = f"iteration {iteration}, temperature {temperature}, panel {digest:.12}"
        seen.setdefault(how, run.folder.path)
    if len(seen) > 1:
        (one, first), (other, second) = list(seen.items())[:2]
        raise UserError(f"{first} ({one}) and {second} ({other}) were evaluated in different ways: repeat one of them")


def outcomes(
    runs: Sequence[RunResult],
    panels: Sequence[tuple[str, str]],
    iteration: int | None = None,
    among: Sequence[RunResult] = (),
) -> Outcomes:
    """Return the outcomes of runs of one recipe on its panels, at an iteration; None is the last of each run.

    With several panels, their tasks stand side by side, and a type is one of a panel. `among` are more runs on the same
    panels: an episode whose environment failed at once has no type, but that of another run may.

    Raises:
        UserError: a run lacks an evaluation, or the runs were evaluated on different tasks.
    """
    if not runs:
        raise UserError("outcomes: expected at least one run, got none")
    scores: list[list[float]] = []
    types: list[str] = []
    tasks: list[str] = []
    for place, run in enumerate((*runs, *among)):
        if place >= len(runs) and all(types):
            break
        found = _tables(run, panels, iteration)
        if place and not same_tasks(tasks, found.tasks):
            one, other = runs[0].folder.path, run.folder.path
            raise UserError(f"{one} and {other} were evaluated on different tasks; evaluate both on the same panel")
        types = [known or new for known, new in zip(types or found.types, found.types, strict=True)]
        tasks = [known or new for known, new in zip(tasks or found.tasks, found.tasks, strict=True)]
        scores.append(found.scores)
    return Outcomes(np.array(scores[: len(runs)]), [kind or UNKNOWN for kind in types])


@dataclass(frozen=True, slots=True)
class _Tables:
    """The tables of one run's evaluations, one after the other."""

    scores: list[float]
    types: list[str]
    tasks: list[str]


def _tables(run: RunResult, panels: Sequence[tuple[str, str]], iteration: int | None) -> _Tables:
    found = _Tables([], [], [])
    for split, decoding in panels:
        records = [r for r in run.evaluations(split, decoding) if iteration in (None, r["iteration"])]
        if not records:
            when = "" if iteration is None else f" at iteration {iteration}"
            raise UserError(f"{run.folder.path} has no evaluation of {split} ({decoding}){when}; repeat the run")
        table = run.folder.read_evaluation(records[-1])
        found.scores.extend(float(win) for win in table["success"])
        found.types.extend(f"{split} {kind}" if kind and len(panels) > 1 else kind for kind in table["task_type"])
        found.tasks.extend(table["task_id"])
    return found
