"""The results of a study: a folder that is small enough to commit, and from which every table and figure is made.

It has `study.yaml`, the study as it was run, and for each finished run a folder `<recipe>-<variant>-s<seed>/`: a run
folder with recipe.yaml, metrics.jsonl and evaluations/ alone, so that `empg compare` and `empg figure` read it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from empg.errors import UserError
from empg.record.aggregate import Outcomes
from empg.record.durable import write_whole
from empg.record.records import EvalRecord, Record, eval_records, own_evaluations
from empg.record.runfolder import RunFolder
from empg.record.statistics import UNKNOWN, same_tasks
from empg.study.plan import RunKey, Study, load_study

_STUDY = "study.yaml"


@dataclass(frozen=True, slots=True)
class RunResult:
    """The results of one run: its records, and the rows of its evaluations."""

    key: RunKey
    folder: RunFolder
    records: list[Record]

    def evaluations(self, split: str, decoding: str) -> list[EvalRecord]:
        """Return the run's own evaluations of a panel by iteration."""
        found = [r for r in own_evaluations(self.records) if (r["split"], r["decoding"]) == (split, decoding)]
        return sorted(found, key=lambda record: record["iteration"])

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

    def of(self, recipe: str, variant: str, seeds: Iterable[int] | None = None) -> list[RunResult]:
        """Return the runs of a variant by seed, all or those with `seeds`."""
        wanted = None if seeds is None else set(seeds)
        runs = [r for r in self.runs if (r.key.recipe, r.key.variant) == (recipe, variant)]
        return sorted((r for r in runs if wanted is None or r.key.seed in wanted), key=lambda run: run.key.seed)

    @property
    def recipes(self) -> list[str]:
        """The labels of the recipes that have a run, in the order of the study."""
        return list(dict.fromkeys(run.key.recipe for run in self.runs))

    def panels(self, recipe: str) -> list[tuple[str, str]]:
        """Return the evaluated (split, decoding) pairs of a recipe, of the study's splits if it names some."""
        runs = [run for run in self.runs if run.key.recipe == recipe]
        found = dict.fromkeys((r["split"], r["decoding"]) for run in runs for r in eval_records(run.records))
        return [pair for pair in found if self.study.splits is None or pair[0] in self.study.splits]


def keep_study(source: Path, results: Path) -> None:
    """Copy the file of a study into the folder of its results.

    Raises:
        UserError: it cannot be read or written.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
        write_whole(results / _STUDY, source.read_bytes())
    except OSError as error:
        raise UserError(f"cannot write {results}: {error.strerror or error}") from None


def read_results(folder: Path) -> Results:
    """Read the results of a study; runs that have none yet are left out.

    Raises:
        UserError: the folder has no results, or a file is damaged.
    """
    study = load_study(folder / _STUDY)
    runs = []
    for key in study.keys:
        if (folder / key.name / "recipe.yaml").is_file():
            run = RunFolder.open(folder / key.name)
            runs.append(RunResult(key, run, run.read_metrics()))
    if not runs:
        raise UserError(f"{folder} has no results of a run yet: finish one with empg study")
    return Results(folder, study, runs)


def outcomes(runs: Sequence[RunResult], panels: Sequence[tuple[str, str]], iteration: int | None = None) -> Outcomes:
    """Return the outcomes of runs of one recipe on its panels, at an iteration; None is the last of each run.

    With several panels, their tasks stand side by side, and a type is one of a panel.

    Raises:
        UserError: a run lacks an evaluation, or the runs were evaluated on different tasks.
    """
    rows, kinds = [], None
    for run in runs:
        scores: list[float] = []
        types: list[str] = []
        tasks: list[str] = []
        for split, decoding in panels:
            found = [r for r in run.evaluations(split, decoding) if iteration in (None, r["iteration"])]
            if not found:
                when = "" if iteration is None else f" at iteration {iteration}"
                raise UserError(f"{run.folder.path} has no evaluation of {split} ({decoding}){when}; repeat the run")
            table = run.folder.read_evaluation(found[-1])
            scores += [float(win) for win in table["success"]]
            types += [f"{split} {kind}" if kind and len(panels) > 1 else kind for kind in table["task_type"]]
            tasks += table["task_id"]
        if kinds is not None and not same_tasks(kinds[1], tasks):
            one, other = runs[0].folder.path, run.folder.path
            raise UserError(f"{one} and {other} were evaluated on different tasks; evaluate both on the same panel")
        if kinds is not None:  # an episode whose reset failed has no type and name, but that of another run may
            types = [known or new for known, new in zip(kinds[0], types, strict=True)]
            tasks = [known or new for known, new in zip(kinds[1], tasks, strict=True)]
        kinds = types, tasks
        rows.append(scores)
    if kinds is None:
        raise UserError("outcomes: expected at least one run, got none")
    return Outcomes(np.array(rows), [kind or UNKNOWN for kind in kinds[0]])
