"""A recipe becomes verl's configuration, or an error that names what verl does not do."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from empg.cli import app
from empg.engines.verl.settings import config_text, overrides
from empg.errors import RecipeError
from empg.recipe import Recipe, load_recipe, override_recipe, parse_recipe
from empg.run.build import resolve
from tests import ROOT

pytestmark = pytest.mark.filterwarnings("default")  # of verl

RUN = Path("/runs/one")
SMALL: dict[str, Any] = {
    "name": "one",
    "seed": 7,
    "iterations": 5,
    "environment": {"max_steps": 4, "options": {"rooms": "small"}},
    "policy": {"model": "Qwen/Qwen2.5-1.5B-Instruct"},
    "agent": {"date": "2026-01-01"},
    "rollout": {"groups": 6, "group_size": 4, "max_turn_tokens": 16, "max_episode_tokens": 512},
    "optimizer": {"old_logprobs": "recomputed", "lr": 1.0e-6, "micro_batch_tokens": 1024, "minibatches": 3},
    "loss": {"aggregation": "token_mean"},
    "evaluation": {"splits": ["valid_seen"], "temperature": 0.4},
}
needs_verl = pytest.mark.skipif(util.find_spec("verl") is None, reason="verl is not installed: make test-verl")


def small_recipe(**sections: Any) -> Recipe:
    """The small recipe with other values; those of a section are added to its own."""
    merged = {
        key: {**SMALL.get(key, {}), **value} if isinstance(value, dict) else value for key, value in sections.items()
    }
    return resolve(parse_recipe({**SMALL, **merged}))


def test_the_values_of_a_recipe_are_these() -> None:
    actor, rollout, model = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "model"))
    assert overrides(small_recipe(), RUN) == {
        "+empg.recipe": "/runs/one/recipe.yaml",
        "+empg.run": "/runs/one",
        "algorithm.adv_estimator": "grpo",
        "algorithm.rollout_correction.bypass_mode": False,
        "algorithm.use_kl_in_reward": False,
        "critic.enable": False,
        "data.train_files": "/runs/one/checkpoints/verl/train.parquet",
        "data.val_files": "/runs/one/checkpoints/verl/valid.parquet",
        "data.dataloader_num_workers": 0,
        "data.shuffle": False,
        "data.train_batch_size": 6,
        "data.filter_overlong_prompts": False,
        "data.max_prompt_length": 16,  # with the next one the length of a context, 512
        "data.max_response_length": 496,
        "data.train_max_samples": -1,
        "data.val_max_samples": -1,
        f"{model}.path": "Qwen/Qwen2.5-1.5B-Instruct",
        f"{actor}.strategy": "fsdp2",
        f"{actor}.data_loader_seed": 7,
        f"{actor}.shuffle": True,
        f"{actor}.ppo_mini_batch_size": 2,
        f"{actor}.ppo_epochs": 1,
        f"{actor}.use_dynamic_bsz": True,
        f"{actor}.ppo_max_token_len_per_gpu": 1024,
        f"{actor}.policy_loss.loss_mode": "vanilla",
        f"{actor}.clip_ratio": 0.2,
        f"{actor}.clip_ratio_low": 0.2,
        f"{actor}.clip_ratio_high": 0.2,
        f"{actor}.clip_ratio_c": 1e9,
        f"{actor}.loss_agg_mode": "token-mean",
        f"{actor}.loss_scale_factor": None,
        f"{actor}.use_kl_loss": False,
        f"{actor}.kl_loss_coef": 0.0,
        f"{actor}.kl_loss_type": "low_var_kl",
        f"{actor}.entropy_coeff": 0.0,
        f"{actor}.grad_clip": 1.0,
        f"{actor}.optim.lr": 1.0e-6,
        f"{actor}.optim.betas": [0.9, 0.99],
        f"{actor}.optim.weight_decay": 0.0,
        f"{actor}.optim.clip_grad": 1.0,
        f"{actor}.optim.lr_scheduler_type": "constant",
        f"{actor}.optim.lr_warmup_steps": 0,
        f"{actor}.optim.lr_warmup_steps_ratio": 0.0,
        f"{actor}.checkpoint.save_contents": ["model", "optimizer", "extra", "hf_model"],
        f"{actor}.fsdp_config.seed": 7,
        f"{actor}.fsdp_config.model_dtype": "fp32",
        f"+{actor}.fsdp_config.mixed_precision.param_dtype": "fp32",
        f"+{actor}.fsdp_config.mixed_precision.reduce_dtype": "fp32",
        "+actor_rollout_ref.ref.fsdp_config.mixed_precision.param_dtype": "fp32",
        "+actor_rollout_ref.ref.fsdp_config.mixed_precision.reduce_dtype": "fp32",
        f"{model}.enable_gradient_checkpointing": False,
        f"{rollout}.name": "vllm",
        f"{rollout}.tensor_model_parallel_size": 1,
        f"{rollout}.seed": 7,
        f"{rollout}.n": 4,
        f"{rollout}.prompt_length": 16,
        f"{rollout}.response_length": 496,
        f"{rollout}.temperature": 1.0,
        f"{rollout}.top_p": 1.0,
        f"{rollout}.val_kwargs.n": 1,
        f"{rollout}.val_kwargs.do_sample": True,
        f"{rollout}.val_kwargs.temperature": 0.4,
        f"{rollout}.val_kwargs.top_p": 1.0,
        "trainer.project_name": "empg",
        "trainer.experiment_name": "one",
        "trainer.logger": ["console"],
        "trainer.device": "cuda",
        "trainer.n_gpus_per_node": max(1, torch.cuda.device_count()),
        "trainer.v1.trainer_mode": "empg_recipe",
        "trainer.resume_mode": "auto",
        "trainer.default_local_dir": "/runs/one/checkpoints/verl",
        "trainer.total_epochs": 1,
        "trainer.total_training_steps": 5,
        "trainer.val_only": False,
        "trainer.critic_warmup": 0,
        "trainer.save_freq": 10,
        "trainer.max_actor_ckpt_to_keep": 3,  # one more than the recipe's
        "trainer.val_before_train": True,
        "trainer.test_freq": 5,  # only after the last iteration
    }


@pytest.mark.parametrize(
    ("section", "value", "key", "expected"),
    [
        ("policy", {"model": "tiny"}, "actor_rollout_ref.model.path", "/runs/one/checkpoints/start"),
        ("policy", {"dtype": "bfloat16"}, "actor_rollout_ref.actor.fsdp_config.model_dtype", "bf16"),
        ("policy", {"lora": {"r": 8}}, "actor_rollout_ref.model.lora_rank", 8),
        ("policy", {"lora": {}}, "actor_rollout_ref.actor.checkpoint.save_contents", ["model", "optimizer", "extra"]),
        ("policy", {"device": "cpu"}, "trainer.device", "cpu"),
        ("agent", {"history": "per_turn"}, "data.max_response_length", 16),
        ("loss", {"aggregation": "episode_mean"}, "actor_rollout_ref.actor.loss_agg_mode", "seq-mean-token-mean"),
        ("loss", {"aggregation": "constant"}, "actor_rollout_ref.actor.loss_scale_factor", 512),
        ("loss", {"clip_high": 0.28}, "actor_rollout_ref.actor.clip_ratio_high", 0.28),
        ("loss", {"dual_clip": 3.0}, "actor_rollout_ref.actor.clip_ratio_c", 3.0),
        ("loss", {"kl_coef": 0.01, "kl_estimator": "k2"}, "actor_rollout_ref.actor.kl_loss_type", "mse"),
        ("loss", {"kl_coef": 0.01}, "actor_rollout_ref.actor.use_kl_loss", True),
        ("optimizer", {"schedule": "cosine"}, "actor_rollout_ref.actor.optim.lr_scheduler_type", "cosine"),
        ("optimizer", {"autocast": True}, "+actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype", "bf16"),
        ("evaluation", {"every": 2}, "trainer.test_freq", 2),
        ("evaluation", {"splits": []}, "trainer.test_freq", -1),
        ("evaluation", {"splits": []}, "trainer.val_before_train", False),
        ("evaluation", {"decoding": ["greedy"]}, "actor_rollout_ref.rollout.val_kwargs.temperature", 0.0),
        ("verl", {"trainer": {"nnodes": 2}}, "trainer.nnodes", 2),
        ("verl", {"actor_rollout_ref.rollout.name": "sglang"}, "actor_rollout_ref.rollout.name", "sglang"),
        ("verl", {"+ray_kwargs": {"ray_init": {"num_gpus": 2}}}, "+ray_kwargs.ray_init.num_gpus", 2),
        ("verl", {"++ray_kwargs.ray_init.num_gpus": 2}, "+ray_kwargs.ray_init.num_gpus", 2),
    ],
)  # fmt: skip
def test_a_setting_becomes_a_value(section: str, value: Any, key: str, expected: Any) -> None:
    assert overrides(small_recipe(**{section: value}), RUN)[key] == expected


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"iterations": 0}, "iterations: expected >= 1, got 0"),
        ({"workers": 2}, "workers: expected 1, because verl starts the processes, got 2; set verl.trainer.n_gpus_per"),
        ({"policy": {"device": "cuda:1"}}, "policy.device: expected auto, cpu or cuda, got cuda:1"),
        ({"policy": {"model": "tiny", "lora": {}}}, "policy.lora: expected null with policy.model=tiny"),
        ({"warm_start": {}}, "warm_start: expected null; train it with --engine local"),
        ({"rollout": {"group_size": 1}, "credit": {"advantage": "reinforce"}}, "rollout.group_size: expected >= 2"),
        ({"rollout": {"max_turn_tokens": 512}}, "rollout.max_turn_tokens: expected < rollout.max_episode_tokens = 512"),
        ({"optimizer": {"minibatches": 4}}, "optimizer.minibatches: expected a divisor of rollout.groups = 6, got 4"),
        ({"optimizer": {"micro_batch_tokens": 511}}, "optimizer.micro_batch_tokens: expected >= rollout.max_episode"),
        ({"optimizer": {"old_logprobs": "sampled"}}, "optimizer.old_logprobs: expected recomputed, got sampled"),
        ({"optimizer": {"compile": True}}, "optimizer.compile: expected false; verl compiles its scores by default"),
        ({"optimizer": {"schedule": "linear"}}, "optimizer.schedule: expected constant or cosine, got linear"),
        ({"credit": {"advantage": "gae"}}, "credit.advantage: expected one without a critic, got gae"),
        ({"credit": {"drop_zero_variance": True, "max_resample": 2}},
         "credit.max_resample: expected 0, got 2; verl.algorithm.filter_groups.enable=true"),
        ({"loss": {"ratio": "episode"}}, "loss.ratio: expected token, got episode"),
        ({"agent": {"history": "per_turn"}, "loss": {"aggregation": "episode_mean"}},
         "loss.aggregation: expected token_mean with agent.history=per_turn"),
        ({"credit": {"drop_zero_variance": True}, "loss": {"aggregation": "constant"}},
         "loss.aggregation: expected token_mean with credit.drop_zero_variance"),
        ({"evaluation": {"decoding": ["sampled", "greedy"]}},
         "evaluation.decoding: expected one of sampled and greedy"),
        ({"verl": {"data": {"train_batch_size": 8}}}, "verl.data.train_batch_size: is set by rollout.groups; remove"),
        ({"verl": {"actor_rollout_ref.actor.optim": None}}, "verl.actor_rollout_ref.actor.optim: is set by optimizer"),
        ({"verl": {"data": {"val_max_samples": 1}}}, "verl.data.val_max_samples: is set by evaluation.episodes; rem"),
        ({"verl": {"data": {"train_max_samples": 1}}}, "verl.data.train_max_samples: is set by iterations; remove it"),
        ({"verl": {"trainer": {"val_only": True}}}, "verl.trainer.val_only: is set by iterations; remove it"),
        ({"verl": {"trainer": {"critic_warmup": 5}}}, "verl.trainer.critic_warmup: is set by iterations; remove it"),
        ({"verl": {"actor_rollout_ref.rollout.prompt_length": 5}},
         "verl.actor_rollout_ref.rollout.prompt_length: is set by rollout.max_episode_tokens; remove it"),
        ({"verl": {"trainer": {"n_gpus_per_node": "abc"}}},
         "verl.trainer.n_gpus_per_node: expected a whole number >= 1, got 'abc'"),
        ({"verl": {"trainer.n_gpus_per_node": 0}}, "verl.trainer.n_gpus_per_node: expected a whole number >= 1, got 0"),
        ({"verl": {"trainer": {"nnodes": True}}}, "verl.trainer.nnodes: expected a whole number >= 1, got True"),
        ({"verl": {"+empg.run": "x"}}, "verl.+empg.run: is set by the run folder; remove it"),
    ],
)  # fmt: skip
def test_what_the_engine_does_not_do_is_named(sections: dict[str, Any], message: str) -> None:
    recipe = small_recipe(**sections)
    with pytest.raises(RecipeError) as raised:
        overrides(recipe, RUN)
    [line] = str(raised.value).splitlines()
    assert line.startswith(f"--engine verl: {message}")


@pytest.mark.parametrize("given", [{"trainer.n_gpus_per_node": 8}, {"trainer": {"n_gpus_per_node": 8}}])
def test_the_command_line_overrides_a_key_in_either_spelling(given: dict[str, Any]) -> None:
    file = {**SMALL, "verl": {**given, "data.seed": 3}}
    recipe = override_recipe(file, ["verl.trainer.n_gpus_per_node=4", "verl.trainer.nnodes=2"])
    assert recipe.verl == {"trainer": {"n_gpus_per_node": 4, "nnodes": 2}, "data": {"seed": 3}}
    assert overrides(resolve(recipe), RUN)["trainer.n_gpus_per_node"] == 4


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"trainer": {"nnodes": 2}, "trainer.nnodes": 4}, "trainer.nnodes: is given twice, nested and dotted. Keep"),
        ({"trainer.nnodes": 4, "trainer": None}, "trainer: is given twice, also by trainer.nnodes"),
        ({"trainer": {}, "trainer.nnodes": 4}, "trainer.nnodes: is given twice, also by trainer, "),
        ({"++trainer.nnodes": 2, "trainer": {"nnodes": 4}}, r"trainer.nnodes: is given twice, also by \+\+"),
        ({"~trainer": {"nnodes": 2}}, "~trainer.nnodes: a key cannot be removed. Remove the line, or"),
        ({".".join("a" * 60): 1}, r"[a.]+: expected at most 50 levels"),
        ({"a": {".".join("a" * 60): {"a": 1}}}, r"[a.]+: expected at most 50 levels"),
    ],
)  # fmt: skip
def test_a_key_of_the_section_has_one_value(section: dict[str, Any], message: str) -> None:
    for read in (parse_recipe, lambda data: override_recipe(data, [])):
        with pytest.raises(RecipeError, match=f"^recipe: verl: {message}"):
            read({**SMALL, "verl": section})


def test_every_problem_has_a_line() -> None:
    with pytest.raises(RecipeError) as raised:
        overrides(small_recipe(loss={"ratio": "step"}, optimizer={"old_logprobs": "sampled"}), RUN)
    assert len(str(raised.value).splitlines()) == 2


@needs_verl
def test_a_dry_run_prints_the_whole_configuration(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    command = ["train", str(tmp_path / "small.yaml"), "--dry-run", "--run", str(tmp_path / "run"), "--engine", "verl"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    printed = yaml.safe_load(result.stdout)
    assert printed["empg"]["run"] == str(tmp_path / "run")
    assert printed["actor_rollout_ref"]["ref"]["log_prob_max_token_len_per_gpu"] == 1024  # what verl derives
    assert not (tmp_path / "run").exists()


@needs_verl
@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"trainer": {"nnode": 2}}, "verl.trainer.nnode: is not a key of verl's configuration; did you mean 'trainer."),
        ({"trainer": {"n_gpus_per_node": 2}, "actor_rollout_ref": {"actor": {"ulysses_sequence_parallel_size": 2},
          "model": {"use_remove_padding": False}}}, "When using sequence parallelism"),
    ],
)  # fmt: skip
def test_what_verl_rejects_is_an_error_before_anything_starts(section: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as raised:
        config_text(small_recipe(verl=section), RUN)
    assert str(raised.value).startswith(f"--engine verl: {message}")


PAPER = sorted((ROOT / "recipes" / "paper").glob("*.yaml"))


@pytest.mark.parametrize("file", PAPER, ids=lambda file: file.stem)
def test_the_recipes_of_the_paper_fit_the_engine(file: Path, tmp_path: Path) -> None:
    recipe = resolve(load_recipe(file))
    values = overrides(recipe, tmp_path)
    assert recipe.name == file.stem
    assert values["actor_rollout_ref.model.path"] == recipe.policy.model
    assert values["trainer.total_training_steps"] == (220 if "deepsearch" in file.stem else 150)
    assert values.get("algorithm.filter_groups.enable", False) == ("dapo" in file.stem)
    gpus = values["trainer.n_gpus_per_node"] * values.get("trainer.nnodes", 1)
    assert gpus == {"1.5b": 4, "7b": 8, "32b": 32}[file.stem.split("-")[2]]  # as in the paper
    if util.find_spec("verl") is not None:
        printed = yaml.safe_load(config_text(recipe, tmp_path))
        assert printed["actor_rollout_ref"]["rollout"]["n"] == 8


@pytest.mark.parametrize("file", [file for file in PAPER if file.stem.endswith("-empg")], ids=lambda file: file.stem)
def test_a_recipe_with_empg_differs_from_its_base_in_the_modulation_alone(file: Path) -> None:
    base = load_recipe(file.with_name(file.name.replace("-empg", ""))).model_dump()
    mine = load_recipe(file).model_dump()
    assert base["credit"].pop("modulation") is None
    assert mine["credit"].pop("modulation") == {"name": "empg", "k": 1.0, "k_future": 1.0, "zeta": 0.1, "eps": 1e-8}
    assert mine.pop("algorithm") == f"{base.pop('algorithm')}+empg"
    assert mine.pop("name") == f"{base.pop('name')}-empg"
    assert mine == base


def test_the_ablations_are_those_of_the_paper() -> None:
    found = {
        file.stem.removeprefix("deepsearch-qwen2.5-32b-dapo"): load_recipe(file).credit.modulation
        for file in PAPER
        if file.stem.startswith("deepsearch")
    }
    names = {suffix: rule and rule.name for suffix, rule in found.items()}
    assert names == {"": None, "-clarity": "clarity", "-empg": "empg", "-scaling": "scaling"}
