"""Before and after: which evaluations are set against each other, and what is said when they cannot be paired."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from empg.record.runfolder import RunFolder
from empg.record.statistics import wilson_interval
from empg.report.before_after import PanelOutcome, outcomes


def rated(wins: list[bool]) -> dict[str, float]:
    low, high = wilson_interval(sum(wins), len(wins))
    return {"n": len(wins), "successes": sum(wins), "success": sum(wins) / len(wins), "low": low, "high": high}


def evaluate(
    run: RunFolder, iteration: int, wins: str, *, sha256: str = "a" * 64, files: bool = True, temperature: float = 1.0
) -> None:
    """Add an evaluation; `wins` has one letter per task: its type, in upper case if it was solved."""
    won = [letter.isupper() for letter in wins]
    kinds = wins.lower()
    record = {
        "kind": "eval",
        "iteration": iteration,
        "split": "valid_seen",
        "decoding": "sampled",
        "temperature": temperature,
        "panel": "toy",
        "panel_sha256": sha256,
        **rated(won),
        "by_type": {k: rated([w for w, kind in zip(won, kinds, strict=True) if kind == k]) for k in sorted(set(kinds))},
    }
    if files:
        run.write_evaluation(
            record,
            [
                {
                    "task_id": f"t{i}",
                    "task_index": i,
                    "task_type": kind,
                    "success": win,
                    "score": float(win),
                    "turns": 1,
                }
                for i, (kind, win) in enumerate(zip(kinds, won, strict=True))
            ],
        )
    run.append_metrics(record)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run", "seed: 0\n")


def only(run: RunFolder) -> PanelOutcome:
    (outcome,) = outcomes(run, run.read_metrics())
    return outcome


def test_a_run_without_evaluations_has_no_outcome(run: RunFolder) -> None:
    assert outcomes(run, []) == []


def test_before_and_after_are_the_first_and_the_last_evaluation(run: RunFolder) -> None:
    evaluate(run, 0, "Ppqq")
    evaluate(run, 5, "ppqq")
    evaluate(run, 9, "PPQq")
    outcome = only(run)
    assert (outcome.first, outcome.last) == (0, 9)
    assert outcome.before is not None
    assert (outcome.before.successes, outcome.after.successes) == (1, 3)
    assert outcome.paired is not None
    assert (outcome.paired.only_a, outcome.paired.only_b, outcome.paired.difference) == (0, 2, 0.5)
    assert [(t.name, t.before and t.before.success, t.after.success) for t in outcome.types] == [
        ("p", 0.5, 1.0),
        ("q", 0.0, 0.5),
    ]


def test_one_evaluation_is_no_comparison(run: RunFolder) -> None:
    evaluate(run, 0, "Ppqq")
    outcome = only(run)
    assert (outcome.before, outcome.paired, outcome.unpaired_because) == (None, None, "")
    assert [t.before for t in outcome.types] == [None, None]


def test_a_later_look_at_the_start_is_not_taken_for_the_end(run: RunFolder) -> None:
    evaluate(run, 9, "PPQq")
    evaluate(run, 0, "Ppqq")
    outcome = only(run)
    assert (outcome.first, outcome.last) == (0, 9)


def test_another_panel_is_not_set_against_the_first(run: RunFolder) -> None:
    evaluate(run, 0, "Ppqq", sha256="a" * 64)
    evaluate(run, 9, "PPQQPPQQ", sha256="b" * 64)
    outcome = only(run)
    assert (outcome.before, outcome.after.n, outcome.sha256) == (None, 8, "b" * 64)


@pytest.mark.parametrize("iteration", [0, 9])
@pytest.mark.parametrize("other", [{"sha256": "b" * 64}, {"temperature": 0.4}])
def test_another_look_at_a_checkpoint_does_not_hide_the_result(
    run: RunFolder, iteration: int, other: dict[str, Any]
) -> None:
    evaluate(run, 0, "Ppqq")
    evaluate(run, 9, "PPQq")
    evaluate(run, iteration, "pPQQ" if "temperature" in other else "P", **other)
    outcome = only(run)
    assert outcome.before is not None
    assert outcome.paired is not None
    assert (outcome.before.successes, outcome.after.successes, outcome.paired.difference) == (1, 3, 0.5)


def test_later_evaluations_with_other_settings_do_not_replace_those_of_the_recipe(run: RunFolder) -> None:
    recipe = {"evaluation": {"temperature": 1.0, "episodes": 4}}
    evaluate(run, 0, "Ppqq")
    evaluate(run, 9, "PPQq")
    for iteration in (0, 9):
        evaluate(run, iteration, "ppqq", temperature=0.6)
    [outcome] = outcomes(run, run.read_metrics(), recipe)
    assert outcome.before is not None
    assert (outcome.before.successes, outcome.after.successes, outcome.temperature) == (1, 3, 1.0)


def test_a_panel_without_an_evaluation_at_the_settings_of_the_recipe_is_shown(run: RunFolder) -> None:
    evaluate(run, 9, "PPQq", temperature=0.6)
    [outcome] = outcomes(run, run.read_metrics(), {"evaluation": {"temperature": 1.0, "episodes": 4}})
    assert (outcome.after.successes, outcome.temperature) == (3, 0.6)


def test_evaluations_at_two_temperatures_are_not_paired(run: RunFolder) -> None:
    evaluate(run, 0, "Ppqq")
    evaluate(run, 9, "PPQq", temperature=0.4)
    outcome = only(run)
    assert (outcome.paired, [t.paired for t in outcome.types]) == (None, [None, None])
    assert outcome.unpaired_because.endswith("evaluation settings differ: temperature is 1.0 in A and 0.4 in B")


def test_a_lost_file_leaves_the_rates_and_says_why_they_are_not_paired(run: RunFolder) -> None:
    evaluate(run, 0, "Ppqq", files=False)
    evaluate(run, 9, "PPQq")
    outcome = only(run)
    assert outcome.before is not None
    assert outcome.before.success == 0.25
    assert outcome.paired is None
    assert "iter-000000-valid_seen-sampled-aaaaaaaa-t1.parquet does not exist" in outcome.unpaired_because
