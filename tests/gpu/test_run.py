"""Whole runs on a GPU, started by the command."""

from __future__ import annotations

import gc
import json
import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from empg.recipe import load_recipe
from empg.record.runfolder import RunFolder
from empg.run.build import resolve
from empg.run.footprint import footprint, model_shape
from empg.run.train import train as run_training
from tests.gpu.models import needs_gpu

pytestmark = needs_gpu

RECIPE = """
iterations: 4
checkpoint_every: 1
environment: {max_steps: 4, options: {rooms: small}}
policy:
  device: cuda
  tiny: {hidden_size: 64, layers: 2, heads: 2, kv_heads: 1, intermediate_size: 128, vocab_size: 400}
agent: {history: merged}
warm_start: {episodes: 64, episodes_per_step: 8}
rollout: {groups: 4, group_size: 4, max_turn_tokens: 24, max_episode_tokens: 512, slots: 16}
loss: {kl_coef: 0.01, entropy_coef: 0.001}
optimizer: {minibatches: 2, autocast: true, gradient_checkpointing: true, lr: 1.0e-3}
evaluation: {episodes: 8, every: 2}
"""


def train(folder: Path, run: str, *more: str) -> list[str]:
    (folder / "recipe.yaml").write_text(RECIPE)
    return [sys.executable, "-m", "empg", "train", str(folder / "recipe.yaml"), "--run", str(folder / run), *more]


@pytest.fixture(scope="module")
def surroundings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


def measured(run: Path) -> list[Any]:
    """Entropy and gradient norm of each iteration."""
    keys = "entropy/step_mean", "policy/grad_norm"
    return [[record[key] for key in keys] for record in RunFolder.open(run).read_metrics() if record["kind"] == "train"]


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_a_run_is_stopped_and_resumed(tmp_path: Path, surroundings: dict[str, str], compiled: bool) -> None:
    more = f"optimizer.compile={str(compiled).lower()}"
    whole = subprocess.run(train(tmp_path, "whole", more), env=surroundings, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    cut = train(tmp_path, "cut", more)
    process = subprocess.Popen(cut, env=surroundings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    while process.poll() is None and not list((tmp_path / "cut" / "checkpoints").glob("*1")):
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, said
    again = subprocess.run([*cut, "--resume"], env=surroundings, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    print(json.dumps({"whole": measured(tmp_path / "whole"), "resumed": measured(tmp_path / "cut")}))
    assert len(measured(tmp_path / "cut")) == 4
    records = RunFolder.open(tmp_path / "cut").read_metrics()
    named = [record["gpu"] for record in records if record["kind"] in ("run", "resume")]
    assert named == [torch.cuda.get_device_name()] * 2


def test_more_workers_than_devices_are_an_error(tmp_path: Path, surroundings: dict[str, str]) -> None:
    count = torch.cuda.device_count() + 1
    more = [f"workers={count}", f"rollout.groups={2 * count}"]
    done = subprocess.run(train(tmp_path, "run", *more), env=surroundings, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"workers: expected at most {count - 1}, one per CUDA device, got {count}" in done.stderr


def test_too_little_memory_is_an_error_that_says_what_to_change(tmp_path: Path, surroundings: dict[str, str]) -> None:
    more = [
        "policy.tiny.kv_heads=2",
        "policy.tiny.max_positions=262144",
        "rollout.max_episode_tokens=262144",
        "rollout.slots=1024",
        "rollout.groups=64",
        "rollout.group_size=16",
    ]
    done = subprocess.run(train(tmp_path, "run", *more), env=surroundings, capture_output=True, text=True)
    print(done.stderr[-2000:])
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "rollout.slots" in done.stderr


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
@pytest.mark.parametrize("recomputed", [False, True], ids=["kept", "recomputed"])
def test_a_run_needs_the_memory_that_doctor_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recomputed: bool, compiled: bool
) -> None:
    """Doctor counts the longest prompts that fit into a pass; the prompts of this run are shorter."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    shape = "{hidden_size: 1024, layers: 12, heads: 16, kv_heads: 4, intermediate_size: 4096, vocab_size: 2000}"
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(
        tmp_path / "recipe.yaml",
        [
            f"policy.tiny={shape}",
            "iterations=1",
            "rollout.max_episode_tokens=2048",
            "optimizer.micro_batch_tokens=8192",
            f"optimizer.gradient_checkpointing={str(recomputed).lower()}",
            f"optimizer.compile={str(compiled).lower()}",
            "environment.max_steps=30",
            "rollout.groups=16",
            "rollout.slots=64",
            "evaluation.episodes=1",
        ],
    )
    parts = footprint(model_shape(recipe), recipe, on_cpu=False)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run_training(resolve(recipe), tmp_path / "run")
    used, counted = torch.cuda.max_memory_allocated() - before, parts.total - parts.process
    print(f"memory: {used / 2**30:.2f} GiB used, {counted / 2**30:.2f} GiB counted ({parts})")
    assert 0.6 * counted <= used <= 1.1 * counted


@pytest.mark.skipif(find_spec("trl") is None, reason="needs TRL")
def test_the_same_recipe_runs_on_trl(tmp_path: Path, surroundings: dict[str, str]) -> None:
    more = ["--engine", "trl", "iterations=2", "optimizer.old_logprobs=recomputed"]
    done = subprocess.run(train(tmp_path, "run", *more), env=surroundings, capture_output=True, text=True)
    print(done.stdout[-1500:], done.stderr[-1500:])
    assert done.returncode == 0
    assert len(measured(tmp_path / "run")) == 2
