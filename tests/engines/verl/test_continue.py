"""A run of verl continues from verl's latest checkpoint; this needs no verl."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import pytest

from empg.engines.verl.training import _continue, require_rollout_engine
from empg.errors import MissingExtraError, UserError
from empg.recipe import dump_recipe
from empg.record.runfolder import RunFolder
from empg.run.evaluate import panel_of
from tests.engines.trl.parts import small_recipe
from tests.record.made_runs import eval_record


def run_of(folder: Path, latest: int | None) -> RunFolder:
    """A run with records of three iterations and an evaluation after the second."""
    run = RunFolder.create(folder / "run", dump_recipe(small_recipe()))
    run.append_metrics({"kind": "run"})
    for iteration in (1, 2, 3):
        run.append_metrics({"kind": "train", "iteration": iteration})
        if iteration == 2:
            recipe = small_recipe()
            panel = panel_of(recipe, "valid_seen").sha256
            same = {"decoding": "sampled", "temperature": recipe.evaluation.temperature, "panel_sha256": panel}
            run.append_metrics({**eval_record(2), "split": "valid_seen", **same})
    if latest is not None:
        verl = run.checkpoints / "verl"
        actor = verl / f"global_step_{latest}" / "actor"
        actor.mkdir(parents=True)
        (actor / "model_world_size_1_rank_0.pt").touch()
        (verl / "latest_checkpointed_iteration.txt").write_text(str(latest))
    return run


@pytest.mark.parametrize(
    ("latest", "kinds"),
    [(2, ["run", "train", "train", "eval", "resume"]), (1, ["run", "train", "resume"])],
)
def test_records_after_the_checkpoint_are_removed(tmp_path: Path, latest: int, kinds: list[str]) -> None:
    run = run_of(tmp_path, latest)
    changed = small_recipe(iterations=5)
    _continue(changed, run, "the command")
    records = run.read_metrics()
    assert [record["kind"] for record in records] == kinds
    assert records[-1]["changes"] == {"iterations": [2, 5]}
    assert records[-1]["from_iteration"] == latest
    assert run.recipe_text() == dump_recipe(changed)


@pytest.mark.parametrize(
    ("latest", "iterations", "every", "evaluates"),
    [
        (1, 5, 0, False),  # only before the first and after the last iteration
        (1, 5, 2, False),
        (1, 5, 1, True),  # verl had saved, and the run ended before the evaluation
        (1, 1, 0, True),
        (2, 5, 1, False),  # there is one
        (2, 2, 0, False),
        (2, 2, 0, 0.7),  # not at this temperature
        (3, 5, 3, True),
    ],
)
def test_an_evaluation_that_is_due_and_missing_is_made_up_for(
    tmp_path: Path, latest: int, iterations: int, every: int, evaluates: bool | float
) -> None:
    section: dict[str, Any] = {"every": every}
    if not isinstance(evaluates, bool):
        section["temperature"] = evaluates
    recipe = small_recipe(iterations=iterations, evaluation=section)
    assert _continue(recipe, run_of(tmp_path, latest), "") is bool(evaluates)


def test_a_resume_that_cannot_work_is_an_error_that_changes_nothing(tmp_path: Path) -> None:
    run = run_of(tmp_path, 2)
    before = run.metrics_path.read_bytes(), run.recipe_text()
    with pytest.raises(UserError, match=r"^iterations: expected >= 2, which .* at its latest checkpoint, got 1$"):
        _continue(small_recipe(iterations=1), run, "")
    verl = run.checkpoints / "verl"
    tracker = verl / "latest_checkpointed_iteration.txt"
    for text in ("", "two", "-1", "\N{SUPERSCRIPT TWO}"):
        tracker.write_text(text, encoding="utf-8")
        with pytest.raises(UserError, match=r"iteration.txt: expected the number of an iteration, got .*: write the"):
            _continue(small_recipe(), run, "")
    tracker.write_text("2\n")
    [weights] = (verl / "global_step_2" / "actor").iterdir()
    for gone in (weights.unlink, weights.parent.rmdir, weights.parent.parent.rmdir):
        gone()  # verl would train from scratch
        with pytest.raises(
            UserError, match=r"global_step_2/actor is missing, so .* cannot be resumed from iteration 2"
        ):
            _continue(small_recipe(), run, "")
    assert (run.metrics_path.read_bytes(), run.recipe_text()) == before


def test_a_run_of_another_engine_is_not_continued(tmp_path: Path) -> None:
    run = run_of(tmp_path, None)
    before = run.metrics_path.read_bytes()
    with pytest.raises(UserError, match="has no checkpoint of the engine verl: resume it with the engine"):
        _continue(small_recipe(), run, "")
    assert run.metrics_path.read_bytes() == before


def test_a_rollout_engine_that_is_missing_is_named_before_anything_is_overwritten() -> None:
    require_rollout_engine("empg_hf")
    if util.find_spec("vllm") is None:
        with pytest.raises(
            MissingExtraError, match=r"rollout.name=vllm: needs the package vllm, which is not installed"
        ):
            require_rollout_engine("vllm")
