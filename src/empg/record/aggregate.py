"""Aggregates over the seeds and tasks of a study, with stratified bootstrap intervals.

The measures are those of rliable (Agarwal et al. 2021, arXiv 2108.13264). What rliable calls a task is a *cell column*
here: the tasks of one type in one panel, whose score is the success rate of a run on them. The interquartile mean and
the probability of improvement are taken over these cells, because a single task has only the outcomes 0 and 1.

The bootstrap follows the design of a study. One trained policy plays all tasks, so its outcomes belong together: seeds
are drawn as whole rows, independently for each recipe. Tasks are drawn within their type, the same for all seeds. With
one task per recipe, and recipes as the tasks of rliable, this is the stratified bootstrap of rliable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from empg.errors import UserError

RESAMPLES = 2000
Cells = np.ndarray
"""(draws, seeds, types, sides) success rates of runs on the tasks of a type; two sides are A and B of a pair."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False, slots=True)
class Outcomes:
    """Outcomes of one variant of one recipe.

    `scores` is (seeds, tasks), any numbers: 0 or 1 for success, or differences of them. `types` names the type of each
    task; tasks of a type need not be neighbours.
    """

    scores: np.ndarray
    types: Sequence[str]

    def __post_init__(self) -> None:
        if self.scores.ndim != 2 or not self.scores.size or self.scores.shape[1] != len(self.types):
            raise UserError(
                f"outcomes: expected (seeds, tasks) numbers and one type per task, got {self.scores.shape} and "
                f"{len(self.types)} types"
            )

    def columns(self) -> dict[str, np.ndarray]:
        """Return the positions of the tasks of each type, by type in alphabetical order."""
        kinds = np.asarray(self.types)
        return {str(kind): np.flatnonzero(kinds == kind) for kind in np.unique(kinds)}

    def only(self, kind: str) -> Outcomes:
        """Return the outcomes of the tasks of one type."""
        places = self.columns()[kind]
        return Outcomes(self.scores[:, places], [kind] * len(places))


def iqm(values: np.ndarray) -> np.ndarray:
    """Return the interquartile mean over the last axis: the mean without the lowest and the highest quarter.

    A quarter is rounded down to whole values, as in `scipy.stats.trim_mean(values, 0.25)`.
    """
    size = values.shape[-1]
    cut = size // 4
    kept: np.ndarray = np.sort(values, axis=-1)[..., cut : size - cut]
    return np.asarray(kept.mean(axis=-1))


def mean_success(recipes: Sequence[Outcomes], *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Estimate the mean over all seeds and tasks; recipes count by their number of tasks."""
    sizes = [len(places) for recipe in recipes for places in recipe.columns().values()]

    def statistic(cells: Cells) -> np.ndarray:
        return np.asarray(np.average(cells[..., 0].mean(axis=1), axis=-1, weights=sizes))

    return _estimate([(recipe,) for recipe in recipes], statistic, seed, resamples)


def iqm_success(recipes: Sequence[Outcomes], *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Estimate the interquartile mean over the cells of all seeds, recipes and task types."""
    return _estimate(
        [(recipe,) for recipe in recipes], lambda cells: iqm(cells.reshape(len(cells), -1)), seed, resamples
    )


def paired_difference(
    recipes: Sequence[tuple[Outcomes, Outcomes]], *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Estimate the mean difference B - A of pairs (A, B) with the same seeds and tasks in the same order.

    Raises:
        UserError: the two of a pair have different seeds or tasks.
    """
    for a, b in recipes:
        _require_paired(a, b)
    differences = [Outcomes(b.scores - a.scores, a.types) for a, b in recipes]
    return mean_success(differences, seed=seed, resamples=resamples)


def improvement_probability(
    recipes: Sequence[tuple[Outcomes, Outcomes]], *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Estimate the probability that a run of B has a higher success rate than a run of A, averaged over task types.

    All pairs of runs are compared (the Mann-Whitney statistic), and a tie counts one half. A and B of a pair have the
    same seeds and tasks, so a bootstrap draw takes the same ones from both.

    Raises:
        UserError: the two of a pair have different seeds or tasks.
    """
    for a, b in recipes:
        _require_paired(a, b)

    def statistic(cells: Cells) -> np.ndarray:
        runs, of_b = cells.shape[1], cells[..., 1]
        wins = np.zeros(len(cells))
        for place in range(runs):  # one run of A at a time: all pairs at once would need memory for seeds^2
            of_a = cells[:, place, None, :, 0]
            wins += ((of_b > of_a) + 0.5 * (of_b == of_a)).mean(axis=(1, 2))
        return np.asarray(wins / runs)

    return _estimate(recipes, statistic, seed, resamples)


def first_reached(values: Sequence[float], target: float, window: int) -> int | None:
    """Return how many values there are when the mean of the last `window` first reaches `target`; None if never."""
    for end in range(window, len(values) + 1):
        if sum(values[end - window : end]) / window >= target:
            return end
    return None


def _require_paired(a: Outcomes, b: Outcomes) -> None:
    if a.scores.shape != b.scores.shape or list(a.types) != list(b.types):
        raise UserError(
            f"pairs: expected the same seeds and tasks, got {a.scores.shape} and {b.scores.shape} (seeds, tasks)"
        )


def _estimate(
    recipes: Sequence[tuple[Outcomes, ...]], statistic: Callable[[Cells], np.ndarray], seed: int, resamples: int
) -> Estimate:
    """Compute a statistic of the cells and its percentile interval; each recipe has the same number of sides."""
    rows = {len(sides[0].scores) for sides in recipes}
    if len(rows) != 1:
        raise UserError(f"aggregate: expected recipes with the same number of seeds, got {sorted(rows) or 'no recipe'}")
    observed = np.concatenate([_cells(sides) for sides in recipes], axis=2)
    sizes = [tuple(len(places) for places in sides[0].columns().values()) for sides in recipes]
    draws = _draws(tuple(sizes), rows.pop(), seed, resamples)
    drawn = np.concatenate([_drawn(sides, *draw) for sides, draw in zip(recipes, draws, strict=True)], axis=2)
    low, high = np.quantile(statistic(drawn), [0.025, 0.975])
    return Estimate(float(statistic(observed)[0]), float(low), float(high))


def _cells(sides: tuple[Outcomes, ...]) -> Cells:
    columns = sides[0].columns().values()
    rates = [np.stack([side.scores[:, places].mean(axis=1) for places in columns], axis=-1) for side in sides]
    return np.stack(rates, axis=-1)[None]


@lru_cache(maxsize=8)  # most tables of a study have the same design, and drawing takes longer than all else
def _draws(
    recipes: tuple[tuple[int, ...], ...], seeds: int, seed: int, resamples: int
) -> list[tuple[list[np.ndarray], np.ndarray]]:
    """Draw seeds as whole rows and tasks within their type.

    Args:
        recipes: the number of tasks of each type, of each recipe.
        seeds: the number of seeds of each recipe.
        seed: of the random numbers.
        resamples: the number of draws.

    Returns:
        For each recipe: for each type (draws, tasks), how often each task is drawn; and (draws, seeds), the drawn rows.
    """
    rng = np.random.default_rng(seed)
    found = []
    for sizes in recipes:
        counts = [rng.multinomial(size, np.full(size, 1 / size), size=resamples).astype(float) for size in sizes]
        found.append((counts, rng.integers(seeds, size=(resamples, seeds))))
    return found


def _drawn(sides: tuple[Outcomes, ...], counts: list[np.ndarray], rows: np.ndarray) -> Cells:
    """Return the cells of the draws."""
    rates = [
        np.stack([drawn @ side.scores[:, places].T / len(places) for side in sides], axis=-1)
        for places, drawn in zip(sides[0].columns().values(), counts, strict=True)
    ]
    return np.take_along_axis(np.stack(rates, axis=2), rows[:, :, None, None], axis=1)
