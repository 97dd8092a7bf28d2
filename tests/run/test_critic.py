"""A run with a critic: it is trained, kept, and resumed to the last bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from empg.recipe import parse_recipe
from empg.run.build import resolve
from empg.run.train import train

# Few turns fit into 128 tokens, so the penalty gives some episodes a return.
RECIPE = """
iterations: 4
algorithm: ppo+empg
checkpoint_every: 2
environment: {max_steps: 4, options: {rooms: small}}
policy:
  device: cpu
  tiny: {hidden_size: 32, layers: 2, heads: 2, kv_heads: 1, intermediate_size: 64, vocab_size: 400}
warm_start: {episodes: 16, episodes_per_step: 8}
rollout: {groups: 6, group_size: 1, max_turn_tokens: 24, max_episode_tokens: 128, slots: 4}
credit: {overlong_penalty: 1.0, overlong_ramp: 0.9, critic: {lr: 0.02}}
optimizer: {minibatches: 2, epochs: 2}
evaluation: {splits: [valid_seen], episodes: 1}
"""


@pytest.mark.slow
def test_a_run_with_a_critic_resumes_to_the_last_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe, run = parse_recipe(yaml.safe_load(RECIPE)), tmp_path / "run"

    def trained() -> tuple[list[dict[str, Any]], dict[str, dict[str, torch.Tensor]]]:
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        numbers = [
            {key: value for key, value in record.items() if not key.startswith("time")}
            for record in records
            if record["kind"] == "train"
        ]
        files = ("model.safetensors", "critic.safetensors")
        return numbers, {name: load_file(run / "checkpoints" / "iter-000004" / name) for name in files}

    recipe = resolve(recipe)
    train(recipe, run)
    numbers, tensors = trained()
    train(recipe, run, resume=True, back_to="iter-000002")
    again, tensors_again = trained()
    assert again == numbers
    for name, kept in tensors.items():
        assert all(torch.equal(tensors_again[name][key], value) for key, value in kept.items())
    assert bool(tensors["critic.safetensors"]["weight"].any())
    assert [record["policy/value_loss"] > 0 for record in numbers] == [True] * 4
