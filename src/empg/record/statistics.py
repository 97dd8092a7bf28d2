"""Success rates that can be believed: intervals, and the paired comparison of two policies on the same panel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import yaml

from empg.errors import UserError
from empg.record.records import EvalRecord, eval_records
from empg.record.runfolder import RunFolder

# What of a recipe says how its evaluations are played, beside the panel and the temperature that their records name.
PLAYED = (
    "rollout.top_p",
    "rollout.max_turn_tokens",
    "rollout.max_episode_tokens",
    "environment.max_steps",
    "environment.options",
)


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), without continuity correction.

    Unlike the normal interval it stays within 0..1 and keeps its coverage near the ends.

    Args:
        successes: how often it went well, 0 to `n`.
        n: how often it was tried, at least 1.
        confidence: coverage, between 0 and 1.

    Raises:
        UserError: counts that are none.
    """
    if n < 1 or not 0 <= successes <= n:
        raise UserError(f"a proportion needs 0 <= successes <= n and n >= 1, got successes={successes}, n={n}")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # At the ends the formula gives 0 and 1 exactly; rounding must not move them.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return low, high


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided exact p-value of McNemar's test, from the pairs on which the two disagree.

    Under the null hypothesis each such pair falls to either side with probability 1/2. No such pair: p = 1.
    """
    if only_a < 0 or only_b < 0:
        raise UserError(f"counts of pairs cannot be negative, got {only_a} and {only_b}")
    n = only_a + only_b
    tail = term = 1  # whole numbers: exact for any n
    for i in range(min(only_a, only_b)):
        term = term * (n - i) // (i + 1)
        tail += term
    return 1.0 if only_a == only_b else 2 * tail / (1 << n)


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, *, seed: int = 0, resamples: int = 10_000, confidence: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over tasks.

    Given the differences of two policies, task by task, it is the paired bootstrap: tasks are drawn, so pairs stay
    together.

    Args:
        values: (n,) one number per task.
        seed: of the draws; the same seed gives the same interval, whatever the order of the values.
        resamples: how many times n tasks are drawn.
        confidence: coverage, between 0 and 1.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers):
        raise UserError(f"a bootstrap needs a list of at least one number, got shape {numbers.shape}")
    # How often each distinct value is drawn: equal in law to drawing pairs, and cheap for outcomes of -1, 0, 1.
    distinct, counts = np.unique(numbers, return_counts=True)
    draws = np.random.default_rng(seed).multinomial(len(numbers), counts / len(numbers), size=resamples)
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws @ distinct / len(numbers), [tail, 1 - tail])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class Paired:
    """Success of A and B on the same tasks, and what the pairs say about the difference B - A."""

    n: int
    both: int
    only_a: int
    only_b: int
    low: float  # bootstrap interval of the difference
    high: float
    p_value: float  # McNemar, exact, two-sided

    @property
    def success_a(self) -> float:
        """Share of the tasks that A wins."""
        return (self.both + self.only_a) / self.n

    @property
    def success_b(self) -> float:
        """Share of the tasks that B wins."""
        return (self.both + self.only_b) / self.n

    @property
    def difference(self) -> float:
        """B's success minus A's."""
        return (self.only_b - self.only_a) / self.n


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two evaluations of the same panel, task by task."""

    split: str
    decoding: str
    panel: str
    panel_sha256: str
    iteration_a: int
    iteration_b: int
    overall: Paired
    by_type: dict[str, Paired]
    apart: tuple[str, ...] = ()  # settings of play that differ: then the difference is not of the policies alone


def pair_up(wins_a: Sequence[bool], wins_b: Sequence[bool], *, seed: int = 0) -> Paired:
    """Pair two lists of outcomes of the same tasks in the same order.

    Raises:
        UserError: lists of unequal length, or empty.
    """
    if len(wins_a) != len(wins_b) or not len(wins_a):
        raise UserError(f"pairs need two lists of equal length, got {len(wins_a)} and {len(wins_b)} outcomes")
    a, b = np.asarray(wins_a, dtype=bool), np.asarray(wins_b, dtype=bool)
    only_a, only_b = int((a & ~b).sum()), int((b & ~a).sum())
    low, high = bootstrap_interval(b.astype(float) - a.astype(float), seed=seed)
    return Paired(len(a), int((a & b).sum()), only_a, only_b, low, high, mcnemar_exact(only_a, only_b))


def compare(
    run_a: RunFolder,
    run_b: RunFolder,
    split: str,
    decoding: str = "sampled",
    *,
    iteration_a: int | None = None,
    iteration_b: int | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare two runs, or two moments of one run, on the same panel; the difference is B - A.

    Args:
        run_a: the run to compare with.
        run_b: the run in question.
        split: whose panel.
        decoding: `sampled` or `greedy`.
        iteration_a: the evaluation of A to take; None is that of its highest iteration.
        iteration_b: the evaluation of B to take; None is that of its highest iteration.
        seed: of the bootstrap.

    Where an iteration was evaluated in several ways, those that both runs have in common are taken: the same panel,
    if possible the same temperature, and of several the newest.

    Raises:
        UserError: an evaluation is missing, or the two played different panels.
    """
    of_a, of_b = _evaluations(run_a, split, decoding, iteration_a), _evaluations(run_b, split, decoding, iteration_b)
    pairs = [(a, b) for b in of_b for a in of_a if a["panel_sha256"] == b["panel_sha256"]]
    if not pairs:
        raise UserError(
            f"{split}: the runs played different panels, {_panel(of_a[0])} in {run_a.path} and {_panel(of_b[0])} in "
            f"{run_b.path}; evaluate both on the same panel"
        )
    a, b = max(pairs, key=lambda pair: pair[0].get("temperature") == pair[1].get("temperature"))
    return compare_evaluations(run_a, a, run_b, b, seed=seed)


def shared_splits(run_a: RunFolder, run_b: RunFolder, decoding: str = "sampled") -> list[str]:
    """The splits on which both runs were evaluated, in the order of A's first evaluations."""
    of_a, of_b = (
        dict.fromkeys(r["split"] for r in eval_records(run.read_metrics()) if r["decoding"] == decoding)
        for run in (run_a, run_b)
    )
    return [split for split in of_a if split in of_b]


def compare_evaluations(
    run_a: RunFolder, a: EvalRecord, run_b: RunFolder, b: EvalRecord, *, seed: int = 0
) -> Comparison:
    """Compare two evaluations of one panel, given by their records.

    Raises:
        UserError: their files are missing, or do not list the same tasks.
    """
    split = a["split"]
    rows_a, rows_b = run_a.read_evaluation(a), run_b.read_evaluation(b)
    if rows_a["task_id"] != rows_b["task_id"]:
        raise UserError(f"{split}: the evaluation files of {run_a.path} and {run_b.path} do not list the same tasks")
    by_type: dict[str, list[int]] = {}
    for row, kind in enumerate(rows_a["task_type"]):
        by_type.setdefault(kind, []).append(row)
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
        apart=_apart(_settings(run_a, a), _settings(run_b, b)),
    )


def _evaluations(run: RunFolder, split: str, decoding: str, iteration: int | None) -> list[EvalRecord]:
    """The records of one iteration's evaluations of a split, newest first; of the highest iteration if none is named.

    `empg evaluate` may have looked at an earlier checkpoint since: what was written last is not what came last.
    """
    records = [r for r in eval_records(run.read_metrics()) if r["decoding"] == decoding]
    chosen = [r for r in records if r["split"] == split and iteration in (None, r["iteration"])]
    if not chosen:
        which = f"{split} ({decoding})" + ("" if iteration is None else f" at iteration {iteration}")
        known = ", ".join(sorted({f"{r['split']} at iteration {r['iteration']}" for r in records}))
        raise UserError(f"{run.path} has no evaluation of {which}; it has {known or 'none'}")
    highest = max(r["iteration"] for r in chosen)
    return [r for r in reversed(chosen) if r["iteration"] == highest]


def _settings(run: RunFolder, record: EvalRecord) -> dict[str, Any]:
    """How an evaluation was played; what a run of another version does not tell is left out."""
    found = {"temperature": record["temperature"]} if "temperature" in record else {}
    recipe = yaml.safe_load(run.recipe_text())
    for key in PLAYED:
        section, _, name = key.partition(".")
        values = recipe.get(section)
        if isinstance(values, dict) and name in values and (record["decoding"], key) != ("greedy", "rollout.top_p"):
            found[key] = values[name]
    return found


def _apart(a: dict[str, Any], b: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key} is {a[key]} in A and {b[key]} in B" for key in a if key in b and a[key] != b[key])


def _panel(record: EvalRecord) -> str:
    return f"{record['panel']} (n={record['n']}, {record['panel_sha256'][:12]})"
