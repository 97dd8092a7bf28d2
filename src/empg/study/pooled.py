"""Pairs of variants over several studies: the runs of one recipe and seed, whichever studies they belong to.

Two variants may have more seeds in common over all studies than in any one of them: a later study adds seeds, or an
algorithm from the same start policies, without repeating the base.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from empg.recipe.recorded import CHANGES_NO_NUMBER, Values, completed, flat, of_the_start
from empg.record.aggregate import Estimate, improvement_probability, paired_difference
from empg.record.statistics import PLAYED
from empg.study.learning import training_difference
from empg.study.results import Results, RunResult, outcomes
from empg.study.tables import Beside

LEAST_SEEDS = 3  # of a pair: the interval of fewer says nothing
Panels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledRow:
    """A variant beside another one on all panels of a recipe; `seeds` is the number of pairs of runs.

    `learning` is the difference of the success during training; None if it is known of fewer than two pairs.
    """

    recipe: str
    variant: str
    base: str
    studies: tuple[str, ...]
    seeds: int
    difference: Estimate
    improvement: Estimate
    learning: Beside | None


@dataclass(slots=True)
class _Variant:
    """The runs of a variant by seed, and the studies that have each: a study may have those of another."""

    name: str
    is_base: bool = False
    runs: dict[int, RunResult] = field(default_factory=dict)
    studies: dict[int, list[str]] = field(default_factory=dict)

    def of_study(self, study: str) -> set[int]:
        return {seed for seed, studies in self.studies.items() if study in studies}


def pooled_rows(studies: Sequence[Results]) -> list[PooledRow]:
    """Compare the pairs of variants that have more seeds in common over all studies than in any single one.

    Pairs with fewer than `LEAST_SEEDS` are left out.

    The second of a pair is the base or the control of a study. A variant is known by the values of its recipe: where
    two studies give one name to different ones, the name of the later has its study before it. Runs are compared only
    if they start from the same policy, and were evaluated at the same iteration, on the same panels, with the same
    settings.
    """
    return [
        row
        for (recipe, panels, *_), variants in _pools(studies).items()
        for base, variant in _pairs(list(variants.values()))
        if (row := _row(recipe, panels, base, variant)) is not None
    ]


_Recipe = str  # values of a recipe as JSON
_Pool = tuple[str, Panels, tuple[object, ...], _Recipe]  # recipe, panels, how they were evaluated, start and play
# The seed pairs the runs, and the panels have their own digests. `algorithm` names values that the recipe has anyway.
# The day and the device are those on which the run was made, and slots are chosen for its memory; an earlier version
# recorded the device as `auto`.
_ASIDE = {*CHANGES_NO_NUMBER, "seed", "algorithm", "agent.date", "policy.device", "rollout.slots"}


def _compared(run: RunResult) -> dict[str, object]:
    """Return the values of a run's recipe that tell its variant from others, by their paths."""
    values = flat(completed(run.folder.recipe_values()))
    return {path: value for path, value in values.items() if path not in _ASIDE and not path.startswith("evaluation.")}


def _start_and_play(values: Values) -> dict[str, object]:
    """Return the values that decide the policy before RL and how a panel is played: its success, before any training.

    The recipe file is not among them: the values that result are what counts, and a file may change between studies.
    """
    return of_the_start(values) | {key: values[key] for key in PLAYED if key in values}


def _pools(studies: Sequence[Results]) -> dict[_Pool, dict[_Recipe, _Variant]]:
    """Return the variants by what makes their runs comparable, in the order of the studies."""
    pools: dict[_Pool, dict[_Recipe, _Variant]] = {}
    for results in studies:
        study = results.study
        for recipe in results.recipes:
            panels, runs = tuple(results.panels(recipe)), results.of_recipe(recipe)
            how = tuple(runs[0].measured(*panel) for panel in panels)  # as all of them: `read_results` requires it
            for run in runs:
                values = _compared(run)
                start, own = (json.dumps(of, sort_keys=True, default=str) for of in (_start_and_play(values), values))
                pool = pools.setdefault((recipe, panels, how, start), {})
                if own not in pool:
                    taken = {variant.name for variant in pool.values()}
                    name = run.key.variant
                    pool[own] = _Variant(name if name not in taken else f"{study.name}: {name}")
                variant = pool[own]
                variant.is_base |= run.key.variant in study.references
                variant.runs.setdefault(run.key.seed, run)
                variant.studies.setdefault(run.key.seed, []).append(study.name)
    return pools


def _pairs(variants: Sequence[_Variant]) -> list[tuple[_Variant, _Variant]]:
    """Return (base, variant), each two variants once: the base of the earlier study is the base."""
    bases = [variant for variant in variants if variant.is_base]
    return [
        (base, variant)
        for base, variant in product(bases, variants)
        if variant is not base and variant not in bases[: bases.index(base)]
    ]


def _row(recipe: str, panels: Panels, base: _Variant, variant: _Variant) -> PooledRow | None:
    seeds = sorted(base.runs.keys() & variant.runs.keys())
    every = {name for of in (base, variant) for seed in seeds for name in of.studies[seed]}
    alone = max((len(base.of_study(name) & variant.of_study(name)) for name in every), default=0)
    if len(seeds) < LEAST_SEEDS or len(seeds) <= alone:
        return None
    names = tuple(dict.fromkeys(of.studies[seed][0] for seed in seeds for of in (base, variant)))
    first, second = ([of.runs[seed] for seed in seeds] for of in (base, variant))
    pair = [(outcomes(first, panels, among=second), outcomes(second, panels, among=first))]
    return PooledRow(
        recipe=recipe,
        variant=variant.name,
        base=base.name,
        studies=names,
        seeds=len(seeds),
        difference=paired_difference(pair),
        improvement=improvement_probability(pair),
        learning=training_difference(first, second),
    )
