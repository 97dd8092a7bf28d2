"""verl itself, on two processes without a GPU: Ray, TransferQueue, our agent loop, FSDP2, modulated advantages.

verl runs twice, with one command: three updates with a checkpoint after the second, and the third one again from that
checkpoint. Half of the episodes are the expert's, so every group has won and lost episodes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from empg.credit import modulate_advantages, outcome_advantages
from empg.recipe import Recipe, load_recipe
from empg.rollout.demonstrations import as_episode, demonstrate
from empg.run.build import build_agent, build_policy
from empg.run.evaluate import panel_of
from tests import ROOT
from tests.engines.tiny import POLICY

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(util.find_spec("verl") is None, reason="verl is not installed: make test-verl runs these tests"),
]

LIMIT = 360
"""Seconds after which a run of verl is ended; it takes about 60 on two free cores."""

GROUPS, GROUP_SIZE, UPDATES, VALIDATED = 2, 4, 3, 2

RECIPE = {
    "iterations": UPDATES,
    "environment": {"max_steps": 12, "options": {"rooms": "small"}},
    "policy": POLICY,
    "rollout": {"groups": GROUPS, "group_size": GROUP_SIZE, "max_turn_tokens": 40, "max_episode_tokens": 768},
    "evaluation": {"splits": ["valid_seen"], "episodes": VALIDATED},
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
        f"data.train_batch_size={GROUPS}",
        "data.max_prompt_length=128",
        "data.max_response_length=640",
        "data.filter_overlong_prompts=False",
        "data.dataloader_num_workers=0",
        "algorithm.adv_estimator=grpo",
        f"{model}.path={folder}/model",
        f"{model}.use_remove_padding=False",
        f"{model}.enable_gradient_checkpointing=False",
        f"+{model}.override_config.attn_implementation=sdpa",
        f"{actor}.strategy=fsdp2",
        f"{actor}.ppo_mini_batch_size={GROUPS}",
        f"{actor}.ppo_micro_batch_size_per_gpu=4",
        f"{actor}.optim.lr=1e-3",
        f"{actor}.use_kl_loss=False",
        f"{actor}.checkpoint.save_contents=[model,optimizer,extra,hf_model]",
        f"{actor}.fsdp_config.use_torch_compile=False",
        f"+{actor}.fsdp_config.mixed_precision.param_dtype=fp32",
        f"+{actor}.fsdp_config.mixed_precision.reduce_dtype=fp32",
        f"{rollout}.name=empg_hf",
        f"{rollout}.n={GROUP_SIZE}",
        f"{rollout}.tensor_model_parallel_size=2",
        f"{rollout}.agent.num_workers=1",
        f"{rollout}.calculate_log_probs=True",
        f"{rollout}.log_prob_micro_batch_size_per_gpu=4",
        "trainer.device=cpu",
        "trainer.n_gpus_per_node=2",
        "trainer.nnodes=1",
        "trainer.logger=[console,file]",
        "trainer.val_before_train=False",
        f"trainer.test_freq={UPDATES}",
        "trainer.save_freq=2",
        f"trainer.total_training_steps={UPDATES}",
        f"trainer.default_local_dir={folder}/checkpoints",
        "trainer.checkpoint_callback_class=tests.engines.verl.record.Record",
        "reward.num_workers=0",  # the agent loop has the rewards
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=1",
        "ray_kwargs.ray_init.num_cpus=16",  # Ray counts them, and starts nothing without one
        "+ray_kwargs.ray_init.num_gpus=2",
        "+ray_kwargs.ray_init.include_dashboard=False",
        "+ray_kwargs.ray_init.object_store_memory=100000000",
    ]


def environment_of(folder: Path, name: str, ray_folder: str) -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}",
        "OMP_NUM_THREADS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "VERL_USE_EXTERNAL_MODULES": "tests.engines.verl.cpu",
        "VERL_ENGINE_DEVICE": "cuda",
        "VERL_FILE_LOGGER_PATH": str(folder / f"{name}.jsonl"),
        "HYDRA_FULL_ERROR": "1",
        "RAY_TMPDIR": ray_folder,
        "RAY_DEDUP_LOGS": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray would start a process per logical CPU in advance, all at once.
        "RAY_enable_worker_prestart": "0",
        "RAY_prestart_worker_first_driver": "0",
        "RAY_worker_niceness": "0",  # of 15, so that any other work on the machine would go first
        "RAY_worker_maximum_startup_concurrency": "2",
        # Ray's own limits suit a machine whose cores are free; ours is `LIMIT`.
        "RAY_DASHBOARD_STARTUP_TIMEOUT_S": str(LIMIT),
        "RAY_agent_register_timeout_ms": str(LIMIT * 1000),
        "RAY_gcs_server_port_wait_time_s": str(LIMIT),
        "RAY_gcs_server_request_timeout_seconds": str(LIMIT),
        "RAY_health_check_failure_threshold": "100",
        "RAY_raylet_start_wait_time_s": str(LIMIT),
        "RAY_worker_register_timeout_seconds": str(LIMIT),
    }


def train(folder: Path, name: str) -> list[dict[str, float]]:
    """Run verl and return its metrics, step by step."""
    log = folder / f"{name}.log"
    # The paths of Ray's sockets must be short.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "verl.trainer.main_ppo", *overrides(folder)],
                env=environment_of(folder, name, ray_folder),
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            ended = f"ended with status {process.wait(LIMIT)}"
        except subprocess.TimeoutExpired:
            ended = f"did not end within {LIMIT} s"
        finally:
            end(process)
    if process.returncode != 0:
        pytest.fail(f"verl {ended}. The end of its output:\n{log.read_text(errors='replace')[-6000:]}", pytrace=False)
    lines = map(json.loads, (folder / f"{name}.jsonl").read_text().splitlines())
    return [{"step": line["step"], **line["data"]} for line in lines]


def end(process: subprocess.Popen[bytes]) -> None:
    """End verl and what Ray has started for it."""
    for kind in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)


def expert_plays(recipe: Recipe, agent: Any) -> list[list[tuple[list[int], list[int]]]]:
    """The expert's episode of every task: what it has read before each turn, and the turn."""
    plays: list[list[tuple[list[int], list[int]]]] = []
    for split, tasks in (("train", range(UPDATES * GROUPS)), ("valid_seen", panel_of(recipe, "valid_seen").tasks)):
        environment = recipe.environment.make(split)
        for task in tasks:
            turns = demonstrate(environment, task, 0.0, ())
            episode, _ = as_episode(turns, agent, recipe.rollout.max_episode_tokens)
            assert len(episode.turns) == len(turns)
            context: list[int] = []
            plays.append([])
            for turn in episode.turns:
                plays[-1].append(([*context, *turn.prompt_ids], turn.action_ids))
                context += [*turn.prompt_ids, *turn.action_ids]
    return plays


@dataclass(frozen=True)
class Trained:
    """What the two runs have left."""

    folder: Path
    whole: list[dict[str, float]]
    resumed: list[dict[str, float]]

    def batch(self, name: str) -> dict[str, Any]:
        return dict(torch.load(self.folder / "checkpoints" / name / "batch.pt", weights_only=True))

    def weights(self, name: str) -> dict[str, torch.Tensor]:
        return load_file(self.folder / "checkpoints" / name / "actor" / "huggingface" / "model.safetensors")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from empg.engines.verl.tasks import write_tasks

    folder = tmp_path_factory.mktemp("verl")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    recipe = load_recipe(folder / "recipe.yaml")
    write_tasks(recipe, folder)
    policy = build_policy(recipe)
    policy.model.save_pretrained(folder / "model")
    policy.tokenizer.save_pretrained(folder / "model")
    (folder / "model" / "expert.json").write_text(json.dumps(expert_plays(recipe, build_agent(recipe, policy))))

    whole = train(folder, "whole")
    checkpoints = folder / "checkpoints"
    (checkpoints / "global_step_3").rename(checkpoints / "uninterrupted")
    (checkpoints / "latest_checkpointed_iteration.txt").write_text("2")
    return Trained(folder, whole, train(folder, "resumed"))


def test_every_step_plays_scores_and_modulates(trained: Trained) -> None:
    assert [step["step"] for step in trained.whole] == [1, 2, 3]
    for step in trained.whole:
        assert step["critic/score/mean"] == 0.5
        assert step["credit/steps_per_episode"] > 1
        assert step["credit/advantage_abs_mean"] > 0
        assert step["credit/scale_min"] < step["credit/scale_max"]
        assert step["entropy/step_mean"] > 0
        assert step["actor/grad_norm"] > 0
        assert step["training/rollout_probs_diff_max"] < 1e-4  # the rollout engine has the weights of the trainer


def test_validation_has_a_score(trained: Trained) -> None:
    for steps in (trained.whole, trained.resumed):
        assert steps[-1]["val-core/alfworld/valid_seen/reward/mean@1"] == 1.0
        assert steps[-1]["val-aux/alfworld/valid_seen/success/mean@1"] == 1.0


@pytest.mark.parametrize("name", ["global_step_2", "uninterrupted", "global_step_3"])
def test_the_policy_update_reads_the_advantages_of_the_library(name: str, trained: Trained) -> None:
    batch = trained.batch(name)
    steps = torch.full_like(batch["response_mask"], -1)
    for row, ids in zip(steps, batch["steps"], strict=True):
        row[: len(ids)] = torch.tensor(ids)
    uids = [key.split("_")[0] for key in batch["keys"]]
    groups = torch.tensor([sorted(set(uids)).index(uid) for uid in uids])
    outcome = outcome_advantages(batch["rm_scores"].sum(1), groups)
    expected = modulate_advantages(outcome, batch["entropy"], steps, zeta=0.2)
    torch.testing.assert_close(batch["advantages"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(batch["returns"], outcome[:, None] * batch["response_mask"], atol=1e-5, rtol=1e-5)
    assert (batch["advantages"] - batch["returns"]).abs().max() > 0.01


def test_the_updates_change_the_weights(trained: Trained) -> None:
    weights = [load_file(trained.folder / "model" / "model.safetensors")]
    weights += [trained.weights(name) for name in ("global_step_2", "uninterrupted")]
    for before, after in itertools.pairwise(weights):
        for name in before:
            assert 0 < (after[name] - before[name]).abs().max() < 0.01, name


def test_the_resumed_run_repeats_the_step_after_the_checkpoint(trained: Trained) -> None:
    """Weights, optimizer, tasks and version are those of the checkpoint: step 3 ends with the same weights."""
    assert [step["step"] for step in trained.resumed] == [3]
    assert trained.resumed[0]["training/off_policy/trajectory_staleness/max"] == 0
    for name in ("entropy/step_mean", "credit/advantage_abs_mean", "credit/scale_max", "response_length/mean"):
        assert trained.resumed[0][name] == pytest.approx(trained.whole[2][name], rel=1e-4), name
    once, again = trained.weights("uninterrupted"), trained.weights("global_step_3")
    for name in once:
        torch.testing.assert_close(again[name], once[name], atol=1e-5, rtol=1e-4)
