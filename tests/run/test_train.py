"""A whole run, as a person starts it: by the command, in processes of its own, killed and resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

EMPG = str(Path(sys.executable).with_name("empg"))

RECIPE = """
iterations: 4
workers: {workers}
checkpoint_every: 2
environment: {{max_steps: 4, options: {{rooms: small}}}}
policy:
  device: cpu
  tiny: {{hidden_size: 32, layers: 2, heads: 2, kv_heads: 1, intermediate_size: 64, vocab_size: 400}}
agent: {{history: {history}}}
warm_start: {{episodes: 32, episodes_per_step: 8}}
rollout: {{groups: 2, group_size: 3, max_turn_tokens: 24, max_episode_tokens: 512, slots: 4}}
loss: {{kl_coef: 0.01, entropy_coef: 0.001}}
optimizer: {{minibatches: 2, autocast: true, lr: 1.0e-3}}
evaluation: {{episodes: 4, every: 3}}
"""


def command(recipe: Path, run: Path, *more: str) -> list[str]:
    return [EMPG, "train", str(recipe), "--run", str(run), *more]


@pytest.fixture
def surroundings(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}


def write_recipe(tmp_path: Path, workers: int = 1, history: str = "merged") -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE.format(workers=workers, history=history))
    return path


def metrics(run: Path) -> list[dict[str, Any]]:
    """The records without what a clock says."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {k: v for k, v in record.items() if not k.startswith("time") and k not in ("started", "command")}
        for record in records
    ]


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / name / "model.safetensors")


def trained_iterations(run: Path) -> int:
    path = run / "metrics.jsonl"
    return sum('"train"' in line for line in path.read_text().splitlines()) if path.exists() else 0


def run_to_the_end(arguments: list[str], surroundings: dict[str, str]) -> str:
    done = subprocess.run(arguments, env=surroundings, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "history"), [(1, "merged"), (2, "merged"), (1, "per_turn")])
def test_a_killed_run_resumes_as_if_nothing_had_happened(
    tmp_path: Path, surroundings: dict[str, str], workers: int, history: str
) -> None:
    recipe = write_recipe(tmp_path, workers, history)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run_to_the_end(command(recipe, whole), {**surroundings, "PYTHONHASHSEED": "1"})

    process = subprocess.Popen(
        command(recipe, killed),
        env={**surroundings, "PYTHONHASHSEED": "2"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 240
    while trained_iterations(killed) < 3:  # after the checkpoint of iteration 2, so that some work is lost
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "checkpoints" / "iter-000004").exists()

    run_to_the_end(command(recipe, killed, "--resume"), {**surroundings, "PYTHONHASHSEED": "3"})
    # The first run had to warm up, the second found that in the cache; all else is equal to the last bit.
    wanted = [record for record in metrics(whole) if record["kind"] != "warm_start"]
    assert [r for r in metrics(killed) if r["kind"] != "warm_start"] == wanted
    trained = [record for record in wanted if record["kind"] == "train"]
    assert [record["rollout/episodes"] for record in trained] == [6] * 4  # all groups, however many workers
    assert [record["rollout/groups"] for record in trained] == [2] * 4
    assert any(record["policy/grad_norm"] > 0 for record in trained)
    for name in ("start", "iter-000004"):
        a, b = weights(whole, name), weights(killed, name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert not torch.equal(
        weights(whole, "start")["model.embed_tokens.weight"], weights(whole, "iter-000004")["model.embed_tokens.weight"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_dynamic_sampling_draws_until_the_batch_is_full_or_its_budget_is_used(
    tmp_path: Path, surroundings: dict[str, str], workers: int
) -> None:
    """So small a policy wins nothing in two turns: every group has zero variance, and every round draws two more."""
    recipe, run = write_recipe(tmp_path, workers), tmp_path / "run"
    sampling = ["credit.drop_zero_variance=true", "credit.max_resample=2"]
    run_to_the_end(command(recipe, run, "iterations=1", "environment.max_steps=2", *sampling), surroundings)
    [record] = [record for record in metrics(run) if record["kind"] == "train"]
    assert (record["rollout/groups"], record["rollout/episodes"]) == (6, 18)
    assert (record["credit/zero_variance_groups"], record["tokens/trained"]) == (1.0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["dapo", "gspo", "gigpo+empg"])
def test_every_kind_of_preset_trains(tmp_path: Path, surroundings: dict[str, str], algorithm: str) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    run_to_the_end(command(recipe, run, f"algorithm={algorithm}", "iterations=1"), surroundings)
    [record] = [record for record in metrics(run) if record["kind"] == "train"]
    assert 2 <= record["rollout/groups"] <= (8 if algorithm == "dapo" else 2)
    assert "advantage: grpo" in (run / "recipe.yaml").read_text() or algorithm == "gigpo+empg"


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(
    tmp_path: Path, surroundings: dict[str, str]
) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    run_to_the_end(command(recipe, run), surroundings)
    before = metrics(run)
    damaged = run / "checkpoints" / "iter-000004" / "model.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(content)
    said = run_to_the_end(command(recipe, run, "--resume"), surroundings)
    assert "iter-000004" in said
    assert "damaged" in said
    assert metrics(run) == before


@pytest.mark.slow
def test_a_damaged_start_stops_only_those_who_need_it(tmp_path: Path, surroundings: dict[str, str]) -> None:
    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    run_to_the_end(command(recipe, run, "loss.kl_coef=0"), surroundings)
    before = metrics(run)
    (run / "checkpoints" / "start" / "checksums.json").write_text("null")
    shutil.rmtree(run / "checkpoints" / "iter-000004")
    said = run_to_the_end(command(recipe, run, "loss.kl_coef=0", "--resume"), surroundings)
    assert "checkpoints/start: checksums.json is damaged" in said
    assert [r for r in metrics(run) if r["kind"] != "warm_start"] == [r for r in before if r["kind"] != "warm_start"]

    resolved = run / "recipe.yaml"  # with a KL penalty it is the reference
    resolved.write_text(resolved.read_text().replace("kl_coef: 0.0", "kl_coef: 0.01"))
    stopped = subprocess.run(
        command(recipe, run, "--resume"), env=surroundings, capture_output=True, text=True, timeout=200
    )
    assert stopped.returncode == 1
    assert "checkpoints/start: checksums.json is damaged" in stopped.stderr
    assert "Traceback" not in stopped.stderr


@pytest.mark.slow
def test_a_run_leaves_everything_readable(tmp_path: Path, surroundings: dict[str, str]) -> None:
    import pyarrow.parquet as pq

    recipe, run = write_recipe(tmp_path), tmp_path / "run"
    said = run_to_the_end(command(recipe, run, "seed=5"), surroundings)
    assert str(run / "report.html") in said
    assert "seed: 5" in (run / "recipe.yaml").read_text()
    assert "<html" in (run / "report.html").read_text()
    table = pq.read_table(run / "episodes" / "iter-000001.parquet")
    for column in ("entropy", "scale", "clarity", "advantage"):
        assert table.column(column).null_count < table.num_rows
    assert list((run / "tensorboard").iterdir())
    kinds = [record["kind"] for record in metrics(run)]
    assert kinds.count("eval") == 6  # two splits: before, at iteration 3, after
    evaluated = subprocess.run(
        [EMPG, "evaluate", str(run), "--checkpoint", "start", "--split", "valid_seen"],
        env=surroundings,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert evaluated.returncode == 0, evaluated.stderr
    first = next(r for r in metrics(run) if r["kind"] == "eval")
    again = metrics(run)[-1]
    assert again == first  # the same policy, panel and rng
