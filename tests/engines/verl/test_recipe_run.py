"""`empg train --engine verl` itself, on one process without a GPU: a run, its continuation, and what reads it."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import util
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from empg.cli import app
from empg.policy.model import Policy
from empg.record.runfolder import RunFolder
from empg.run.build import build_policy
from tests.engines.trl.parts import SMALL, small_recipe
from tests.engines.verl.test_training import LIMIT, end, environment_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(util.find_spec("verl") is None, reason="verl is not installed: make test-verl runs these tests"),
]

RECIPE: dict[str, Any] = {
    **SMALL,
    "agent": {"history": "per_turn"},  # so that a row is a turn, and the batch is padded
    "rollout": {**SMALL["rollout"], "max_turn_tokens": 12},
    "credit": {"invalid_penalty": 0.1},
    "loss": {"aggregation": "token_mean"},
    "optimizer": {**SMALL["optimizer"], "minibatches": 2},
    "verl": {
        "trainer": {"n_gpus_per_node": 1, "nnodes": 1},
        "actor_rollout_ref": {
            "model": {"use_remove_padding": False},
            "actor": {"fsdp_config": {"use_torch_compile": False}},
            "rollout": {"name": "empg_hf", "agent": {"num_workers": 1}},
        },
        "+actor_rollout_ref.model.override_config.attn_implementation": "sdpa",
        "reward.num_workers": 1,
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        "ray_kwargs.ray_init.num_cpus": 16,  # Ray counts them, and starts nothing without one
        "+ray_kwargs.ray_init.num_gpus": 1,
        "+ray_kwargs.ray_init.include_dashboard": False,
    },
}


def train(folder: Path, *more: str) -> None:
    """Run `empg train --engine verl` into `folder/run`."""
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:
        command = ["train", str(folder / "recipe.yaml"), "--engine", "verl", "--run", str(folder / "run"), *more]
        with (folder / "log.txt").open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "empg", *command],
                env=environment_of(folder, "run", ray_folder),
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            process.wait(2 * LIMIT)
        finally:
            end(process)
    assert process.returncode == 0, (folder / "log.txt").read_text(errors="replace")[-6000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two iterations that was continued to a third one."""
    folder = tmp_path_factory.mktemp("verl")
    policy: Policy = build_policy(small_recipe())
    policy.model.save_pretrained(folder / "model")
    policy.tokenizer.save_pretrained(folder / "model")
    (folder / "model" / "expert.json").write_text("[]")  # of the rollout engine of the tests: it only samples here
    recipe = {**RECIPE, "policy": {"device": "cpu", "model": str(folder / "model")}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    train(folder)
    train(folder, "--resume", "iterations=3")
    return folder


def test_the_run_folder_has_the_records_of_every_iteration(folder: Path) -> None:
    run = RunFolder.open(folder / "run")
    records = run.read_metrics()
    assert [f"{r['kind']} {r.get('iteration', '')}".strip() for r in records] == [
        "run", "eval 0", "train 1", "train 2", "eval 2", "resume", "train 3", "eval 3",
    ]  # fmt: skip
    for record in records:
        if record["kind"] == "train":
            assert record["rollout/episodes"] == 8
            assert record["policy/grad_norm"] > 0
            assert record["policy/mismatch"] < 1e-4  # the rollout engine has the weights of the trainer
            assert record["tokens/trained"] == record["tokens/sampled"]
            assert record["credit/scale_min"] < record["credit/scale_max"]
    assert run.episode_iterations() == [1, 2, 3]
    turns = run.read_episodes(3)
    assert all(len(ids) == n for ids, n in zip(turns["action_ids"], turns["num_action_tokens"], strict=True))
    assert sum(turns["advantage"]) == pytest.approx(0, abs=1e-4)  # EMPG centres over the steps
    assert {round(reward, 6) for reward in turns["process_reward"]} <= {0.0, -0.1}


def test_the_commands_read_the_run(folder: Path) -> None:
    local = ["train", str(folder / "recipe.yaml"), "--run", str(folder / "local")]
    for command in (
        local,
        ["compare", str(folder / "local"), str(folder / "run"), "--iteration-a", "0", "--iteration-b", "0"],
        ["report", str(folder / "run")],
    ):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    mine, theirs = (
        [sorted(key for key in r if key != "nonfinite") for r in RunFolder.open(folder / name).read_metrics()
         if r["kind"] in ("train", "eval")][:3]
        for name in ("local", "run")
    )  # fmt: skip
    assert theirs == mine
