"""Pairs of variants over several studies: the runs of one recipe and seed, whichever studies they belong to.

Two variants may have more seeds in common over all studies than in any one of them: a later study adds seeds, or an
algorithm from the same start policies, without repeating the base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

from empg.record.aggregate import Estimate, improvement_probability, paired_difference
from empg.study.results import Results, RunResult, outcomes

Panels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PooledRow:
    """A variant beside another one on all panels of a recipe; `seeds` is the number of pairs of runs."""

    recipe: str
    variant: str
    base: str
    studies: tuple[str, ...]
    seeds: int
    difference: Estimate
    improvement: Estimate


@dataclass(slots=True)
class _Variant:
    """The runs of a variant by seed, with the study of each."""

    name: str
    is_base: bool = False
    runs: dict[int, tuple[str, RunResult]] = field(default_factory=dict)

    def of_study(self, study: str) -> set[int]:
        return {seed for seed, (of, _) in self.runs.items() if of == study}


def pooled_rows(studies: Sequence[Results]) -> list[PooledRow]:
    """Compare the pairs of variants that have more seeds in common over all studies than in any single one.

    The second of a pair is the base of a study. A variant is known by its overrides: where two studies give one name to
    different ones, the name of the later has its study before it. Runs are compared only if they were evaluated at the
    same iteration, on the same panels, at the same temperature.
    """
    return [
        row
        for (recipe, panels, _), variants in _pools(studies).items()
        for base, variant in _pairs(list(variants.values()))
        if (row := _row(recipe, panels, base, variant)) is not None
    ]


_Pool = tuple[str, Panels, tuple[str, ...]]  # recipe, panels, and how they were evaluated
_Overrides = frozenset[str]


def _pools(studies: Sequence[Results]) -> dict[_Pool, dict[_Overrides, _Variant]]:
    """Return the variants by what makes their runs comparable, in the order of the studies."""
    pools: dict[_Pool, dict[_Overrides, _Variant]] = {}
    for results in studies:
        study = results.study
        for recipe in results.recipes:
            panels = tuple(results.panels(recipe))
            for run in results.of_recipe(recipe):
                pool = pools.setdefault((recipe, panels, tuple(_how(run, panels))), {})
                overrides = frozenset((*study.overrides, *study.variants[run.key.variant]))
                if overrides not in pool:
                    taken = {variant.name for variant in pool.values()}
                    name = run.key.variant
                    pool[overrides] = _Variant(name if name not in taken else f"{study.name}: {name}")
                variant = pool[overrides]
                variant.is_base |= run.key.variant == study.base
                variant.runs.setdefault(run.key.seed, (study.name, run))
    return pools


def _how(run: RunResult, panels: Panels) -> Iterator[str]:
    for panel in panels:
        last = run.evaluations(*panel)[-1]
        yield f"{last['iteration']} {last.get('temperature')} {last.get('panel_sha256')}"


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
    names = tuple(dict.fromkeys(of.runs[seed][0] for seed in seeds for of in (base, variant)))
    if len(seeds) <= max((len(base.of_study(name) & variant.of_study(name)) for name in names), default=0):
        return None
    first, second = ([of.runs[seed][1] for seed in seeds] for of in (base, variant))
    pair = [(outcomes(first, panels, among=second), outcomes(second, panels, among=first))]
    return PooledRow(
        recipe=recipe,
        variant=variant.name,
        base=base.name,
        studies=names,
        seeds=len(seeds),
        difference=paired_difference(pair),
        improvement=improvement_probability(pair),
    )
