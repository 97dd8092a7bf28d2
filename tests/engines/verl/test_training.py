"""verl itself, on two processes without a GPU: Ray, TransferQueue, our agent loop, FSDP2, modulated advantages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import util
from pathlib import Path

import pytest
import yaml

from empg.policy.model import Policy
from empg.recipe import load_recipe
from empg.run.build import build_policy
from tests import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(util.find_spec("verl") is None, reason="verl is not installed: make test-verl runs these tests"),
]

RECIPE = {
    "iterations": 3,
    "environment": {"max_steps": 4, "options": {"rooms": "small"}},
    "policy": {
        "device": "cpu",
        "tiny": {"hidden_size": 32, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate_size": 64, "vocab_size": 400},
    },
    "rollout": {"groups": 2, "group_size": 4, "max_turn_tokens": 12, "max_episode_tokens": 512},
}


def overrides(folder: Path) -> list[str]:
    actor, rollout, model = (f"actor_rollout_ref.{part}" for part in ("actor", "rollout", "model"))
    return [
        f"+empg.recipe={folder}/recipe.yaml",
        "+empg.modulation.name=empg",
        "+empg.modulation.zeta=0.2",
        "trainer.v1.trainer_mode=empg_sync",
        f"data.train_files={folder}/train.parquet",
        f"data.val_files={folder}/valid.parquet",
        "data.shuffle=False",
        "data.train_batch_size=2",
        "data.max_prompt_length=256",
        "data.max_response_length=256",
        "data.filter_overlong_prompts=False",
        "data.dataloader_num_workers=0",
        "algorithm.adv_estimator=grpo",
        f"{model}.path={folder}/model",
        f"{model}.use_remove_padding=False",
        f"{model}.enable_gradient_checkpointing=False",
        f"+{model}.override_config.attn_implementation=sdpa",
        f"{actor}.strategy=fsdp2",
        f"{actor}.ppo_mini_batch_size=2",
        f"{actor}.ppo_micro_batch_size_per_gpu=4",
        f"{actor}.optim.lr=1e-2",
        f"{actor}.use_kl_loss=False",
        f"{actor}.fsdp_config.use_torch_compile=False",
        f"+{actor}.fsdp_config.mixed_precision.param_dtype=fp32",
        f"+{actor}.fsdp_config.mixed_precision.reduce_dtype=fp32",
        f"{rollout}.name=empg_hf",
        f"{rollout}.n=4",
        f"{rollout}.tensor_model_parallel_size=1",
        f"{rollout}.agent.num_workers=1",
        f"{rollout}.calculate_log_probs=True",
        f"{rollout}.log_prob_micro_batch_size_per_gpu=4",
        "trainer.device=cpu",
        "trainer.n_gpus_per_node=2",
        "trainer.nnodes=1",
        "trainer.logger=[console,file]",
        "trainer.val_before_train=False",
        "trainer.save_freq=2",
        f"trainer.default_local_dir={folder}/checkpoints",
        "reward.num_workers=1",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
        "ray_kwargs.ray_init.num_cpus=16",  # Ray counts them, and starts nothing without one
        "+ray_kwargs.ray_init.num_gpus=2",
        "+ray_kwargs.ray_init.include_dashboard=False",
    ]


def train(folder: Path, name: str, *more: str) -> list[dict[str, float]]:
    """Run verl and return its metrics, step by step."""
    log = folder / f"{name}.jsonl"
    environment = {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VERL_USE_EXTERNAL_MODULES": "tests.engines.verl.cpu",
        "VERL_ENGINE_DEVICE": "cuda",
        "VERL_FILE_LOGGER_PATH": str(log),
        "HYDRA_FULL_ERROR": "1",
        "RAY_DEDUP_LOGS": "0",
    }
    with (folder / f"{name}.log").open("w") as output:
        done = subprocess.run(
            [sys.executable, "-m", "verl.trainer.main_ppo", *overrides(folder), *more],
            env=environment,
            cwd=folder,
            stdout=output,
            stderr=subprocess.STDOUT,
            timeout=1500,
        )
    assert done.returncode == 0, (folder / f"{name}.log").read_text()[-4000:]
    return [{"step": line["step"], **line["data"]} for line in map(json.loads, log.read_text().splitlines())]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from empg.engines.verl.tasks import write_tasks

    folder = tmp_path_factory.mktemp("verl")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    recipe = load_recipe(folder / "recipe.yaml")
    write_tasks(recipe, folder)
    policy: Policy = build_policy(recipe)
    policy.model.save_pretrained(folder / "model")
    policy.tokenizer.save_pretrained(folder / "model")
    return folder


def test_three_steps_with_a_checkpoint_from_which_the_training_continues(folder: Path) -> None:
    steps = train(folder, "whole", "trainer.total_training_steps=3")
    assert [step["step"] for step in steps] == [1, 2, 3]
    for step in steps:
        assert 1 <= step["credit/steps_per_episode"] <= 4
        assert step["credit/advantage_abs_mean"] > 0  # no episode is won: all credit is the bonus
        assert abs(step["critic/score/mean"]) <= 1
        assert step["credit/scale_min"] < step["credit/scale_max"]
        assert step["critic/advantages/max"] > 0 > step["critic/advantages/min"]
        assert step["training/rollout_probs_diff_max"] < 1e-4  # the rollout engine has the weights of the trainer

    (folder / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("2")
    continued = train(folder, "continued", "trainer.total_training_steps=3")
    assert [step["step"] for step in continued] == [3]
