"""A recipe trains with TRL into a run folder; credit, loss and files are those of our own trainer."""

from __future__ import annotations

import shutil
from importlib import util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="trl is not installed: make test-trl runs these tests")

import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner

from empg.cli import app
from empg.engines.trl import training
from empg.engines.trl.rollout import EpisodeRollout, token_columns
from empg.engines.trl.training import RecipeTrainer, train
from empg.errors import RecipeError, UserError
from empg.learner.assign import assign_credit
from empg.learner.batch import make_batch, micro_batches
from empg.learner.checkpoint import Checkpoints
from empg.learner.update import Update, make_optimizer
from empg.policy.model import Policy
from empg.policy.scoring import score_tokens
from empg.recipe import Recipe
from empg.record.runfolder import RunFolder
from empg.rollout.env_pool import LocalEnvPool, Outcome
from empg.rollout.types import EndReason, Episode
from empg.run.build import build_policy, resolve
from empg.run.train import train as train_here
from empg.system.workers import Workers
from tests.engines.trl.parts import SMALL, fixed_episode, small_recipe, tiny_policy

pytestmark = pytest.mark.filterwarnings("default")  # of TRL and transformers about their own names


def episodes(*, flat: bool, broken: bool = False) -> list[Episode]:
    """The eight fixed episodes; `flat`: the second group has equal rewards; `broken`: one environment failed."""
    made = [fixed_episode(number) for number in range(8)]
    if flat:
        made[6].reward, made[6].success = 0.0, False
    if broken:
        made[3].end = EndReason.ENV_ERROR
    return made


def scored(policy: Policy, recipe: Recipe, made: list[Episode]) -> list[Episode]:
    """Fill in log-probabilities and entropies as our own trainer computes them."""
    batch = make_batch(made, "merged")
    values = torch.zeros(2, len(batch))
    with torch.no_grad():
        for micro in micro_batches(batch, torch.ones(len(batch), dtype=torch.bool), 4096, policy.device):
            found = score_tokens(policy, micro.input_ids, micro.rows, micro.columns, recipe.rollout.temperature)
            values[:, micro.tokens] = torch.stack(found)
    place = 0
    for episode in made:
        for turn in episode.turns:
            end = place + len(turn.action_ids)
            turn.logprobs, turn.entropies = values[0, place:end].tolist(), values[1, place:end].tolist()
            place = end
    return made


CASES: dict[str, dict[str, Any]] = {
    "empg": {},
    "token mean": {"loss": {"aggregation": "token_mean"}},
    "constant": {"loss": {"aggregation": "constant"}, "credit": {"advantage": "dr_grpo"}},
    "dropped groups": {"credit": {"drop_zero_variance": True}},
    "dropped groups, token mean": {"credit": {"drop_zero_variance": True}, "loss": {"aggregation": "token_mean"}},
    "penalties": {"credit": {"invalid_penalty": 0.5, "modulation": None}},
    "gigpo": {"credit": {"advantage": "gigpo", "modulation": {"name": "scaling"}}},
    "entropy of actions": {"credit": {"modulation": {"name": "empg_variant", "entropy": "action"}}},
    "gtpo": {"credit": {"modulation": "gtpo"}, "rollout": {"temperature": 0.8, "groups": 2, "group_size": 4}},
    "KL": {  # the policy of the first iteration is the reference
        "iterations": 2,
        "loss": {"kl_coef": 1.0, "aggregation": "token_mean"},
        "optimizer": {"lr": 0.02, "max_grad_norm": 1e9},
    },
}


@pytest.mark.parametrize("sections", CASES.values(), ids=CASES)
def test_the_same_episodes_get_the_same_credit_and_gradient(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sections: dict[str, Any]
) -> None:
    recipe = resolve(small_recipe(**{"iterations": 1, "evaluation": {"splits": []}, **sections}))
    flat = "drop_zero_variance" in sections.get("credit", {})

    here = tiny_policy(recipe)
    reference = here.reference() if recipe.loss.kl_coef else None
    update = Update(here, make_optimizer(here, recipe.optimizer), recipe, Workers(), reference)
    for iteration in range(recipe.iterations):
        assigned = assign_credit(scored(here, recipe, episodes(flat=flat, broken=True)), recipe, Workers())
        stats = update(assigned, iteration)

    def fixed(self: EpisodeRollout, prompts: list[str], trainer: Any) -> dict[str, Any]:
        self.episodes = episodes(flat=flat, broken=True)
        return {**token_columns(self.episodes, 3), "logprobs": None}

    kept: dict[str, Any] = {}

    class Kept(RecipeTrainer):
        def assign(self, inputs: Any, batch: Any, scores: Any) -> None:
            super().assign(inputs, batch, scores)
            kept.update(assigned=self.assigned, advantages=batch["advantages"], mask=batch["tool_mask"])

    monkeypatch.setattr(EpisodeRollout, "__call__", fixed)
    monkeypatch.setattr(training, "RecipeTrainer", Kept)
    train(recipe, tmp_path / "run")
    theirs = kept["assigned"]
    torch.testing.assert_close(theirs.advantages, assigned.advantages, atol=2e-4, rtol=1e-3)
    assert torch.equal(theirs.counted, assigned.counted)
    assert torch.equal(kept["advantages"][kept["mask"] == 1], theirs.token_advantages[theirs.keep])
    assert int(kept["mask"].sum()) == int(assigned.keep.sum())
    *_, record = [r for r in RunFolder.open(tmp_path / "run").read_metrics() if r["kind"] == "train"]
    assert record["policy/grad_norm"] == pytest.approx(stats.grad_norm, rel=2e-3)
    assert record["policy/loss"] == pytest.approx(stats.loss["loss"], abs=2e-4)
    assert record["tokens/trained"] == stats.tokens


def test_an_iteration_without_a_trained_token_leaves_the_policy_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sections: dict[str, Any] = {"optimizer": {"lr": 0.01, "weight_decay": 0.5}, "credit": {"drop_zero_variance": True}}
    recipe = resolve(small_recipe(iterations=2, evaluation={"splits": []}, **sections))
    played = iter((episodes(flat=False), [fixed_episode(0) for _ in range(8)]))  # then every reward is the same

    def fixed(self: EpisodeRollout, prompts: list[str], trainer: Any) -> dict[str, Any]:
        self.episodes = next(played)
        return {**token_columns(self.episodes, 3), "logprobs": None}

    monkeypatch.setattr(EpisodeRollout, "__call__", fixed)
    train(recipe, tmp_path / "run")
    weights = [tmp_path / "run" / "checkpoints" / name / "model.safetensors" for name in ("iter-000001", "iter-000002")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_turn_without_tokens_is_not_a_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fixed(self: EpisodeRollout, prompts: list[str], trainer: Any) -> dict[str, Any]:
        self.episodes = episodes(flat=False)
        empty = self.episodes[2].turns[1]
        empty.action_ids, empty.logprobs, empty.action_start = [], [], 0
        return {**token_columns(self.episodes, 3), "logprobs": None}

    monkeypatch.setattr(EpisodeRollout, "__call__", fixed)
    train(resolve(small_recipe(iterations=1, evaluation={"splits": []})), tmp_path / "run")
    [record] = [r for r in RunFolder.open(tmp_path / "run").read_metrics() if r["kind"] == "train"]
    assert record["policy/grad_norm"] > 0


def test_what_trl_itself_refuses_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"^--engine trl: .*sync_ref_model") as raised:
        train(resolve(small_recipe(trl={"sync_ref_model": True})), tmp_path / "run")
    assert "\n" not in str(raised.value)


def test_with_vllm_an_iteration_without_a_turn_has_log_probabilities_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(LocalEnvPool, "reset", lambda self, slots, tasks: [Outcome(error="the lamps are out")] * 2)
    rollout = EpisodeRollout(resolve(small_recipe()))
    policy = tiny_policy()
    for use_vllm in (True, False):
        trainer = SimpleNamespace(
            accelerator=SimpleNamespace(unwrap_model=lambda model: model, device=policy.device),
            model=policy.model,
            processing_class=policy.tokenizer,
            use_vllm=use_vllm,
        )
        assert rollout(["0", "0"], trainer)["logprobs"] == ([[0.0], [0.0]] if use_vllm else None)


def test_a_resume_makes_up_for_an_evaluation_that_is_missing(tmp_path: Path) -> None:
    train(resolve(small_recipe(iterations=1, evaluation={"splits": []})), tmp_path / "run")
    for _ in range(2):  # and only once
        train(resolve(small_recipe(iterations=1)), tmp_path / "run", resume=True)
    kinds = [r["kind"] for r in RunFolder.open(tmp_path / "run").read_metrics()]
    assert [kind for kind in kinds if kind != "resume"] == ["run", "train", "eval"]


def test_vllm_that_is_missing_is_named_before_a_run_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    recipe = resolve(small_recipe(trl={"use_vllm": True, "vllm_mode": "colocate"}))
    if util.find_spec("vllm") is None:
        with pytest.raises(
            UserError, match=r"^trl.use_vllm: needs the package vllm: pip install vllm, or remove the key"
        ):
            train(recipe, tmp_path / "run", force=True)
    assert not any((tmp_path / "run").iterdir())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small recipe trained by both engines: `trl` and `local`."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = resolve(small_recipe())
    train(recipe, folder / "trl", command="empg train --engine trl")
    train_here(recipe, folder / "local")
    return folder


def test_the_run_folder_has_the_same_records_and_tables(runs: Path) -> None:
    ours, theirs = (RunFolder.open(runs / name) for name in ("local", "trl"))

    def shape(run: RunFolder) -> list[Any]:
        return [(r["kind"], r.get("iteration"), sorted(k for k in r if k != "nonfinite")) for r in run.read_metrics()]

    assert shape(theirs) == shape(ours)
    assert theirs.episode_iterations() == ours.episode_iterations() == [1, 2]
    for iteration in (1, 2):
        mine, other = ours.read_episodes(iteration), theirs.read_episodes(iteration)
        assert mine.keys() == other.keys()
        assert set(mine["task_index"]) == set(other["task_index"])  # the same tasks in the same iterations
        assert all(value is not None for value in other["entropy_normalised"])


def test_the_policies_are_evaluated_on_the_same_panel_with_the_same_random_numbers(runs: Path) -> None:
    first = [next(r for r in RunFolder.open(runs / n).read_metrics() if r["kind"] == "eval") for n in ("local", "trl")]
    assert {key: value for key, value in first[0].items() if key != "time"} == {
        key: value for key, value in first[1].items() if key != "time"
    }


def test_the_commands_read_the_run(runs: Path) -> None:
    compared = CliRunner().invoke(app, ["compare", str(runs / "local"), str(runs / "trl")])
    assert compared.exit_code == 0, compared.output
    reported = CliRunner().invoke(app, ["report", str(runs / "trl")])
    assert reported.exit_code == 0, reported.output
    evaluated = CliRunner().invoke(app, ["evaluate", str(runs / "trl"), "--episodes", "2"])
    assert evaluated.exit_code == 0, evaluated.output


def test_a_run_continues_where_it_was_stopped(runs: Path, tmp_path: Path) -> None:
    train(resolve(small_recipe(iterations=1)), tmp_path / "run")
    train(resolve(small_recipe()), tmp_path / "run", resume=True)
    once, twice = (RunFolder.open(path) for path in (runs / "trl", tmp_path / "run"))
    assert [r["kind"] for r in twice.read_metrics()] == ["run", "eval", "train", "eval", "resume", "train", "eval"]
    assert twice.read_episodes(2)["action_ids"] == once.read_episodes(2)["action_ids"]
    files = [run.checkpoints / "iter-000002" / "model.safetensors" for run in (once, twice)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_resumed_run_may_change_how_often_it_is_saved(tmp_path: Path) -> None:
    sections: dict[str, Any] = {"evaluation": {"splits": []}, "keep_checkpoints": 5}
    train(resolve(small_recipe(iterations=1, **sections)), tmp_path / "run")
    train(resolve(small_recipe(iterations=4, checkpoint_every=3, **sections)), tmp_path / "run", resume=True)
    assert Checkpoints(tmp_path / "run" / "checkpoints").names() == ["iter-000001", "iter-000003", "iter-000004"]


def test_a_run_that_was_killed_between_both_saves_continues_with_the_same_bits(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = training._Recorder._save

    def killed(self: Any, name: str) -> None:
        if name == "iter-000002":  # TRL has saved its own and removed its oldest
            raise KeyboardInterrupt
        save(self, name)

    recipe = resolve(small_recipe(keep_checkpoints=1))
    monkeypatch.setattr(training._Recorder, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "run")
    monkeypatch.undo()
    train(recipe, tmp_path / "run", resume=True)
    once, twice = (
        path / "checkpoints" / "iter-000002" / "model.safetensors" for path in (runs / "trl", tmp_path / "run")
    )
    assert once.read_bytes() == twice.read_bytes()


def test_a_missing_checkpoint_of_trl_is_named(tmp_path: Path) -> None:
    recipe = resolve(small_recipe(iterations=1, evaluation={"splits": []}))
    train(recipe, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "trl" / "checkpoint-1")
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match=r"checkpoint-1 is missing, so .* cannot be resumed from iter-000001: remove"):
        train(recipe, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_a_wrong_recipe_is_found_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    command = ["train", str(tmp_path / "small.yaml"), "--engine", "trl", "--run", str(tmp_path / "run")]
    done = CliRunner().invoke(app, [*command, "credit.process_reward=foo:bar"])
    assert done.exit_code == 1
    assert "No module named 'foo'" in done.output
    assert not (tmp_path / "run").exists()


def test_a_run_of_the_other_engine_is_not_continued(runs: Path) -> None:
    with pytest.raises(UserError, match="has no checkpoint of the engine trl: resume it with the engine"):
        train(resolve(small_recipe(iterations=3)), runs / "local", resume=True)
    with pytest.raises(UserError, match="has no optimizer state, so another engine trained it"):
        train_here(resolve(small_recipe(iterations=3)), runs / "trl", resume=True)


def test_a_run_without_our_own_checkpoints_is_not_restarted_by_a_resume(tmp_path: Path) -> None:
    recipe = resolve(small_recipe(iterations=1, evaluation={"splits": []}))
    train(recipe, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "iter-000001")  # as sharded weights leave it
    before = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError, match="was trained with sharded weights, so it cannot be resumed"):
        train(recipe, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == before


def test_an_existing_run_is_overwritten_only_by_force(tmp_path: Path) -> None:
    recipe = resolve(small_recipe(iterations=1, evaluation={"splits": []}))
    train(recipe, tmp_path / "run")
    with pytest.raises(UserError, match="already holds a run"):
        train(recipe, tmp_path / "run")
    train(recipe.model_copy(update={"checkpoint_every": 5}), tmp_path / "run", force=True)
    left = sorted(path.name for path in (tmp_path / "run" / "checkpoints" / "trl").glob("checkpoint-*"))
    assert left == ["checkpoint-1"]  # the last iteration is saved, whatever the interval


def test_a_warm_start_comes_before_trl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = resolve(
        small_recipe(iterations=1, warm_start={"episodes": 16, "episodes_per_step": 8}, evaluation={"splits": []})
    )
    train(recipe, tmp_path / "run")
    kinds = [record["kind"] for record in RunFolder.open(tmp_path / "run").read_metrics()]
    assert kinds == ["run", "warm_start", "warm_start", "train"]


def test_adapters_are_trained_saved_and_merged(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    policy = {"device": "cpu", "tiny": small_recipe().policy.tiny.model_dump(), "lora": {"r": 4, "alpha": 8}}
    recipe = resolve(small_recipe(iterations=1, policy=policy, loss={"kl_coef": 0.1}, optimizer={"lr": 0.01}))
    train(recipe, tmp_path / "run")
    saved = tmp_path / "run" / "checkpoints" / "iter-000001"
    before = load_file(saved.with_name("start") / "adapter_model.safetensors")
    after = load_file(saved / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)

    base = build_policy(recipe.model_copy(update={"policy": recipe.policy.model_copy(update={"lora": None})})).model
    merged = peft.PeftModel.from_pretrained(base, saved).merge_and_unload()
    ids = torch.arange(20, 60)[None]
    adapted = build_policy(recipe, saved).model
    assert not any("lora" in name for name, _ in merged.named_parameters())
    torch.testing.assert_close(merged(ids).logits, adapted(ids).logits, atol=1e-5, rtol=1e-5)


def test_the_learning_rate_falls_over_the_whole_run(tmp_path: Path) -> None:
    recipe = resolve(small_recipe(iterations=4, optimizer={"schedule": "linear"}, evaluation={"splits": []}))
    train(recipe, tmp_path / "run")
    rates = [r["policy/lr"] for r in RunFolder.open(tmp_path / "run").read_metrics() if r["kind"] == "train"]
    assert rates == pytest.approx([0.001, 0.00075, 0.0005, 0.00025])
