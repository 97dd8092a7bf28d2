"""What a run that continues may change, and where it continues."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from empg.errors import RecipeError
from empg.learner.checkpoint import CheckpointError, Checkpoints, checkpoint_name
from empg.policy.model import Policy
from empg.recipe import Recipe, dump_recipe, parse_recipe
from empg.record.errors import RunFolderError
from empg.record.runfolder import RunFolder
from empg.run.resume import fork, fork_point, like_the_run, prepare_resume, source_run

BASE: dict[str, Any] = {"iterations": 50, "policy": {"device": "cpu"}, "warm_start": {"episodes": 8}}


def recipe(**sections: Any) -> Recipe:
    """The recipe of the run with other values, given as sections or `section__key`."""
    data = {**BASE}
    for name, value in sections.items():
        section, _, key = name.partition("__")
        data[section] = {**data.get(section, {}), key: value} if key else value
    return parse_recipe(data)


@pytest.fixture
def run(policy: Policy, tmp_path: Path) -> RunFolder:
    """A run that was stopped after iteration 30; it has the checkpoints of 10, 20 and 30."""
    folder = RunFolder.create(tmp_path / "run", dump_recipe(recipe()))
    folder.append_metrics({"kind": "run"})
    checkpoints = Checkpoints(folder.checkpoints, keep=3)
    checkpoints.save("start", policy, None, {})
    for iteration in range(31):
        folder.append_metrics({"kind": "train", "iteration": iteration})
        if iteration in (10, 20, 30):
            checkpoints.save(checkpoint_name(iteration), policy, None, {"iteration": iteration, "alarms": {}})
    return folder


def iterations(run: RunFolder) -> list[int]:
    return [r["iteration"] for r in run.read_metrics() if r["kind"] == "train"]


def damage(run: RunFolder, checkpoint: str) -> None:
    (run.checkpoints / checkpoint / "config.json").write_text("{}")


def test_a_run_of_verl_is_not_restarted_by_our_own_trainer(policy: Policy, tmp_path: Path) -> None:
    folder = RunFolder.create(tmp_path / "run", dump_recipe(recipe()))
    folder.append_metrics({"kind": "train", "iteration": 5})
    Checkpoints(folder.checkpoints).save("start", policy, None, {})
    (folder.checkpoints / "verl").mkdir()
    with pytest.raises(CheckpointError, match="was trained by another engine: resume it with --engine verl"):
        prepare_resume(recipe(), folder, None, "")
    assert iterations(folder) == [5]


@pytest.mark.parametrize(
    "change",
    [
        {"rollout__slots": 8},
        {"optimizer__micro_batch_tokens": 4096},
        {"evaluation__episodes": 7, "evaluation__every": 3, "evaluation__splits": ["train"]},
        {"checkpoint_every": 3, "keep_checkpoints": 5, "name": "other"},
        {"environment__workers": 2},
        {"workers": 2},
        {"iterations": 60},
        {"iterations": 30},
    ],
)
def test_what_keeps_the_meaning_of_the_result_may_change(run: RunFolder, change: dict[str, Any]) -> None:
    changed = like_the_run(recipe(**change), run)
    place = prepare_resume(changed, run, None, "the command")
    assert (place.checkpoint, place.iteration, place.resumed_at) == ("iter-000030", 30, 30)
    [record] = [r for r in run.read_metrics() if r["kind"] == "resume"]
    wanted = {key.replace("__", "."): value for key, value in change.items()}
    assert {key: now for key, (_, now) in record["changes"].items()} == wanted
    assert (record["from_iteration"], record["command"], record["forked_from"]) == (30, "the command", None)
    assert run.recipe_text() == dump_recipe(changed)  # later commands, such as an evaluation, read it here
    assert iterations(run) == list(range(31))


@pytest.mark.parametrize(
    ("begun", "change", "message"),
    [
        ({}, {"seed": 3}, r"run cannot be resumed with seed=3 \(the run has 0\): use the values of the run, or fork"),
        ({}, {"loss__clip_low": 0.1, "rollout__slots": 3}, r"with loss\.clip_low=0\.1 \(the run has 0\.2\): use"),
        ({}, {"credit__modulation": None}, r"with credit\.modulation=None \(the run has \{"),
        (
            {"optimizer__schedule": "cosine"},
            {"iterations": 60},
            r"iterations=60 \(the run has 50; with optimizer\.schedule=cosine it sets every learning rate\)",
        ),
        ({"optimizer__schedule": "linear"}, {"iterations": 60}, r"with optimizer\.schedule=linear it sets"),
        (
            {"credit__modulation": {"name": "empg_variant", "zeta_schedule": "linear"}},
            {"iterations": 60},
            r"iterations=60 \(the run has 50; with credit\.modulation\.zeta_schedule=linear it sets every zeta\)",
        ),
        (
            {"optimizer__minibatches": 2},
            {"workers": 2},
            r"workers=2 \(the run has 1; with optimizer\.minibatches > 1 results depend on it\)",
        ),
        (
            {"credit": {"drop_zero_variance": True, "max_resample": 1}},
            {"workers": 2},
            r"with credit\.max_resample > 0 results depend on it",
        ),
        ({}, {"iterations": 20}, r"iterations: expected >= 30, which .* has finished at this checkpoint, got 20"),
    ],
)
def test_everything_else_is_an_error_that_changes_nothing(
    run: RunFolder, begun: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    run.replace_recipe(dump_recipe(recipe(**begun)))
    before = run.metrics_path.read_bytes(), run.recipe_text()
    with pytest.raises(RecipeError, match=message):
        prepare_resume(like_the_run(recipe(**begun, **change), run), run, None, "")
    assert (run.metrics_path.read_bytes(), run.recipe_text()) == before


def test_a_plain_resume_is_recorded_as_well_unless_the_run_is_complete(run: RunFolder) -> None:
    prepare_resume(recipe(), run, None, "")
    assert [r["changes"] for r in run.read_metrics() if r["kind"] == "resume"] == [{}]
    run.replace_recipe(dump_recipe(recipe(iterations=30)))
    before = run.metrics_path.read_bytes()
    prepare_resume(recipe(iterations=30), run, None, "")
    assert run.metrics_path.read_bytes() == before


def test_a_run_goes_back_to_an_earlier_checkpoint(run: RunFolder) -> None:
    prepare_resume(recipe(rollout__slots=8), run, None, "")
    place = prepare_resume(recipe(rollout__slots=8), run, "iter-000020", "")
    assert (place.checkpoint, place.iteration) == ("iter-000020", 20)
    assert iterations(run) == list(range(21))
    assert Checkpoints(run.checkpoints).names() == ["iter-000010", "iter-000020"]
    # A change is never forgotten, even if its iterations are.
    assert [(r["from_iteration"], len(r["changes"])) for r in run.read_metrics() if r["kind"] == "resume"] == [
        (30, 1),
        (20, 0),
    ]


def test_a_run_goes_back_to_its_start(run: RunFolder) -> None:
    place = prepare_resume(recipe(), run, "start", "")
    assert (place.checkpoint, place.iteration, place.resumed_at) == (None, 0, -1)
    assert iterations(run) == []
    assert Checkpoints(run.checkpoints).names() == []


@pytest.mark.parametrize("name", ["iter-000040", "../../other", "", "iter-20"])
def test_a_checkpoint_that_does_not_exist_is_an_error_that_lists_those_that_do(run: RunFolder, name: str) -> None:
    with pytest.raises(CheckpointError, match="expected one of start, iter-000010, iter-000020, iter-000030"):
        prepare_resume(recipe(), run, name, "")
    assert iterations(run) == list(range(31))


def test_a_damaged_checkpoint_is_not_gone_back_to(run: RunFolder) -> None:
    damage(run, "iter-000020")
    with pytest.raises(CheckpointError, match=r"iter-000020: config\.json is damaged"):
        prepare_resume(recipe(), run, "iter-000020", "")
    assert iterations(run) == list(range(31))


@pytest.mark.parametrize("line", [b"{oops\n", b'{"kind":"train","iteration":"31"}\n', b'{"kind":"train"}\n'])
def test_a_damaged_record_is_found_before_anything_is_removed(run: RunFolder, line: bytes) -> None:
    records = run.metrics_path.read_bytes() + line
    run.metrics_path.write_bytes(records)
    for step in (
        lambda: prepare_resume(recipe(), run, "iter-000010", ""),
        lambda: fork_point(recipe(), run, "iter-000010"),
    ):
        with pytest.raises(RunFolderError, match=r"metrics\.jsonl line 33"):
            step()
    assert Checkpoints(run.checkpoints).names() == ["iter-000010", "iter-000020", "iter-000030"]
    assert run.metrics_path.read_bytes() == records


def test_a_damaged_latest_checkpoint_does_not_push_out_those_that_follow(run: RunFolder, policy: Policy) -> None:
    damage(run, "iter-000030")
    place = prepare_resume(recipe(keep_checkpoints=1), run, None, "")
    assert place.checkpoint == "iter-000020"
    assert "iter-000030" in place.problems[0]
    Checkpoints(run.checkpoints, keep=1).save("iter-000025", policy, None, {"iteration": 25, "alarms": {}})
    assert Checkpoints(run.checkpoints).newest_intact() == ("iter-000025", [])


def test_a_run_without_a_checkpoint_is_told_what_happened_to_it(run: RunFolder, tmp_path: Path) -> None:
    for checkpoint in ("start", "iter-000010", "iter-000020"):
        shutil.rmtree(run.checkpoints / checkpoint)
    damage(run, "iter-000030")
    restore = rf"Restore the files in {run.checkpoints}, or restart the run with --force"
    with pytest.raises(CheckpointError, match=rf"iter-000030: config\.json is damaged .*\. {restore}"):
        prepare_resume(recipe(), run, None, "")
    shutil.rmtree(run.checkpoints)
    with pytest.raises(CheckpointError, match=rf"^the checkpoints of {run.path} were removed\. {restore}$"):
        prepare_resume(recipe(), run, None, "")
    assert iterations(run) == list(range(31))
    young = RunFolder.create(tmp_path / "young", dump_recipe(recipe()))
    young.append_metrics({"kind": "run"})
    young.append_metrics({"kind": "warm_start", "step": 1, "loss": 2.0})
    with pytest.raises(CheckpointError, match=r"young was stopped before its first checkpoint; restart it with --for"):
        prepare_resume(recipe(), young, None, "")


def test_records_are_not_removed_because_somebody_removed_checkpoints(run: RunFolder) -> None:
    shutil.rmtree(run.checkpoints / "iter-000030")  # as if the run had been killed while it saved this one
    shutil.copytree(run.path, whole := run.path.with_name("whole"))
    for checkpoint in ("iter-000010", "iter-000020"):
        shutil.rmtree(run.checkpoints / checkpoint)
    said = (
        rf"^{run.path} finished 30 iterations, but its newest checkpoint is start\. Restore .*/iter-000020 or a later"
    )
    with pytest.raises(CheckpointError, match=said):
        prepare_resume(recipe(), run, None, "")
    assert iterations(run) == list(range(31))
    assert prepare_resume(recipe(), run, "start", "").iteration == 0
    assert prepare_resume(recipe(), RunFolder.open(whole), None, "").iteration == 20


class TestFork:
    def test_it_has_what_led_to_the_checkpoint(self, run: RunFolder, tmp_path: Path) -> None:
        before = run.metrics_path.read_bytes()
        target, checkpoint = tmp_path / "fork", run.checkpoints / "iter-000020"
        source = source_run(checkpoint, target)
        changed = like_the_run(recipe(seed=7, optimizer__lr=1e-3, iterations=90), source, fork=True)
        place = fork_point(changed, source, checkpoint.name)
        new = RunFolder.create(target, dump_recipe(changed))
        fork(changed, new, source, place, "the command")
        assert (place.checkpoint, place.iteration) == ("iter-000020", 20)
        assert iterations(new) == list(range(21))
        record = new.read_metrics()[-1]
        assert record["changes"] == {"seed": [0, 7], "iterations": [50, 90], "optimizer.lr": [1e-4, 1e-3]}
        assert record["forked_from"] == str(checkpoint)
        assert Checkpoints(new.checkpoints).newest_intact() == ("iter-000020", [])
        Checkpoints(new.checkpoints).verify("start")
        assert run.metrics_path.read_bytes() == before

    @pytest.mark.parametrize("change", [{"policy__tiny": {"layers": 2}}, {"warm_start": {"episodes": 9}}])
    def test_it_keeps_what_its_weights_decide(self, run: RunFolder, change: dict[str, Any]) -> None:
        with pytest.raises(RecipeError, match=r"run cannot be forked with .*; its weights exist already\)"):
            like_the_run(recipe(**change), run, fork=True)

    @pytest.mark.parametrize("change", [{"seed": 7}, {"environment__options": {"rooms": "small"}}])
    def test_the_base_of_an_adapter_cannot_change(self, run: RunFolder, change: dict[str, Any]) -> None:
        """An adapter on the tiny model does not contain it: seed and environment make it again."""
        adapted = {"policy__lora": {"r": 2}}
        run.replace_recipe(dump_recipe(recipe(**adapted)))
        with pytest.raises(RecipeError, match="the model that its adapter belongs to is made from it"):
            like_the_run(recipe(**adapted, **change), run, fork=True)
        like_the_run(recipe(**adapted, optimizer__lr=1e-3), run, fork=True)

    def test_it_needs_a_checkpoint_of_another_run(self, run: RunFolder, tmp_path: Path) -> None:
        for wrong in (Path("iter-000020"), run.path, tmp_path / "none" / "checkpoints" / "iter-000020"):
            with pytest.raises(CheckpointError, match=r"expected the path of a checkpoint in a run, e\.g\."):
                source_run(wrong, tmp_path / "fork")
        with pytest.raises(CheckpointError, match=r"is a checkpoint of .*run itself: name another folder with --run"):
            source_run(run.checkpoints / "iter-000020", run.path)
        with pytest.raises(CheckpointError, match="has no checkpoint 'iter-000040'"):
            fork_point(recipe(), run, "iter-000040")
        with pytest.raises(RecipeError, match="expected >= 20"):
            fork_point(recipe(iterations=10), run, "iter-000020")
