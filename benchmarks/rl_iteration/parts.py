"""The three parts of the benchmark; each returns its results as plain data."""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from safetensors.torch import load_file

from benchmarks.rl_iteration import floors
from benchmarks.rl_iteration.empg_side import Decoding, gradients
from benchmarks.rl_iteration.process import Side, alternate
from benchmarks.rl_iteration.setting import Setting
from benchmarks.rl_iteration.transformers_side import decoding_seconds, load, token_row

Result = dict[str, Any]


def has_trl() -> bool:
    """Whether TRL is installed."""
    return importlib.util.find_spec("trl") is not None


def rollout(setting: Setting, runs: int) -> Result:
    """Play and learn: whole iterations on the same tasks with the same random numbers."""
    sides = {"empg": Side("empg_side.iterations", setting, True)}
    if has_trl():
        sides["trl"] = Side("trl_side.iterations", setting, True, runs + 1)
    results = alternate(sides, runs)
    ids = {name: [run.pop("written_ids") for run in steps] for name, steps in results.items()}
    if not has_trl():
        return {"runs": results}
    pairs = [pair for run in zip(ids["empg"], ids["trl"], strict=True) for pair in zip(*run, strict=True)]
    return {"runs": results, "identical_episodes": sum(ours == theirs for ours, theirs in pairs) / len(pairs)}


def update(setting: Setting, runs: int) -> Result:
    """Learn from the fixed episodes; first compare losses, advantages and gradients of both learners."""
    sides = {"empg": Side("empg_side.iterations", setting, False), "bare": Side("transformers_side.updates", setting)}
    if has_trl():
        sides["trl"] = Side("trl_side.iterations", setting, False, runs + 1)
    results = alternate(sides, runs)
    rows = [token_row(episode) for episode in setting.episodes()]
    lengths, written = [len(ids) for ids, _ in rows], sum(step >= 0 for _, steps in rows for step in steps)
    torch.set_num_threads(setting.threads)
    machine, shape = floors.measure(), floors.Shape.of(load(setting.policy_folder).config)
    flops = shape.training_flops(lengths, written)
    found: Result = {
        "runs": results,
        "tokens": {"rows": len(rows), "total": sum(lengths), "longest": max(lengths), "written": written},
        "flops": flops,
        "machine_flops": machine.flops,
        "floor_seconds": flops / machine.flops,
    }
    if has_trl():
        found["agreement"] = _agreement(setting, results["empg"][0], results["trl"][0])
    for run in (run for steps in results.values() for run in steps):
        run.pop("advantages", None)  # compared; too long to keep
        run.pop("written_ids", None)
    return found


def _agreement(setting: Setting, ours: Result, theirs: Result) -> dict[str, float]:
    """Differences of the first step: absolute ones of loss and advantages, and that of the gradients relative to it."""
    mine, other = (load_file(gradients(setting, side)) for side in ("empg", "trl"))
    assert mine.keys() == other.keys()
    apart = sum(float((mine[name].double() - other[name].double()).square().sum()) for name in mine) ** 0.5
    size = sum(float(value.double().square().sum()) for value in mine.values()) ** 0.5
    steps = [len(turn.action_ids) for episode in setting.episodes() for turn in episode.turns]
    spread = torch.tensor(ours["advantages"]).repeat_interleave(torch.tensor(steps))
    return {
        "loss": abs(ours["loss"] - theirs["loss"]),
        "advantage": float((spread - torch.tensor(theirs["advantages"])).abs().max()),
        "gradient": apart / size,
        "gradient_norm": size,
    }


def decode(setting: Setting, runs: int) -> Result:
    """Decode with every slot busy: empg's collector, and transformers with a dynamic and a static cache."""
    torch.set_num_threads(setting.threads)
    slots, shortest, longest, tokens = (4, 20, 30, 8) if setting.small else (64, 300, 372, 128)
    recipe = setting.recipe
    ours = Decoding(setting.policy(), recipe, slots, shortest, longest, tokens)
    model = load(setting.policy_folder).eval()
    temperature = recipe.rollout.temperature
    calls = {
        "empg": ours.seconds,
        "dynamic cache": lambda: decoding_seconds(model, ours.prompts, tokens, temperature, static=False),
        "static cache": lambda: decoding_seconds(model, ours.prompts, tokens, temperature, static=True),
    }
    rates: dict[str, list[float]] = {name: [] for name in calls}
    for run in range(runs + 1):
        for name, call in calls.items() if run % 2 else reversed(calls.items()):
            seconds = call()
            if run:  # the first one warms up
                rates[name].append(slots * tokens / seconds)
    machine, shape = floors.measure(), floors.Shape.of(model.config)
    contexts = [len(prompt) + tokens / 2 for prompt in ours.prompts]
    read, flops = shape.decoding_bytes(contexts), shape.decoding_flops(contexts)
    return {
        "tokens_per_second": rates,
        "slots": slots,
        "contexts": [min(map(len, ours.prompts)), max(map(len, ours.prompts)) + tokens],
        "bytes_per_step": read,
        "flops_per_step": flops,
        "machine_flops": machine.flops,
        "machine_bandwidth": machine.bandwidth,
        "floor_tokens_per_second": {
            "memory": slots * machine.bandwidth / read,
            "matrix products": slots * machine.flops / flops,
        },
    }


PARTS = {"rollout": rollout, "update": update, "decode": decode}
