"""The tables and curves of a study, from its results, as plain data."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from empg.record.aggregate import (
    Estimate,
    Outcomes,
    first_reached,
    improvement_probability,
    iqm_success,
    mean_success,
    paired_difference,
)
from empg.record.records import train_records
from empg.record.statistics import bootstrap_interval
from empg.report.figure import SMOOTHED, Line, Mark, running_mean
from empg.study.results import Results, RunResult, outcomes

Panels = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A variant on some panels; what compares it with the base is None for the base itself, or without shared seeds.

    `pairs` is the number of seeds that the comparison has.
    """

    variant: str
    seeds: int
    pairs: int
    mean: Estimate
    iqm: Estimate
    difference: Estimate | None
    improvement: Estimate | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """How many iterations a variant takes to the target; `median` is None if at most half of the runs reach it.

    (Of an odd number, if fewer than half do.)
    """

    variant: str
    seeds: int
    reached: int
    median: float | None


def success_rows(results: Results, panels: dict[str, Panels]) -> list[Row]:
    """Compare the variants on the panels of one or more recipes (by label). Variants without results are left out.

    With several recipes, only the seeds that a variant has finished in all of them count.
    """
    rows = []
    for variant in results.study.variants:
        own = _shared_seeds(results, list(panels), [variant])
        if not own:
            continue
        of = [_outcomes(results, recipe, variant, shown, own) for recipe, shown in panels.items()]
        pairs = [] if variant == results.study.base else _pairs(results, panels, variant)
        rows.append(
            Row(
                variant=variant,
                seeds=len(own),
                pairs=len(pairs[0][0].scores) if pairs else 0,
                mean=mean_success(of),
                iqm=iqm_success(of),
                difference=paired_difference(pairs) if pairs else None,
                improvement=improvement_probability(pairs) if pairs else None,
            )
        )
    return rows


def type_rows(results: Results, recipe: str, panels: Panels) -> dict[str, list[tuple[str, Estimate, Estimate | None]]]:
    """Return, by task type, each variant with its mean and its paired difference to the base, as in `success_rows`."""
    found: dict[str, list[tuple[str, Estimate, Estimate | None]]] = {}
    for variant in results.study.variants:
        if not results.of(recipe, variant):
            continue
        own = _outcomes(results, recipe, variant, panels)
        pairs = [] if variant == results.study.base else _pairs(results, {recipe: panels}, variant)
        for kind in own.columns():
            halves = [(a.only(kind), b.only(kind)) for a, b in pairs]
            difference = paired_difference(halves) if halves else None
            found.setdefault(kind, []).append((variant, mean_success([own.only(kind)]), difference))
    return found


def before_training(results: Results, recipe: str, panels: Panels) -> Estimate | None:
    """Estimate the success before RL, which all variants share, from the runs of the base; None if it is not known."""
    runs = results.of(recipe, results.study.base)
    known = all(any(r["iteration"] == 0 for r in run.evaluations(*panel)) for run in runs for panel in panels)
    return mean_success([outcomes(runs, panels, 0)]) if runs and known else None


def iterations_to_target(results: Results, recipe: str) -> list[Reached]:
    """Count iterations until the mean success of the training episodes of `SMOOTHED` iterations reaches the target."""
    rows = []
    for variant in results.study.variants:
        counts = [
            first_reached(list(_rollouts(run).values()), results.study.target, SMOOTHED)
            for run in results.of(recipe, variant)
        ]
        reached = [count for count in counts if count is not None]
        if counts:
            # A run that never reaches the target counts as infinitely slow.
            median = statistics.median([float("inf") if count is None else count for count in counts])
            shown = median if median < float("inf") else None
            rows.append(Reached(variant=variant, seeds=len(counts), reached=len(reached), median=shown))
    return rows


def curves(results: Results, recipe: str, split: str, decoding: str) -> list[Line]:
    """Return one line per variant: the mean over seeds of the smoothed training success, and the evaluations.

    The band is the 95% bootstrap interval over seeds. Dots are means over seeds and tasks with their interval.
    """
    lines = []
    for variant in results.study.variants:
        if runs := results.of(recipe, variant):
            means, band = _training(runs)
            lines.append(Line(variant, smooth=means, band=band, marks=_marks(runs, variant, split, decoding)))
    return lines


def variant_curves(results: Results, recipe: str, variant: str) -> list[Line]:
    """Return the curves of one variant: its training success with the band over seeds, and one line of dots per panel.

    The variant must have a run.
    """
    runs = results.of(recipe, variant)
    means, band = _training(runs)
    panels = results.panels(recipe)
    dots = [
        Line(f"{split} ({decoding})", marks=_marks(runs, f"{variant}, {split}", split, decoding))
        for split, decoding in panels
    ]
    return [Line("training episodes", smooth=means, band=band), *dots]


def _training(runs: Sequence[RunResult]) -> tuple[dict[int, float], dict[int, tuple[float, float]]]:
    """Return the mean over runs of the smoothed training success by iteration, and its interval with several runs."""
    smooth: list[dict[int, float]] = []
    for run in runs:
        rollouts = _rollouts(run)
        smooth.append(dict(zip(rollouts, running_mean(list(rollouts.values()), SMOOTHED), strict=True)))
    common = [i for i in smooth[0] if all(i in by for by in smooth)]
    values = {i: [by[i] for by in smooth] for i in common}
    band = {i: bootstrap_interval(of) for i, of in values.items()} if len(runs) > 1 else {}
    return {i: sum(of) / len(of) for i, of in values.items()}, band


def _marks(runs: Sequence[RunResult], name: str, split: str, decoding: str) -> dict[int, Mark]:
    """Return the evaluations of a panel that all runs have, by iteration, as means over seeds and tasks.

    `name` begins their tooltips.
    """
    evaluated = [{r["iteration"] for r in run.evaluations(split, decoding)} for run in runs]
    marks = {}
    for iteration in sorted(set.intersection(*evaluated)):
        found = mean_success([outcomes(runs, [(split, decoding)], iteration)])
        interval = f"95% interval {100 * found.low:.1f} to {100 * found.high:.1f}%"
        says = f"{name}, iteration {iteration}: {100 * found.value:.1f}% over {len(runs)} seeds, {interval}"
        marks[iteration] = Mark(found.value, found.low, found.high, says)
    return marks


def _pairs(results: Results, panels: dict[str, Panels], variant: str) -> list[tuple[Outcomes, Outcomes]]:
    """Return (base, variant) for each recipe, with the seeds that both have finished in all of them."""
    base = results.study.base
    seeds = _shared_seeds(results, list(panels), [base, variant])
    if not seeds:
        return []
    return [
        (_outcomes(results, recipe, base, shown, seeds), _outcomes(results, recipe, variant, shown, seeds))
        for recipe, shown in panels.items()
    ]


def _outcomes(results: Results, recipe: str, variant: str, panels: Panels, seeds: set[int] | None = None) -> Outcomes:
    return outcomes(results.of(recipe, variant, seeds), panels, among=results.of_recipe(recipe))


def _shared_seeds(results: Results, recipes: Sequence[str], variants: Sequence[str]) -> set[int]:
    found = [{run.key.seed for run in results.of(recipe, variant)} for recipe in recipes for variant in variants]
    return set.intersection(*found)


def _rollouts(run: RunResult) -> dict[int, float]:
    found = {r["iteration"]: r.get("rollout/success") for r in train_records(run.records)}
    return {i: float(value) for i, value in sorted(found.items()) if value is not None}
