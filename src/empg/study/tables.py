"""The tables and curves of a study, from its results, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from empg.record.aggregate import (
    Estimate,
    Outcomes,
    improvement_probability,
    iqm_success,
    mean_success,
    paired_difference,
)
from empg.record.statistics import bootstrap_interval
from empg.report.svg import SMOOTHED, Line, Mark, running_mean
from empg.study.results import Results, RunResult, outcomes

Panels = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Beside:
    """The difference of a variant to another one, over the `seeds` that both have."""

    seeds: int
    difference: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A variant on some panels.

    Attributes:
        variant: its name.
        seeds: runs.
        mean: mean success.
        iqm: interquartile mean.
        beside: it beside the base and the control, by their names, where they have seeds in common.
        improvement: the probability that it improves on the base; None for the base, or without common seeds.
    """

    variant: str
    seeds: int
    mean: Estimate
    iqm: Estimate
    beside: dict[str, Beside]
    improvement: Estimate | None


@dataclass(frozen=True, slots=True)
class TypeRow:
    """A variant on one task type: runs, mean success, and it beside the base; None for the base, or without seeds."""

    variant: str
    seeds: int
    mean: Estimate
    beside: Beside | None


def success_rows(results: Results, panels: dict[str, Panels]) -> list[Row]:
    """Compare the variants on the panels of one or more recipes (by label). Variants without results are left out.

    With several recipes, only the seeds that a variant has finished in all of them count.
    """
    rows = []
    for variant in results.study.variants:
        own = results.shared_seeds(panels, [variant])
        if not own:
            continue
        of = [_outcomes(results, recipe, variant, shown, own) for recipe, shown in panels.items()]
        pairs = {base: _pairs(results, panels, base, variant) for base in results.study.references if base != variant}
        to_base = pairs.get(results.study.base)
        rows.append(
            Row(
                variant=variant,
                seeds=len(own),
                mean=mean_success(of),
                iqm=iqm_success(of),
                beside={b: Beside(len(p[0][0].scores), paired_difference(p)) for b, p in pairs.items() if p},
                improvement=improvement_probability(to_base) if to_base else None,
            )
        )
    return rows


def type_rows(results: Results, recipe: str, panels: Panels) -> dict[str, list[TypeRow]]:
    """Return the rows of each task type; variants without results are left out, as in `success_rows`."""
    found: dict[str, list[TypeRow]] = {}
    for variant in results.study.variants:
        if not results.of(recipe, variant):
            continue
        own = _outcomes(results, recipe, variant, panels)
        base = results.study.base
        pairs = [] if variant == base else _pairs(results, {recipe: panels}, base, variant)
        for kind in own.columns():
            halves = [(a.only(kind), b.only(kind)) for a, b in pairs]
            beside = Beside(len(halves[0][0].scores), paired_difference(halves)) if halves else None
            row = TypeRow(variant, len(own.scores), mean_success([own.only(kind)]), beside)
            found.setdefault(kind, []).append(row)
    return found


def before_training(results: Results, recipe: str, panels: Panels) -> Estimate | None:
    """Estimate the success before RL, which all variants share, from the runs of the base; None if it is not known."""
    runs = results.of(recipe, results.study.base)
    known = all(any(r["iteration"] == 0 for r in run.evaluations(*panel)) for run in runs for panel in panels)
    return mean_success([outcomes(runs, panels, 0)]) if runs and known else None


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
    """Return the mean over runs of the smoothed training success by iteration, and its interval with several runs.

    Runs whose training success is not known are left out.
    """
    smooth = [
        dict(zip(rollouts, running_mean(list(rollouts.values()), SMOOTHED), strict=True))
        for run in runs
        if (rollouts := run.rollouts)
    ]
    common = [i for i in smooth[0] if all(i in by for by in smooth)] if smooth else []
    values = {i: [by[i] for by in smooth] for i in common}
    band = {i: bootstrap_interval(of) for i, of in values.items()} if len(smooth) > 1 else {}
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
        tooltip = f"{name}, iteration {iteration}: {100 * found.value:.1f}% over {len(runs)} seeds, {interval}"
        marks[iteration] = Mark(found.value, found.low, found.high, tooltip)
    return marks


def _pairs(results: Results, panels: dict[str, Panels], base: str, variant: str) -> list[tuple[Outcomes, Outcomes]]:
    """Return (base, variant) for each recipe, with the seeds that both have finished in all of them."""
    seeds = results.shared_seeds(panels, [base, variant])
    if not seeds:
        return []
    return [
        (_outcomes(results, recipe, base, shown, seeds), _outcomes(results, recipe, variant, shown, seeds))
        for recipe, shown in panels.items()
    ]


def _outcomes(results: Results, recipe: str, variant: str, panels: Panels, seeds: set[int] | None = None) -> Outcomes:
    return outcomes(results.of(recipe, variant, seeds), panels, among=results.of_recipe(recipe))
