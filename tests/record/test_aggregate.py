"""Aggregates over seeds and tasks: hand-made cases, and the numbers of rliable 1.2.0 on the same scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from empg.errors import UserError
from empg.record.aggregate import (
    Outcomes,
    first_reached,
    improvement_probability,
    iqm,
    iqm_success,
    mean_success,
    paired_difference,
)

RLIABLE = json.loads(Path(__file__).with_name("rliable.json").read_text())


def recipes(scores: list[list[float]]) -> list[Outcomes]:
    """One recipe with a single task for each column: the tasks of rliable."""
    return [Outcomes(column[:, None], ["only"]) for column in np.array(scores).T]


class TestAgainstRliable:
    def test_the_mean_and_its_interval(self) -> None:
        found = mean_success(recipes(RLIABLE["other"]), resamples=20_000)
        assert found.value == pytest.approx(RLIABLE["mean"], abs=1e-12)
        assert [found.low, found.high] == pytest.approx(RLIABLE["mean_interval"], abs=2e-3)

    def test_the_interquartile_mean_and_its_interval(self) -> None:
        found = iqm_success(recipes(RLIABLE["other"]), resamples=20_000)
        assert found.value == pytest.approx(RLIABLE["iqm"], abs=1e-12)
        assert [found.low, found.high] == pytest.approx(RLIABLE["iqm_interval"], abs=3e-3)

    def test_the_probability_of_improvement(self) -> None:
        pairs = list(zip(recipes(RLIABLE["base"]), recipes(RLIABLE["other"]), strict=True))
        assert improvement_probability(pairs).value == pytest.approx(RLIABLE["improvement"], abs=1e-12)


class TestInterquartileMean:
    def test_it_leaves_out_the_lowest_and_the_highest_quarter(self) -> None:
        assert iqm(np.array([100.0, 1, 2, 3, 4, 5, 6, -50])) == pytest.approx((2 + 3 + 4 + 5) / 4)

    def test_a_quarter_is_rounded_down(self) -> None:
        assert iqm(np.array([1.0, 2, 9])) == 4.0
        assert iqm(np.array([0.0, 1, 2, 3, 10])) == 2.0


class TestCells:
    def test_the_mean_counts_tasks_and_the_interquartile_mean_counts_types(self) -> None:
        outcomes = Outcomes(np.array([[1, 0, 0, 0], [1, 0, 0, 0]]), ["rare", "often", "often", "often"])
        assert mean_success([outcomes]).value == 0.25
        assert iqm_success([outcomes]).value == 0.5  # cells 1, 1, 0, 0 without the lowest and the highest

    def test_a_type_may_be_anywhere_in_the_panel(self) -> None:
        sorted_, mixed = (
            Outcomes(np.array([[1, 1, 0, 0]]), list("aabb")),
            Outcomes(np.array([[1, 0, 1, 0]]), list("abab")),
        )
        assert iqm_success([sorted_]) == iqm_success([mixed])


class TestBootstrap:
    def test_equal_seeds_and_tasks_have_no_interval(self) -> None:
        found = mean_success([Outcomes(np.ones((4, 6)), list("aabbcc"))])
        assert (found.value, found.low, found.high) == (1.0, 1.0, 1.0)

    def test_seeds_are_drawn_as_whole_rows(self) -> None:
        """A seed that wins everything and one that wins nothing: a draw has 0, 1 or 2 of the first."""
        found = mean_success([Outcomes(np.array([[1.0] * 50, [0.0] * 50]), ["t"] * 50)])
        assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)

    def test_tasks_are_drawn_within_their_type(self) -> None:
        """All tasks of a type have the same outcome, so drawing them changes nothing."""
        found = mean_success([Outcomes(np.array([[1.0] * 30 + [0.0] * 30]), ["a"] * 30 + ["b"] * 30)])
        assert (found.low, found.high) == (0.5, 0.5)

    def test_with_one_seed_the_interval_is_that_of_the_tasks(self) -> None:
        wins = np.array([[1.0] * 60 + [0.0] * 40])
        found = mean_success([Outcomes(wins, ["t"] * 100)], resamples=20_000)
        half = 1.96 * np.sqrt(0.6 * 0.4 / 100)
        assert [found.low, found.high] == pytest.approx([0.6 - half, 0.6 + half], abs=0.01)

    def test_one_seed_gives_one_interval(self) -> None:
        outcomes = [Outcomes(np.random.default_rng(1).integers(0, 2, (5, 40)), ["t"] * 40)]
        assert mean_success(outcomes, seed=3) == mean_success(outcomes, seed=3)


class TestPairs:
    def test_the_difference_is_paired_by_seed_and_task(self) -> None:
        """Seeds and tasks differ by far more than B from A, but B is better by the same in each pair."""
        base = np.array([[0.9, 0.1], [0.5, 0.3]])
        found = paired_difference([(Outcomes(base, ["t", "t"]), Outcomes(base + 0.05, ["t", "t"]))])
        assert [found.value, found.low, found.high] == pytest.approx([0.05, 0.05, 0.05])

    def test_a_run_that_ties_with_all_others_improves_with_probability_one_half(self) -> None:
        same = Outcomes(np.ones((3, 4)), list("aabb"))
        found = improvement_probability([(same, same)])
        assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)

    def test_improvement_by_hand(self) -> None:
        base, other = Outcomes(np.array([[0.2], [0.6]]), ["t"]), Outcomes(np.array([[0.4], [0.6]]), ["t"])
        # 0.4 beats 0.2 and loses to 0.6; 0.6 beats 0.2 and ties with 0.6.
        assert improvement_probability([(base, other)]).value == (1 + 0 + 1 + 0.5) / 4

    def test_other_seeds_or_tasks_are_an_error(self) -> None:
        a, b = Outcomes(np.ones((3, 4)), ["t"] * 4), Outcomes(np.ones((2, 4)), ["t"] * 4)
        for compared in (paired_difference, improvement_probability):
            with pytest.raises(UserError, match=r"expected the same seeds and tasks, got \(3, 4\) and \(2, 4\)"):
                compared([(a, b)])


def test_the_first_iterations_that_reach_a_target() -> None:
    assert first_reached([0.0, 0.4, 0.8, 0.8], 0.6, window=2) == 3
    assert first_reached([0.9, 0.1], 0.6, window=1) == 1
    assert first_reached([0.9, 0.1], 0.6, window=3) is None


def test_wrong_shapes_are_errors() -> None:
    with pytest.raises(UserError, match="expected \\(seeds, tasks\\) numbers"):
        Outcomes(np.ones((2, 3)), ["t"])
    with pytest.raises(UserError, match="got no recipe"):
        mean_success([])
    with pytest.raises(UserError, match=r"same number of seeds, got \[1, 2\]"):
        mean_success([Outcomes(np.ones((1, 1)), ["t"]), Outcomes(np.ones((2, 1)), ["t"])])
