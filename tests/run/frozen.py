"""Frozen curves: short seeded runs of the shipped recipes, whose numbers a refactoring must reproduce.

Renew them, after a change that is meant to change results, with:  make freeze
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests import ROOT

FROZEN = Path(__file__).with_name("frozen.json")
RECIPES = ("demo", "webshop", "deepsearch")
SMALL = (
    "iterations=3",
    "checkpoint_every=3",
    "policy.device=cpu",
    "policy.tiny={hidden_size: 64, layers: 2, heads: 2, kv_heads: 1, intermediate_size: 128, vocab_size: 512}",
    "warm_start.episodes=96",
    "warm_start.episodes_per_step=8",
    "rollout.groups=4",
    "rollout.group_size=4",
    "rollout.slots=8",
    "credit.drop_zero_variance=false",  # so small a policy wins nothing: the clarity bonus is what it learns from
    "optimizer.autocast=false",
    "evaluation.episodes=12",
)
CURVES = ("policy/loss", "policy/grad_norm", "entropy/step_mean", "rollout/reward", "rollout/turns")


def machine() -> str:
    """What decides the last bit of a result: processor, its instructions, and the packages that compute."""
    info = Path("/proc/cpuinfo")
    lines = dict(line.split(":", 1) for line in info.read_text().split("\n\n")[0].splitlines()) if info.exists() else {}
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    processor = " ".join(fields.get(key, "?") for key in ("vendor_id", "cpu family", "model"))
    packages = " ".join(f"{name} {version(name).split('+')[0]}" for name in ("torch", "transformers", "tokenizers"))
    return f"{platform.machine()} {processor} {torch.backends.cpu.get_cpu_capability()} {packages}"


def curve(recipe: str) -> dict[str, Any]:
    """Train a small version of a recipe for three iterations, in processes of its own."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "XDG_CACHE_HOME": f"{folder}/cache", "OMP_NUM_THREADS": "1"}
        command = [str(Path(sys.executable).with_name("empg")), "train", str(ROOT / "recipes" / f"{recipe}.yaml")]
        run = Path(folder) / "run"
        done = subprocess.run(
            [*command, *SMALL, "--run", str(run)], env=environment, capture_output=True, text=True, timeout=560
        )
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        train = [record for record in records if record["kind"] == "train"]
        return {
            "warm_start": [record["loss"] for record in records if record["kind"] == "warm_start"],
            **{name: [record[name] for record in train] for name in CURVES},
            "start": _digest(run / "checkpoints" / "start"),
            "end": _digest(run / "checkpoints" / "iter-000003"),
        }


def _digest(checkpoint: Path) -> str:
    weights = load_file(checkpoint / "model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    known = json.loads(FROZEN.read_text()) if FROZEN.exists() else {}
    known[machine()] = {recipe: curve(recipe) for recipe in RECIPES}
    FROZEN.write_text(json.dumps(known, indent=1) + "\n")
    print(f"{FROZEN.relative_to(ROOT)}: {machine()}")
