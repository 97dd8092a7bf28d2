"""Intervals and paired comparison: hand-computed values, and SciPy where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from empg.cli import app
from empg.record.runfolder import RunFolder
from empg.record.statistics import (
    bootstrap_interval,
    compare,
    mcnemar_exact,
    pair_up,
    shared_splits,
    student_interval,
    wilson_interval,
)
from tests.record.made_runs import eval_record

MakeRun = Callable[..., RunFolder]
counts = st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


# --- Wilson ------------------------------------------------------------------------------------------------------


def test_wilson_by_hand() -> None:
    # z = 1.959964, n = 100, p = 0.5: centre 0.5, half = z / (2 sqrt(n + z^2)) = 1.959964 / (2 * 10.190273)
    assert wilson_interval(50, 100) == pytest.approx((0.5 - 0.0961684, 0.5 + 0.0961684), abs=1e-6)
    # All lost: the upper end is z^2 / (n + z^2) = 3.841459 / 13.841459
    low, high = wilson_interval(0, 10)
    assert low == 0.0
    assert high == pytest.approx(0.2775328, abs=1e-6)


@given(counts)
def test_wilson_contains_the_proportion_and_is_symmetric(count: tuple[int, int]) -> None:
    wins, n = count
    low, high = wilson_interval(wins, n)
    assert 0.0 <= low <= wins / n <= high <= 1.0
    assert wilson_interval(n - wins, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


@given(counts, st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_scipy(count: tuple[int, int], confidence: float) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    expected = scipy_stats.binomtest(*count).proportion_ci(confidence, method="wilson")
    assert wilson_interval(*count, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)


# --- Student -----------------------------------------------------------------------------------------------------


def test_student_by_hand() -> None:
    # Mean 3, standard deviation 2; t = 2.306004 with eight degrees of freedom, so half is 2.306004 * 2 / 3.
    values = [1.0, 1.0, 1.0, 1.0, 3.0, 5.0, 5.0, 5.0, 5.0]
    assert student_interval(values) == pytest.approx((3 - 1.537336, 3 + 1.537336), abs=1e-6)
    assert student_interval([2.0, 2.0]) == (2.0, 2.0)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=60), st.sampled_from([0.5, 0.95, 0.999]))
def test_student_equals_scipy(values: list[float], confidence: float) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    quantile = scipy_stats.t.ppf(0.5 + confidence / 2, len(values) - 1)
    half = quantile * np.std(values, ddof=1) / len(values) ** 0.5
    low, high = student_interval(values, confidence=confidence)
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("values", [[], [1.0], [[1.0, 2.0], [3.0, 4.0]]])
def test_an_interval_over_seeds_needs_two(values: list[float]) -> None:
    with pytest.raises(ValueError, match="at least two numbers"):
        student_interval(values)


@pytest.mark.parametrize(("wins", "n"), [(0, 0), (5, 4), (-1, 4)])
def test_counts_out_of_range_are_refused(wins: int, n: int) -> None:
    with pytest.raises(ValueError, match="0 <= successes <= n"):
        wilson_interval(wins, n)


# --- McNemar -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),  # they never disagree
        (4, 4, 1.0),
        (0, 1, 1.0),  # 2 * 1/2
        (0, 5, 2 / 32),
        (1, 9, 2 * (1 + 10) / 1024),
        (9, 1, 2 * (1 + 10) / 1024),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_mcnemar_by_hand(only_a: int, only_b: int, p: float) -> None:
    assert mcnemar_exact(only_a, only_b) == p


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_equals_the_binomial_test(only_a: int, only_b: int) -> None:
    scipy_stats = pytest.importorskip("scipy.stats")
    expected = scipy_stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_exact(only_a, only_b) == pytest.approx(expected, rel=1e-9)


def test_mcnemar_handles_thousands_of_pairs() -> None:
    assert 0.0 < mcnemar_exact(4_800, 5_200) < 1e-4
    with pytest.raises(ValueError, match="expected counts >= 0"):
        mcnemar_exact(-1, 2)


# --- bootstrap ---------------------------------------------------------------------------------------------------


def test_the_bootstrap_of_equal_values_has_no_width() -> None:
    assert bootstrap_interval([0.25] * 8) == (0.25, 0.25)


def test_the_bootstrap_is_the_binomial_where_values_are_0_and_1() -> None:
    # 100 values of mean 0.3: a resample has Binomial(100, 0.3) ones, whose 2.5% and 97.5% points are 21 and 39
    assert bootstrap_interval([1.0] * 30 + [0.0] * 70, resamples=40_000) == pytest.approx((0.21, 0.39), abs=0.011)


def test_the_bootstrap_agrees_with_the_normal_law_on_many_values() -> None:
    values = np.random.default_rng(0).normal(0.2, 1.0, 2_000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    expected = (values.mean() - half, values.mean() + half)
    assert bootstrap_interval(values, resamples=2_000) == pytest.approx(expected, abs=0.005)


def test_the_bootstrap_depends_on_its_seed_alone() -> None:
    values = [1, 0, -1, 1, 1, 0, 0, 1]
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values[::-1], seed=1)
    with pytest.raises(ValueError, match="at least one number"):
        bootstrap_interval([])


# --- pairs -------------------------------------------------------------------------------------------------------


def test_pairs_are_counted_by_who_won() -> None:
    pair = pair_up([True, True, False, False, False], [True, False, True, True, False])
    assert (pair.n, pair.both, pair.only_a, pair.only_b) == (5, 1, 1, 2)
    assert (pair.success_a, pair.success_b) == (2 / 5, 3 / 5)
    assert pair.difference == 1 / 5
    assert pair.low <= pair.difference <= pair.high
    assert pair.p_value == 1.0


def test_lists_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length > 0, got 2 and 1 outcomes"):
        pair_up([True, False], [True])


# --- two runs ----------------------------------------------------------------------------------------------------


def evaluated(
    run: RunFolder,
    wins: dict[str, bool],
    iteration: int = 5,
    sha256: str = "ab" * 32,
    temperature: float = 1.0,
    decoding: str = "sampled",
    split: str = "valid_seen",
) -> RunFolder:
    """Write one evaluation: task id -> won; the type of a task is the first letter of its id."""
    rows = [
        {"task_id": task, "task_index": i, "task_type": task[0], "success": won, "score": float(won), "turns": 3}
        for i, (task, won) in enumerate(wins.items())
    ]
    record = eval_record(
        iteration, split=split, decoding=decoding, n=len(rows), panel=f"toy-{split}", panel_sha256=sha256,
        temperature=temperature,
    )  # fmt: skip
    run.write_evaluation(record, rows)
    run.append_metrics(record)
    return run


@pytest.fixture
def two_runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, RunFolder]:
    a, b = (RunFolder.create(tmp_path_factory.mktemp("two") / name, "seed: 0\n") for name in "ab")
    return a, b


def test_two_runs_are_paired_task_by_task(two_runs: tuple[RunFolder, RunFolder]) -> None:
    a, b = two_runs
    evaluated(a, {"p1": True, "p2": False, "q1": False, "q2": False})
    evaluated(b, {"p1": True, "p2": True, "q1": False, "q2": True})
    result = compare(a, b, "valid_seen")
    assert (result.overall.success_a, result.overall.success_b) == (0.25, 0.75)
    assert (result.overall.only_a, result.overall.only_b, result.overall.p_value) == (0, 2, 0.5)
    assert {kind: pair.difference for kind, pair in result.by_type.items()} == {"p": 0.5, "q": 0.5}
    assert compare(b, a, "valid_seen").overall.difference == -0.5


def test_the_last_evaluation_is_compared_unless_one_is_named(two_runs: tuple[RunFolder, RunFolder]) -> None:
    run, _ = two_runs
    evaluated(run, {"p1": False, "p2": False}, iteration=0)
    evaluated(run, {"p1": True, "p2": False}, iteration=5)
    result = compare(run, run, "valid_seen", iteration_a=0)
    assert (result.iteration_a, result.iteration_b, result.overall.difference) == (0, 5, 0.5)


def test_the_last_evaluation_is_the_one_of_the_highest_iteration(two_runs: tuple[RunFolder, RunFolder]) -> None:
    run, _ = two_runs
    evaluated(run, {"p1": True, "p2": True}, iteration=5)
    evaluated(run, {"p1": False, "p2": False}, iteration=0)  # `empg evaluate --checkpoint start`, later
    result = compare(run, run, "valid_seen", iteration_a=0)
    assert (result.iteration_a, result.iteration_b, result.overall.difference) == (0, 5, 1.0)


@pytest.mark.parametrize("other", [{"sha256": "cd" * 32}, {"temperature": 0.4}])
def test_of_several_evaluations_of_an_iteration_those_with_equal_settings_are_compared(
    two_runs: tuple[RunFolder, RunFolder], other: dict[str, Any]
) -> None:
    a, b = two_runs
    evaluated(a, {"p1": False, "p2": False})
    evaluated(a, {"p1": True, "p2": True}, **other)
    evaluated(b, {"p1": True, "p2": False})
    result = compare(a, b, "valid_seen")
    assert (result.overall.difference, result.apart) == (0.5, ())


def test_shared_splits_are_those_of_both_runs(two_runs: tuple[RunFolder, RunFolder]) -> None:
    a, b = two_runs
    for split in ("test", "valid_unseen", "valid_seen"):
        evaluated(a, {"p1": True}, split=split)
    evaluated(b, {"p1": True}, split="valid_seen")
    evaluated(b, {"p1": True}, split="test")
    evaluated(b, {"p1": True}, split="valid_unseen", decoding="greedy")
    assert shared_splits(a, b) == ["test", "valid_seen"]
    assert shared_splits(a, b, "greedy") == []


def test_with_iterations_shared_splits_are_those_evaluated_at_them(two_runs: tuple[RunFolder, RunFolder]) -> None:
    run, _ = two_runs
    evaluated(run, {"p1": False}, split="test", iteration=0)
    for split in ("test", "valid_seen"):
        evaluated(run, {"p1": True}, split=split, iteration=5)
    assert shared_splits(run, run) == ["test", "valid_seen"]
    assert shared_splits(run, run, iteration_a=0) == ["test"]
    assert shared_splits(run, run, iteration_a=5, iteration_b=0) == ["test"]
    assert shared_splits(run, run, iteration_a=5) == ["test", "valid_seen"]
    assert shared_splits(run, run, iteration_b=3) == []


def test_different_panels_are_not_compared(two_runs: tuple[RunFolder, RunFolder]) -> None:
    a, b = two_runs
    evaluated(a, {"p1": True}, sha256="aa" * 32)
    evaluated(b, {"p1": True}, sha256="bb" * 32)
    with pytest.raises(ValueError, match=r"different panels, toy-valid_seen \(n=1, aaaaaaaaaaaa\)"):
        compare(a, b, "valid_seen")


def test_different_evaluation_settings_are_named(tmp_path: Path) -> None:
    recipe = "rollout: {{top_p: {}, max_turn_tokens: 40}}\nenvironment: {{max_steps: {}, options: {{rooms: small}}}}\n"
    a = RunFolder.create(tmp_path / "a", recipe.format(1.0, 16))
    b = RunFolder.create(tmp_path / "b", recipe.format(0.9, 20))
    for decoding, heat in (("sampled", 0.4), ("greedy", 0.0)):
        evaluated(a, {"p1": True}, decoding=decoding, temperature=heat and 1.0)
        evaluated(b, {"p1": True}, decoding=decoding, temperature=heat)
    steps = "environment.max_steps is 16 in A and 20 in B"
    assert compare(a, b, "valid_seen").apart == (
        "temperature is 1.0 in A and 0.4 in B",
        "rollout.top_p is 1.0 in A and 0.9 in B",
        steps,
    )
    assert compare(a, b, "valid_seen", "greedy").apart == (steps,)  # greedy play draws nothing
    assert compare(a, a, "valid_seen").apart == ()


def test_an_option_that_an_earlier_version_did_not_have_is_compared_by_its_default(tmp_path: Path) -> None:
    recipe = "environment: {{id: alfworld, options: {{rooms: small{}}}}}\n"
    a, b, c = (
        RunFolder.create(tmp_path / name, recipe.format(more))
        for name, more in (("a", ""), ("b", ", games: null"), ("c", ", games: /data"))
    )
    for run in (a, b, c):
        evaluated(run, {"p1": True})

    def with_default(run: RunFolder) -> dict[str, Any]:
        environment = run.recipe_values()["environment"]
        return {"environment": {"options": {"games": None, **environment["options"]}}}

    assert compare(a, b, "valid_seen").apart == ()
    assert compare(a, b, "valid_seen", recipe_of=with_default).apart == ()
    other = ("environment.options.games is None in A and /data in B",)
    assert compare(a, c, "valid_seen", recipe_of=with_default).apart == other


def test_the_command_knows_the_defaults_of_options(tmp_path: Path) -> None:
    recipe = "environment: {{id: alfworld, options: {{rooms: small{}}}}}\n"
    for name, more in (("a", ""), ("b", ", backend: python"), ("c", ", task_types: [pick_two_obj_and_place]")):
        evaluated(RunFolder.create(tmp_path / name, recipe.format(more)), {"p1": True})
    same, other = (CliRunner().invoke(app, ["compare", str(tmp_path / "a"), str(tmp_path / b)]).output for b in "bc")
    assert "warning" not in same
    assert "task_types is None in A and ['pick_two_obj_and_place'] in B" in " ".join(other.split())


def test_an_episode_that_failed_before_it_named_its_task_is_a_failure_of_the_task(
    two_runs: tuple[RunFolder, RunFolder],
) -> None:
    a, b = two_runs
    evaluated(a, {"p1": True, "q1": True, "q2": True})
    record = evaluated(b, {"p1": True, "q1": False, "q2": True}).read_metrics()[-1]
    columns = b.read_evaluation(record)
    columns["task_id"][1] = columns["task_type"][1] = ""
    b.write_evaluation(record, [{name: values[i] for name, values in columns.items()} for i in range(3)])
    found = compare(a, b, "valid_seen")
    assert found.overall.difference == pytest.approx(-1 / 3)
    assert {kind: pair.difference for kind, pair in found.by_type.items()} == {"p": 0.0, "q": -0.5}


def test_tasks_that_do_not_match_are_not_compared(two_runs: tuple[RunFolder, RunFolder]) -> None:
    a, b = two_runs
    evaluated(a, {"p1": True, "p2": True})
    evaluated(b, {"p2": True, "p1": True})
    with pytest.raises(ValueError, match="do not list the same tasks"):
        compare(a, b, "valid_seen")


def test_a_missing_evaluation_is_named_with_the_existing_ones(two_runs: tuple[RunFolder, RunFolder]) -> None:
    a, b = two_runs
    evaluated(a, {"p1": True})
    with pytest.raises(ValueError, match=r"no evaluation of valid_unseen \(sampled\); it has valid_seen at it"):
        compare(a, a, "valid_unseen")
    with pytest.raises(ValueError, match=r"no evaluation of valid_seen \(sampled\); it has none"):
        compare(a, b, "valid_seen")


def test_the_improvement_of_a_run_is_detected(finished_run: RunFolder) -> None:
    result = compare(finished_run, finished_run, "valid_seen", iteration_a=0)
    assert result.overall.n == 100
    assert 0.2 < result.overall.low < result.overall.difference < result.overall.high < 0.7
    assert result.overall.p_value < 1e-4
    assert sum(pair.n for pair in result.by_type.values()) == 100
