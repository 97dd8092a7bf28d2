"""How quickly the variants of a study learn: the success of their training episodes."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from empg.record.aggregate import Estimate, first_reached
from empg.record.statistics import student_interval
from empg.report.svg import SMOOTHED
from empg.study.results import Results, RunResult
from empg.study.tables import Beside


@dataclass(frozen=True, slots=True, kw_only=True)
class Learning:
    """How quickly a variant learns.

    Attributes:
        variant: its name.
        seeds: runs.
        mean: success of the training episodes, averaged over all iterations and runs.
        beside: the difference of `mean` to the base and the control, by their names, over the seeds that both have.
        reached: runs that reach the target.
        median: iterations to the target; None if at most half of the runs reach it (of an odd number: fewer than half).
    """

    variant: str
    seeds: int
    mean: float
    beside: dict[str, Beside]
    reached: int
    median: float | None


def learning_rows(results: Results, recipe: str) -> list[Learning]:
    """Compare how quickly the variants learn.

    A run reaches the target of the study when the mean success of `SMOOTHED` iterations does.
    """
    rows = []
    for variant in results.study.variants:
        runs = results.of(recipe, variant)
        if not runs:
            continue
        counts = [first_reached(list(run.rollouts.values()), results.study.target, SMOOTHED) for run in runs]
        # A run that never reaches the target counts as infinitely slow.
        median = statistics.median([float("inf") if count is None else count for count in counts])
        rows.append(
            Learning(
                variant=variant,
                seeds=len(runs),
                mean=statistics.fmean(map(training_success, runs)),
                beside=_beside(results, recipe, variant),
                reached=sum(count is not None for count in counts),
                median=median if median < float("inf") else None,
            )
        )
    return rows


def training_success(run: RunResult) -> float:
    """Return the success of the training episodes of a run, averaged over its iterations; 0 if none is known."""
    values = list(run.rollouts.values())
    return statistics.fmean(values) if values else 0.0


def training_difference(base: Sequence[RunResult], runs: Sequence[RunResult]) -> Estimate:
    """Estimate the difference of `training_success` to the base, from runs of the same seeds in the same order.

    Returns:
        Its interval is Student's t over the seeds, of which there are at least two.
    """
    differences = [training_success(run) - training_success(other) for run, other in zip(runs, base, strict=True)]
    return Estimate(statistics.fmean(differences), *student_interval(differences))


def _beside(results: Results, recipe: str, variant: str) -> dict[str, Beside]:
    found = {}
    for base in results.study.references:
        seeds = results.shared_seeds([recipe], [base, variant])
        if base != variant and len(seeds) > 1:
            pair = results.of(recipe, base, seeds), results.of(recipe, variant, seeds)
            found[base] = Beside(len(seeds), training_difference(*pair))
    return found
