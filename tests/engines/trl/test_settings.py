"""A recipe becomes the arguments of TRL's trainer, or an error that names what TRL does not do."""

from __future__ import annotations

import warnings
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("trl", reason="trl is not installed: make test-trl runs these tests")

from typer.testing import CliRunner

from empg.cli import app
from empg.engines.trl.settings import _WIDER, SET_BY, _fits, config_text, engine_config
from empg.errors import RecipeError
from empg.recipe import load_recipe
from empg.run.build import resolve
from tests import ROOT
from tests.engines.trl.parts import SMALL, small_recipe

pytestmark = pytest.mark.filterwarnings("default")  # of transformers about its own names


def config(**sections: Any) -> Any:
    return engine_config(resolve(small_recipe(**sections)), Path("out"))


def test_an_iteration_is_one_generation_batch() -> None:
    found = config(
        rollout={"groups": 6, "group_size": 4, "max_episode_tokens": 512},
        optimizer={"minibatches": 3, "epochs": 2, "micro_batch_tokens": 1024, "warmup_iterations": 1},
        iterations=5,
        checkpoint_every=2,
    )
    assert found.generation_batch_size == 24
    assert (found.num_generations, found.num_iterations) == (4, 2)
    assert (found.per_device_train_batch_size, found.gradient_accumulation_steps) == (2, 4)
    assert (found.max_steps, found.save_steps, found.logging_steps, found.warmup_steps) == (30, 12, 6, 6)


@pytest.mark.parametrize(
    ("section", "value", "argument", "expected"),
    [
        ("loss", {"aggregation": "token_mean"}, "loss_type", "dapo"),
        ("loss", {"aggregation": "constant"}, "loss_type", "dr_grpo"),
        ("loss", {"clip_high": 0.28}, "epsilon_high", 0.28),
        ("loss", {"dual_clip": 3.0}, "delta", 3.0),
        ("loss", {"kl_coef": 0.01}, "beta", 0.01),
        ("optimizer", {"schedule": "cosine"}, "lr_scheduler_type", "cosine"),
        ("optimizer", {"betas": [0.8, 0.95]}, "adam_beta2", 0.95),
        ("optimizer", {"gradient_checkpointing": True}, "gradient_checkpointing", True),
        ("optimizer", {"gradient_checkpointing": True}, "activation_checkpointing", True),
        ("rollout", {"temperature": 0.7}, "temperature", 0.7),
        ("policy", {}, "disable_dropout", True),
        ("policy", {"dtype": "bfloat16"}, "model_init_kwargs", {"dtype": "bfloat16", "attn_implementation": "sdpa"}),
        ("credit", {"modulation": None}, "modulation", None),
        ("credit", {"modulation": {"name": "empg", "zeta": 0.2}}, "modulation",
         {"name": "empg", "k": 1.0, "k_future": 1.0, "zeta": 0.2, "eps": 1e-8}),
        ("trl", {"vllm_gpu_memory_utilization": 0.5}, "vllm_gpu_memory_utilization", 0.5),
    ],
)  # fmt: skip
def test_a_setting_becomes_an_argument(section: str, value: Any, argument: str, expected: Any) -> None:
    assert getattr(config(**{section: value}), argument) == expected


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"iterations": 0}, "iterations: expected >= 1, got 0"),
        ({"workers": 2}, "workers: expected 1, the number of processes, got 2; start 2 with torchrun --nproc"),
        ({"agent": {"history": "per_turn"}}, "agent.history: expected merged"),
        ({"rollout": {"group_size": 1}, "credit": {"advantage": "reinforce"}}, "rollout.group_size: expected >= 2"),
        ({"optimizer": {"minibatches": 3}}, "optimizer.minibatches: expected a divisor of 8"),
        ({"credit": {"advantage": "gae"}}, "credit.advantage: expected one without a critic, .* got gae"),
        ({"credit": {"drop_zero_variance": True, "max_resample": 2}}, "credit.max_resample: expected 0"),
        ({"loss": {"ratio": "episode"}}, "loss.ratio: expected token, because .* got episode"),
        ({"loss": {"kl_coef": 0.1, "kl_estimator": "k1"}}, "loss.kl_estimator: expected k3, got k1"),
        ({"loss": {"dual_clip": 1.1}}, "loss.dual_clip: expected > 1 \\+ loss.clip_high = 1.2, got 1.1"),
        ({"optimizer": {"old_logprobs": "sampled"}}, "optimizer.old_logprobs: expected recomputed, got sampled"),
        ({"optimizer": {"compile": True}}, "optimizer.compile: expected false; set trl.torch_compile=true"),
        ({"trl": {"learning_rate": 1.0}}, "trl.learning_rate: is set by optimizer.lr; remove it"),
        ({"trl": {"use_vlm": True}}, "trl.use_vlm: is not an argument of GRPOConfig; did you mean 'use_vllm'"),
        ({"trl": {"mask_truncated_completions": True}}, "trl.mask_truncated_completions: is set by credit.overlong"),
        ({"trl": {"logging_first_step": True}}, "trl.logging_first_step: is set by iterations; remove it"),
        ({"trl": {"save_only_model": True}}, "trl.save_only_model: is set by checkpoint_every; remove it"),
        ({"trl": {"ignore_data_skip": True}}, "trl.ignore_data_skip: is set by environment; remove it"),
        ({"trl": {"use_vllm": "no"}}, "trl.use_vllm: expected bool, got 'no'"),
        ({"trl": {"top_k": "20"}}, "trl.top_k: expected int, got '20'"),
        ({"trl": {"adam_epsilon": "abc"}}, "trl.adam_epsilon: expected float, got 'abc'"),
        ({"trl": {"min_p": True}}, r"trl.min_p: expected float \| None, got True"),
        ({"trl": {"min_p": 3.0}}, r"trl.min_p: expected 0 to 1, got 3.0"),
        ({"trl": {"top_k": -5}}, r"trl.top_k: expected 0 to 1e\+09, got -5"),
        ({"trl": {"lr_scheduler_kwargs": 3}}, r"trl.lr_scheduler_kwargs: expected dict \| str \| None, got 3"),
        ({"trl": {"activation_checkpointing": False}},
         "trl.activation_checkpointing: is set by optimizer.gradient_checkpointing; remove it"),
        ({"trl": {"disable_dropout": False}}, "trl.disable_dropout: is set by policy.model; remove it"),
        ({"trl": {"model_init_kwargs": {"dtype": "float16"}}}, "trl.model_init_kwargs: is set by policy.dtype; remove"),
        ({"trl": {"chat_template_kwargs": {}}}, "trl.chat_template_kwargs: is set by agent.template_arguments; remove"),
        ({"trl": {"generation_kwargs": {"top_p": 0.5}}}, "trl.generation_kwargs.top_p: is set by rollout.top_p; rem"),
        ({"trl": {"generation_kwargs": '{"max_new_tokens": 2}'}},
         "trl.generation_kwargs.max_new_tokens: is set by rollout.max_turn_tokens; remove it"),
        ({"trl": {"auto_find_batch_size": True}}, "auto_find_batch_size is not supported"),
    ],
)  # fmt: skip
def test_what_the_engine_does_not_do_is_named(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"--engine trl: {message}"):
        config(**sections)


def test_the_arguments_of_fsdp_may_be_what_transformers_documents() -> None:
    assert config(trl={"fsdp_config": {"version": 2}, "adam_epsilon": 1}).adam_epsilon == 1
    for value in (True, "full_shard", ["full_shard"]):
        assert _fits(value, _WIDER["fsdp"])


def test_no_argument_has_an_old_name() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config(optimizer={"gradient_checkpointing": True})


def test_a_package_that_is_missing_is_named(tmp_path: Path) -> None:
    if util.find_spec("deepspeed") is None:
        (tmp_path / "ds.json").write_text("{}")
        with pytest.raises(RecipeError, match=r"--engine trl: .*[Dd]eep[Ss]peed"):
            config(trl={"deepspeed": str(tmp_path / "ds.json")})


def test_every_problem_has_a_line() -> None:
    with pytest.raises(RecipeError) as raised:
        config(loss={"ratio": "step"}, optimizer={"old_logprobs": "sampled"})
    assert len(str(raised.value).splitlines()) == 2


def test_the_arguments_that_the_recipe_sets_exist() -> None:
    assert set(SET_BY) <= set(config().to_dict())


def test_a_dry_run_prints_the_whole_configuration(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    command = ["train", str(tmp_path / "small.yaml"), "--dry-run", "--run", str(tmp_path / "run")]
    printed = yaml.safe_load(CliRunner().invoke(app, [*command, "--engine", "trl"]).stdout)
    assert printed["output_dir"] == str(tmp_path / "run" / "checkpoints" / "trl")
    assert printed["num_generations"] == 4
    assert printed["modulation"]["name"] == "empg"
    assert len(printed) > 150
    assert not (tmp_path / "run").exists()


QWEN3 = ["policy.model=Qwen/Qwen3-1.7B", "agent.template_arguments={enable_thinking: false}"]


@pytest.mark.parametrize("changes", [[], QWEN3], ids=["Qwen2.5", "Qwen3"])
@pytest.mark.parametrize("file", sorted((ROOT / "recipes" / "models").glob("*.yaml")), ids=lambda file: file.stem)
def test_the_recipes_for_models_fit_the_engine(file: Path, changes: list[str], tmp_path: Path) -> None:
    recipe = load_recipe(file, changes)
    printed = yaml.safe_load(config_text(resolve(recipe), tmp_path))
    assert printed["generation_batch_size"] == recipe.rollout.groups * recipe.rollout.group_size == 128
    assert printed["vllm_max_model_length"] == recipe.rollout.max_episode_tokens
    assert printed["bf16"]
    assert printed["gradient_checkpointing"]
    assert printed["per_device_train_batch_size"] == (1 if recipe.policy.lora else 4)
    assert recipe.name == file.stem
    for change in changes:  # the top of the file says how
        assert change.split("=")[0] in file.read_text(encoding="utf-8")
