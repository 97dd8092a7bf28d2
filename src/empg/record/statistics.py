"""Intervals of success rates, and the paired comparison of two policies on the same panel."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from empg.errors import UserError
from empg.record.records import EvalRecord, eval_records
from empg.record.runfolder import RunFolder

ReadRecipe = Callable[[RunFolder], Mapping[str, Any]]
"""Returns the resolved recipe of a run."""

# The recipe keys that affect an evaluation. Its panel and temperature are in its record.
PLAYED = (
    "rollout.top_p",
    "rollout.max_turn_tokens",
    "rollout.max_episode_tokens",
    "environment.max_steps",
    "environment.options",
)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Compute the Wilson score interval of a proportion (Wilson 1927), without continuity correction.

    Unlike the normal interval it stays within 0..1 and keeps its coverage near 0 and 1.

    Args:
        successes: number of successes, 0 to `n`.
        n: number of trials, at least 1.
        confidence: coverage, between 0 and 1.

    Raises:
        UserError: counts that are out of range.
    """
    if n < 1 or not 0 <= successes <= n:
        raise UserError(f"proportion: expected 0 <= successes <= n and n >= 1, got successes={successes}, n={n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the formula gives 0 and 1 exactly; rounding must not move them.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Compute the two-sided exact p-value of McNemar's test from the pairs on which the two policies disagree.

    Under the null hypothesis each such pair favours either policy with probability 1/2. Without such a pair, p = 1.
    """
    if only_a < 0 or only_b < 0:
        raise UserError(f"pairs: expected counts >= 0, got {only_a} and {only_b}")
    n = only_a + only_b
    tail = term = 1  # whole numbers: exact for any n
    for i in range(min(only_a, only_b)):
        term = term * (n - i) // (i + 1)
        tail += term
    return 1.0 if only_a == only_b else 2 * tail / (1 << n)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, *, seed: int = 0, resamples: int = 10_000, confidence: float = 0.95
) -> tuple[float, float]:
    """Compute the percentile bootstrap interval of a mean over tasks.

    With one difference of two policies per task it is the paired bootstrap: tasks are resampled, so pairs stay
    together.

    Args:
        values: (n,) one number per task.
        seed: seed of the resampling; the same seed gives the same interval, in whatever order the values are.
        resamples: number of times that n tasks are drawn.
        confidence: coverage, between 0 and 1.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise UserError(f"bootstrap: expected a list of at least one number, got shape {numbers.shape}")
    # The number of draws of each distinct value: the same distribution, and cheap for outcomes of -1, 0, 1.
    distinct, counts = np.unique(numbers, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(numbers), counts / len(numbers), size=resamples)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws @ distinct / len(numbers), [tail, 1 - tail])
    return float(low), float(high)


def student_interval(values: Sequence[float] | np.ndarray, *, confidence: float = 0.95) -> tuple[float, float]:
    """Compute Student's t interval of a mean, for a few numbers: there a bootstrap is too narrow.

    Args:
        values: (n,) numbers, at least 2, as if drawn from a normal distribution.
        confidence: coverage, between 0 and 1.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) < 2:
        raise UserError(f"interval: expected a list of at least two numbers, got shape {numbers.shape}")
    mean = float(numbers.mean())
    half = _student_quantile(confidence, len(numbers) - 1) * float(numbers.std(ddof=1)) / math.sqrt(len(numbers))
    return mean - half, mean + half


def _student_quantile(confidence: float, freedom: int) -> float:
    """Return t with P(|T| < t) = `confidence`, by bisection of the angle atan(t / sqrt(freedom))."""
    low, high = 0.0, math.pi / 2
    for _ in range(60):
        angle = (low + high) / 2
        low, high = (angle, high) if _student_within(angle, freedom) < confidence else (low, angle)
    return math.sqrt(freedom) * math.tan(low)


def _student_within(angle: float, freedom: int) -> float:
    """Return P(|T| < sqrt(freedom) tan(angle)): Abramowitz and Stegun (1964), 26.7.3 (odd) and 26.7.4 (even)."""
    sine, cosine, odd = math.sin(angle), math.cos(angle), freedom % 2
    total, term = 0.0, cosine if odd else 1.0
    for j in range(1 + odd, freedom, 2):
        total += term
        term *= cosine**2 * j / (j + 1)
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def in_points(difference: float, low: float, high: float) -> str:
    """Return a difference of two shares with its interval, in points: `+3.4 [+1.9, +5.1]`."""
    value, low, high = (round(100 * share, 1) + 0.0 for share in (difference, low, high))  # 0.0 instead of -0.0
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


UNKNOWN = "unknown"
"""The task type of an episode whose environment failed before it named its task."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paired:
    """Success of A and B on the same tasks, and the difference B - A with its interval and p-value."""

    n: int
    both: int
    only_a: int
    only_b: int
    low: float  # bootstrap interval of the difference
    high: float
    p_value: float  # McNemar, exact, two-sided

    @property
    def success_a(self) -> float:
        """Share of the tasks that A solves."""
        return (self.both + self.only_a) / self.n

    @property
    def success_b(self) -> float:
        """Share of the tasks that B solves."""
        return (self.both + self.only_b) / self.n

    @property
    def difference(self) -> float:
        """Success of B minus success of A."""
        return (self.only_b - self.only_a) / self.n


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two evaluations of the same panel, paired by task."""

    split: str
    decoding: str
    panel: str
    panel_sha256: str
    iteration_a: int
    iteration_b: int
    overall: Paired
    by_type: dict[str, Paired]
    apart: tuple[str, ...] = ()  # evaluation settings that differ, so the difference is not due to the policies alone


def pair_up(wins_a: Sequence[bool], wins_b: Sequence[bool], *, seed: int = 0) -> Paired:
    """Pair two lists of outcomes of the same tasks, in the same order.

    Raises:
        UserError: the lists have different lengths, or are empty.
    """
    if len(wins_a) != len(wins_b) or not len(wins_a):
        raise UserError(f"pairs: expected two lists of one length > 0, got {len(wins_a)} and {len(wins_b)} outcomes")
    a, b = np.asarray(wins_a, dtype=bool), np.asarray(wins_b, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    low, high = bootstrap_interval(b.astype(float) - a.astype(float), seed=seed)
    return Paired(
        n=len(a),
        both=int((a & b).sum()),
        only_a=only_a,
        only_b=only_b,
        low=low,
        high=high,
        p_value=mcnemar_exact(only_a, only_b),
    )


def compare(
    run_a: RunFolder,
    run_b: RunFolder,
    split: str,
    decoding: str = "sampled",
    *,
    iteration_a: int | None = None,
    iteration_b: int | None = None,
    seed: int = 0,
    recipe_of: ReadRecipe = RunFolder.recipe_values,
) -> Comparison:
    """Compare two runs, or two iterations of one run, on the same panel; the difference is B - A.

    Args:
        run_a: the run to compare with.
        run_b: the run to compare; may be the same run.
        split: evaluation split.
        decoding: `sampled` or `greedy`.
        iteration_a: iteration of the evaluation of A; None is its highest one.
        iteration_b: iteration of the evaluation of B; None is its highest one.
        seed: seed of the bootstrap.
        recipe_of: reads the recipe of a run. A setting that one of two recipes does not have is not compared, so this
            may add the defaults of settings that an earlier version did not have.

    If an iteration was evaluated in several ways, the ones that both runs have in common are used: the same panel, if
    possible the same temperature, and of several the newest.

    Raises:
        UserError: an evaluation is missing, or the two are of different panels.
    """
    of_a, of_b = _evaluations(run_a, split, decoding, iteration_a), _evaluations(run_b, split, decoding, iteration_b)
    pairs = [(a, b) for b in of_b for a in of_a if a["panel_sha256"] == b["panel_sha256"]]
    if not pairs:
        raise UserError(
            f"{split}: the runs were evaluated on different panels, {_panel(of_a[0])} in {run_a.path} and "
            f"{_panel(of_b[0])} in {run_b.path}; evaluate both on the same panel"
        )
    a, b = max(pairs, key=lambda pair: pair[0].get("temperature") == pair[1].get("temperature"))
    return compare_evaluations(run_a, a, run_b, b, seed=seed, recipe_of=recipe_of)


def shared_splits(
    run_a: RunFolder,
    run_b: RunFolder,
    decoding: str = "sampled",
    *,
    iteration_a: int | None = None,
    iteration_b: int | None = None,
) -> list[str]:
    """Return the splits on which both runs were evaluated, in the order of the first evaluations of A.

    With an iteration, the splits are those that were evaluated at it.
    """
    of_a, of_b = (
        dict.fromkeys(
            r["split"]
            for r in eval_records(run.read_metrics())
            if r["decoding"] == decoding and iteration in (None, r["iteration"])
        )
        for run, iteration in ((run_a, iteration_a), (run_b, iteration_b))
    )
    return [split for split in of_a if split in of_b]


def compare_evaluations(
    run_a: RunFolder,
    a: EvalRecord,
    run_b: RunFolder,
    b: EvalRecord,
    *,
    seed: int = 0,
    recipe_of: ReadRecipe = RunFolder.recipe_values,
) -> Comparison:
    """Compare two evaluations of one panel, given by their records; for the arguments see `compare`.

    Raises:
        UserError: a file is missing, or the two do not list the same tasks.
    """
    split = a["split"]
    rows_a, rows_b = run_a.read_evaluation(a), run_b.read_evaluation(b)
    if not same_tasks(rows_a["task_id"], rows_b["task_id"]):
        raise UserError(f"{split}: the evaluation files of {run_a.path} and {run_b.path} do not list the same tasks")
    by_type: dict[str, list[int]] = {}
    for row, kinds in enumerate(zip(rows_a["task_type"], rows_b["task_type"], strict=True)):
        by_type.setdefault(next(filter(None, kinds), UNKNOWN), []).append(row)
    wins_a, wins_b = rows_a["success"], rows_b["success"]
    return Comparison(
        split=split,
        decoding=a["decoding"],
        panel=a["panel"],
        panel_sha256=a["panel_sha256"],
        iteration_a=a["iteration"],
        iteration_b=b["iteration"],
        overall=pair_up(wins_a, wins_b, seed=seed),
        by_type={
            kind: pair_up([wins_a[r] for r in rows], [wins_b[r] for r in rows], seed=seed)
            for kind, rows in sorted(by_type.items())
        },
        apart=_apart(_settings(recipe_of(run_a), a), _settings(recipe_of(run_b), b)),
    )


def same_tasks(a: Sequence[str], b: Sequence[str]) -> bool:
    """Return whether two evaluations list the same tasks; one whose environment failed at once has no name."""
    return len(a) == len(b) and all(one == other or not one or not other for one, other in zip(a, b, strict=True))


def _evaluations(run: RunFolder, split: str, decoding: str, iteration: int | None) -> list[EvalRecord]:
    """Return the evaluations of a split at an iteration (None: the highest), newest first.

    `empg evaluate` may have been run on an earlier checkpoint since: the last record need not be the last iteration.
    """
    records = [r for r in eval_records(run.read_metrics()) if r["decoding"] == decoding]
    chosen = [r for r in records if r["split"] == split and iteration in (None, r["iteration"])]
    if not chosen:
        which = f"{split} ({decoding})" + ("" if iteration is None else f" at iteration {iteration}")
        known = ", ".join(sorted({f"{r['split']} at iteration {r['iteration']}" for r in records}))
        raise UserError(f"{run.path} has no evaluation of {which}; it has {known or 'none'}")
    highest = max(r["iteration"] for r in chosen)
    return [r for r in reversed(chosen) if r["iteration"] == highest]


def _settings(recipe: Mapping[str, Any], record: EvalRecord) -> dict[str, Any]:
    """Return the settings of an evaluation by their keys, without those that a run of another version does not have."""
    found: dict[str, Any] = {"temperature": record["temperature"]} if "temperature" in record else {}
    for key in PLAYED:
        section, _, name = key.partition(".")
        values = recipe.get(section)
        if isinstance(values, dict) and name in values and (record["decoding"], key) != ("greedy", "rollout.top_p"):
            value = values[name]
            found |= {f"{key}.{option}": v for option, v in value.items()} if isinstance(value, dict) else {key: value}
    return found


def _apart(a: dict[str, Any], b: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key} is {a[key]} in A and {b[key]} in B" for key in a if key in b and a[key] != b[key])


def _panel(record: EvalRecord) -> str:
    return f"{record['panel']} (n={record['n']}, {record['panel_sha256'][:12]})"
