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
        mean: success of the training episodes, averaged over all iterations and runs; None if it is not known.
        beside: the difference of `mean` to the base and the control, by their names, over the seeds that both have.
        reached: runs that reach the target.
        median: iterations to the target; None if at most half of the runs reach it (of an odd number: fewer than half).
    """

    variant: str
    seeds: int
    mean: float | None
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
        counts = [_reached(run, results.study.target) for run in runs]
        # A run that never reaches the target counts as infinitely slow.
        median = statistics.median([float("inf") if count is None else count for count in counts])
        rows.append(
            Learning(
                variant=variant,
                seeds=len(runs),
                mean=_mean([known for run in runs if (known := training_success(run)) is not None]),
                beside=_beside(results, recipe, variant),
                reached=sum(count is not None for count in counts),
                median=median if median < float("inf") else None,
            )
        )
    return rows


def training_success(run: RunResult) -> float | None:
    """Return the success of the training episodes of a run, averaged over the iterations of which it is known.

    None if it is known of none.
    """
    return _mean(list(run.rollouts.values()))


def training_difference(base: Sequence[RunResult], runs: Sequence[RunResult]) -> Beside | None:
    """Estimate the difference of `training_success` to the base, from runs of the same seeds in the same order.

    Returns:
        The difference over the seeds of which it is known. Its interval is Student's t over the seeds; None if there
        are fewer than two.
    """
    pairs = [(training_success(run), training_success(other)) for run, other in zip(runs, base, strict=True)]
    differences = [own - others for own, others in pairs if own is not None and others is not None]
    if len(differences) < 2:
        return None
    return Beside(len(differences), Estimate(statistics.fmean(differences), *student_interval(differences)))


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _reached(run: RunResult, target: float) -> int | None:
    """Return the iteration at which a run reaches the target; None if never."""
    rollouts = run.rollouts
    count = first_reached(list(rollouts.values()), target, SMOOTHED)
    return None if count is None else list(rollouts)[count - 1]


def _beside(results: Results, recipe: str, variant: str) -> dict[str, Beside]:
    found = {}
    for base in results.study.references:
        seeds = results.shared_seeds([recipe], [base, variant])
        pair = results.of(recipe, base, seeds), results.of(recipe, variant, seeds)
        if base != variant and (beside := training_difference(*pair)) is not None:
            found[base] = beside
    return found
