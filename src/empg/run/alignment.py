"""How well the credit of a rule agrees with the worth of actions, on recorded episodes and without training.

The alignment of a rule is the cosine between its final advantages and the worth w of the actions (`worth.py`) over all
steps that were trained on:

    alignment = sum c w A / sqrt(sum c w^2 * sum c A^2)             w = 0 where it is unknown
    c(i,t)    = 1 - exp(-H(i,t))

So credit for a step of unknown worth counts as noise. The same cosine over the steps of known worth alone says how much
of a rule's alignment comes from where it gives less credit, and how much from which actions it prefers.

c is the expected squared gradient of Proposition 1 of EMPG (arXiv 2509.09265), with the step entropy in place of the
Renyi-2 entropy of each token, which a run does not record. Credit for a step that cannot move the policy counts little.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from empg.credit import MODULATIONS, ModulationInputs, modulated
from empg.errors import UserError
from empg.recipe.modulation import named, read_modulation
from empg.record.aggregate import RESAMPLES, Estimate
from empg.record.loading import LoadedRun
from empg.record.runfolder import RunFolder
from empg.run.display import Stage
from empg.run.worth import RecordedSteps, recorded_steps
from empg.yaml_text import read_yaml

_AT_ONCE = 100  # bootstrap draws in one product of matrices
_LEAST = 2  # groups that a bootstrap needs


@dataclass(frozen=True, eq=False, kw_only=True)
class CreditRule:
    """A rule to measure: a modulation with its options, or the base algorithm alone (`modulation` None)."""

    label: str
    modulation: str | None = None
    options: Any = None
    given: str = "--rule"  # the option that it was read from, which errors name

    def credit(self, seen: ModulationInputs) -> Tensor:
        """Return the final advantage of each step of an iteration, (N,).

        Raises:
            UserError: the rule needs what the run has not recorded.
        """
        try:
            return modulated(seen, self.modulation, self.options).advantage
        except ValueError as error:
            raise UserError(f"{self.given} {self.label}: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """The alignment of a rule, its ratio to that of the reference, and the ratio where the worth is known.

    All have 95% intervals over groups.
    """

    label: str
    alignment: Estimate
    ratio: Estimate
    ratio_known: Estimate


@dataclass(frozen=True, kw_only=True)
class AlignedTenth:
    """A tenth of the steps, by step entropy within their iteration, under the base algorithm.

    Attributes:
        entropy: mean step entropy, nats.
        known: share of the steps whose worth is known.
        won: share of the steps that belong to won episodes.
        alignment: cosine between the base advantage and w over the steps whose worth is known, without weights; NaN
            without such steps.
    """

    entropy: float
    known: float
    won: float
    alignment: Estimate


@dataclass(frozen=True, kw_only=True)
class AlignmentReport:
    """What `measure_alignment` found.

    Attributes:
        steps: number of steps that were trained on.
        known: how many of them have a known worth.
        groups: number of groups.
        reference: label of the rule that ratios are taken to.
        rules: in the order in which they were given.
        tenths: from the lowest entropy to the highest.
        problems: what could not be read, in words.
    """

    steps: int
    known: int
    groups: int
    reference: str
    rules: list[Aligned]
    tenths: list[AlignedTenth]
    problems: list[str]


def every_rule() -> list[str]:
    """Return the base algorithm alone and all modulations with their defaults, as `read_rule` takes them."""
    return ["none", *MODULATIONS]


def read_rule(text: str, option: str = "--rule") -> CreditRule:
    """Return the rule that a text names: as `credit.modulation` of a recipe, or `none` for the base algorithm alone.

    Errors name the option and the text, since an option may be given several times.

    Raises:
        UserError: it is not YAML, or names an unknown rule or option.
    """
    if not text.strip():
        raise UserError(f"{option}: expected a name, or options as in {{name: empg, k: 2}}, got an empty text")
    key = f"{option} {text:.80}"
    given = read_yaml(text, key)
    section = named("none" if given is None else given, key)
    if section is None:
        return CreditRule(label="none", given=option)
    if not isinstance(section, dict):
        raise UserError(f"{key}: expected a name, or options as in {{name: empg, k: 2}}")
    name, options = section.get("name", "empg"), read_modulation(section, key)
    label = " ".join([str(name), *(f"{k}={value}" for k, value in section.items() if k != "name")])
    return CreditRule(label=label, modulation=name, options=options, given=option)


def measure_alignment(
    runs: Sequence[RunFolder], rules: Sequence[CreditRule], reference: CreditRule, stage: Stage
) -> AlignmentReport:
    """Measure the alignment of each rule on all recorded iterations of some runs.

    Args:
        runs: run folders with `episodes/`.
        rules: what to measure.
        reference: the rule that ratios are taken to.
        stage: shows the progress.

    Raises:
        UserError: a run has no recorded episodes, no step has a known worth, or fewer than two groups have one.
    """
    _require_episodes(runs)
    done = stage("credit of recorded episodes", sum(len(run.episode_iterations()) for run in runs))
    every = [reference, *rules]
    sums: list[np.ndarray] = []  # of each group; see `_sums`
    by_tenth: list[np.ndarray] = []  # of each group and tenth: steps, H, known, won, w A, w^2, A^2
    problems: list[str] = []
    for number, found in enumerate(_recorded(runs, problems), 1):
        if found is not None:
            sums.append(_sums(found, every))
            by_tenth.append(_tenth_sums(found))
        done(number)
    groups = np.concatenate(sums) if sums else np.zeros((0, 1))
    if np.count_nonzero(groups[:, 0]) < _LEAST:
        raise UserError(
            "credit: no worth of an action can be estimated: it needs groups of recorded episodes (rollout.group_size) "
            "that begin with the same steps, then take different actions, and differ in success"
            + "".join(f"; {problem}" for problem in problems[:1])
        )
    parts = np.concatenate(by_tenth)
    every_sum = np.concatenate(
        [groups, parts.reshape(len(parts), -1)], axis=1
    )  # one draw for all, so ratios are paired
    of_groups, of_tenths = np.split(_drawn(every_sum), [groups.shape[1]], axis=1)
    values, drawn = _alignments(groups.sum(0)), _alignments(of_groups)
    ratios, drawn_ratios = (_ratio(found, found[..., :1]) for found in (values, drawn))
    rules_found = [
        Aligned(
            label=rule.label,
            alignment=_estimate(values[0, place], drawn[0, :, place]),
            ratio=_estimate(ratios[0, place], drawn_ratios[0, :, place]),
            ratio_known=_estimate(ratios[1, place], drawn_ratios[1, :, place]),
        )
        for place, rule in enumerate(every)
        if place
    ]
    return AlignmentReport(
        steps=int(parts[..., 0].sum()),
        known=int(parts[..., 2].sum()),
        groups=len(groups),
        reference=reference.label,
        rules=rules_found,
        tenths=_tenths(parts.sum(0), of_tenths.reshape(-1, *parts.shape[1:])),
        problems=problems,
    )


def _require_episodes(runs: Sequence[RunFolder]) -> None:
    """Reject a run without recorded episodes. The results of a study keep none."""
    if without := next((run for run in runs if not run.episode_iterations()), None):
        raise UserError(
            f"{without.path} has no recorded episodes (episodes/*.parquet): name the folder of a run that was trained, "
            "not the results of a study"
        )


def _recorded(runs: Sequence[RunFolder], problems: list[str]) -> Iterator[RecordedSteps | None]:
    """Yield the steps of each iteration, and add to `problems` what cannot be read."""
    for run in runs:
        recipe, loaded = run.recipe_values(), LoadedRun(run, problems)
        for iteration in run.episode_iterations():
            found = None
            try:
                found = recorded_steps(loaded.steps_of(iteration), recipe)
            except ValueError as error:  # a damaged file
                problems.append(f"{run.episodes_path(iteration)}: {error}")
            yield found


def _sums(found: RecordedSteps, rules: Sequence[CreditRule]) -> np.ndarray:
    """Return (groups, 1 + 3 rules): sum c w^2; for each rule sum c w A, sum c A^2, and that where w is known."""
    columns = [found.weight * found.worth**2]
    for rule in rules:
        credit = rule.credit(found.seen).double().numpy()
        squares = found.weight * credit**2
        columns += [found.weight * found.worth * credit, squares, squares * found.known]
    return np.stack([np.bincount(found.group, weights=column) for column in columns], axis=-1)


def _alignments(sums: np.ndarray) -> np.ndarray:
    """Return (2, ..., rules) cosines of sums (..., 1 + 3 rules): over all steps, and where w is known."""
    return np.stack([_cosine(sums[..., 1::3], sums[..., :1], sums[..., first::3]) for first in (2, 3)])


def _cosine(product: np.ndarray, *squares: np.ndarray, without: float = 0.0) -> np.ndarray:
    """Return the cosine from sums of products and squares; `without` where there is no credit."""
    size = np.sqrt(np.prod(np.broadcast_arrays(*squares), axis=0))
    return np.asarray(np.divide(product, size, out=np.full_like(size, without), where=size > 0))


def _tenth_sums(found: RecordedSteps) -> np.ndarray:
    """Return (groups, 10, 7): steps, H, known, won, w A, w^2 and A^2 where w is known, of each tenth by entropy."""
    entropy = found.seen.steps.entropy.double().numpy()
    place = np.empty(len(entropy), dtype=int)
    edges = [len(entropy) * part // 10 for part in range(11)]
    place[np.argsort(entropy, kind="stable")] = np.repeat(np.arange(10), np.diff(edges))
    credit = np.where(found.known, found.seen.steps.advantage.double().numpy(), 0.0)
    columns = [np.ones_like(entropy), entropy, found.known, found.won, found.worth * credit, found.worth**2, credit**2]
    cell = 10 * found.group + place
    cells = 10 * (int(found.group.max()) + 1)
    return np.stack([np.bincount(cell, weights=c, minlength=cells) for c in columns], axis=-1).reshape(-1, 10, 7)


def _tenths(totals: np.ndarray, drawn: np.ndarray) -> list[AlignedTenth]:
    """Return the tenths that have steps, from their sums (10, 7) and those of the draws (draws, 10, 7)."""
    return [
        AlignedTenth(
            entropy=total[1] / total[0],
            known=total[2] / total[0],
            won=total[3] / total[0],
            alignment=_estimate(_cosine(*total[4:], without=np.nan), _cosine(*draws[:, 4:].T, without=np.nan)),
        )
        for total, draws in zip(totals, drawn.swapaxes(0, 1), strict=True)
        if total[0]
    ]


def _drawn(sums: np.ndarray) -> np.ndarray:
    """Return (draws, columns): the sums (groups, columns) over bootstrap draws of the groups."""
    rng, groups = np.random.default_rng(0), len(sums)
    shares = np.full(groups, 1 / groups)
    return np.concatenate(
        [rng.multinomial(groups, shares, size=_AT_ONCE) @ sums for _ in range(0, RESAMPLES, _AT_ONCE)]
    )


def _ratio(values: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return values / reference; NaN where the reference is 0."""
    return np.asarray(np.divide(values, reference, out=np.full_like(values, np.nan), where=reference != 0))


def _estimate(value: np.ndarray, drawn: np.ndarray) -> Estimate:
    """Return the estimate with its interval over the draws in which it is known; NaN if it is not known itself."""
    known = drawn[~np.isnan(drawn)] if np.isfinite(value) else drawn[:0]
    low, high = np.quantile(known, [0.025, 0.975]) if len(known) else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high))
